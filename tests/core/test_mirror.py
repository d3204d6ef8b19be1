"""A folder and its mirror in a store: fsspec's file system in memory, and machines with caches."""

import json
import shutil

import pytest

from ftjax.core import mirror
from tests.stand_in_store import objects, texts, write


def step(folder, number, files=None):
    """Write a checkpoint as a run commits it: in a draft, which is renamed."""
    draft = folder / "checkpoints" / f"{number}.orbax-checkpoint-tmp"
    write(draft, files or {"state/a": f"a{number}", "meta": "{}"})
    mirror.digest.write(draft)
    draft.rename(draft.with_name(str(number)))


def test_what_is_written_here_is_there_and_on_the_next_machine(machine, store):
    first = machine("first")
    first.begin()
    write(first.folder, {"metrics.jsonl": "1\n", "evals/0.npz": "x", ".draft.tmp": "half"})
    step(first.folder, 2)
    (first.folder / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir()
    write(first.folder, {"checkpoints/4.orbax-checkpoint-tmp/state": "half", "lock.json": "{}"})
    assert first.send()
    assert not first.send()  # nothing has changed
    whole = {"metrics.jsonl", "evals/0.npz"} | {
        f"checkpoints/2/{name}" for name in ("state/a", "meta", "digest.json")
    }
    assert objects(store) == whole | {"mirror.json"}
    second = machine("second")
    second.fill()
    assert set(texts(second.folder)) == whole
    assert second.folder.name == "mine"
    assert not second.send()
    # It goes on there, and then here again: what was done here alone is replaced.
    write(second.folder, {"metrics.jsonl": "1\n2\n"})
    (second.folder / "evals" / "0.npz").unlink()
    assert second.send()
    write(first.folder, {"metrics.jsonl": "1\nother\n", "summary.json": "{}"})
    again = machine("first")
    again.fill()
    assert texts(again.folder)["metrics.jsonl"] == "1\n2\n"
    assert not {"summary.json", "evals/0.npz"} & set(texts(again.folder))


def test_only_what_changed_is_sent(machine, store, monkeypatch):
    own = machine("first")
    own.begin()
    write(own.folder, {"a": "1", "b": "1"})
    own.send()
    sent, pipe = [], type(store).pipe_file
    monkeypatch.setattr(
        type(store), "pipe_file", lambda self, path, *a, **k: sent.append(path) or pipe(
            self, path, *a, **k
        )
    )  # fmt: skip
    write(own.folder, {"b": "22"})
    own.send()
    assert [path.rpartition("/")[2] for path in sent] == ["b", "mirror.json"]


def test_a_large_file_is_copied_piece_by_piece(machine, monkeypatch):
    monkeypatch.setattr(mirror, "AT_ONCE", 3)
    own = machine("first")
    own.begin()
    write(own.folder, {"large": "12345"})
    own.send()
    other = machine("second")
    other.fill()
    assert texts(other.folder) == {"large": "12345"}


@pytest.mark.parametrize("at", range(9))  # 5 files, the index, 3 to be removed
def test_killed_while_sending_the_step_before_stays(machine, store, monkeypatch, at):
    own = machine("first")
    own.begin()
    write(own.folder, {"metrics.jsonl": "2\n"})
    step(own.folder, 2)
    own.send()
    write(own.folder, {"metrics.jsonl": "2\n4\n", "evals/4.npz": "x"})
    shutil.rmtree(own.folder / "checkpoints" / "2")
    step(own.folder, 4)
    count = [0]

    def dies(self, *args, of):
        count[0] += 1
        if count[0] > at:
            raise KeyboardInterrupt
        return of(self, *args)

    with monkeypatch.context() as patch:
        for name in ("pipe_file", "rm_file"):
            of = getattr(type(store), name)
            patch.setattr(type(store), name, lambda *a, of=of: dies(*a, of=of))
        with pytest.raises(KeyboardInterrupt):
            own.send()
    other = machine("second")
    other.fill()
    found = texts(other.folder)
    steps = {name.split("/")[1] for name in found if name.startswith("checkpoints/")}
    assert steps <= {"2", "4"}
    for each in steps:
        assert mirror.digest.problem(other.folder / "checkpoints" / each) is None
    assert steps
    if steps == {"4"}:
        assert "evals/4.npz" in found  # what it was saved behind
    other.begin()
    other.send()
    named = json.loads(store.cat_file("/bucket/runs/mine/mirror.json"))["files"]
    # Of the half that was copied nothing is left among the checkpoints.
    assert {n for n in objects(store) if n.startswith("checkpoints")} <= set(named)


def test_what_never_got_there_is_sent_by_the_next_run_here(machine, store, monkeypatch):
    own = machine("first")
    own.begin()
    step(own.folder, 2)
    own.send()
    step(own.folder, 4)
    with monkeypatch.context() as patch:
        patch.setattr(type(store), "pipe_file", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            own.send()
    again = machine("first")
    again.fill()
    assert (again.folder / "checkpoints" / "4" / "digest.json").is_file()
    again.send()
    other = machine("second")
    other.fill()
    assert (other.folder / "checkpoints" / "4" / "digest.json").is_file()


def test_what_somebody_removed_here_is_not_removed_there(machine, store):
    own = machine("first")
    own.begin()
    step(own.folder, 2)
    write(own.folder, {"export/a": "1", "metrics.jsonl": "1\n"})
    mirror.digest.write(own.folder / "export")
    own.send()
    shutil.rmtree(own.folder / "checkpoints")
    # An export that was written again has other files: no older one comes among them.
    (own.folder / "export" / "a").rename(own.folder / "export" / "b")
    mirror.digest.write(own.folder / "export")
    again = machine("first")
    again.fill()
    again.send()
    assert {"checkpoints/2/meta", "checkpoints/2/digest.json"} <= objects(store)
    assert {name for name in objects(store) if name.startswith("export")} == {
        "export/b", "export/digest.json"
    }  # fmt: skip


def test_half_a_checkpoint_is_not_listed(machine):
    folder = machine("first").folder
    step(folder, 2)
    step(folder, 4)
    (folder / "checkpoints" / "2" / "digest.json").unlink()  # as it is being removed
    (folder / "checkpoints" / "4" / "meta").unlink()
    write(folder, {"export/digest.json": '{"sha256": {"a": "0"}}', "report.html": ""})
    assert set(mirror.scan(folder)) == {"report.html"}


def test_a_folder_that_was_copied_by_hand_is_read(machine, store):
    store.pipe({"/bucket/runs/mine/a": b"1", "/bucket/runs/mine/../../x": b"out"})
    own = machine("first")
    own.fill()
    assert texts(own.folder) == {"a": "1"}


def test_an_index_that_is_none(machine, store):
    store.pipe("/bucket/runs/mine/mirror.json", b'{"version": 1, "files": [3]}')
    with pytest.raises(ValueError, match=r"mirror.json: got a file that lists no files; .*remove"):
        machine("first").fill()
