"""Self-generated replay: rows of the base's own, sampled once, by seed, and mixed in."""

import dataclasses
import json
import pathlib
import shutil

import pytest

from ftjax.run import plan as plans
from ftjax.run import replay, rewriting
from ftjax.run.artifacts import Artifacts
from ftjax.sampling.text import Answer
from tests.lab import metrics


@pytest.fixture(scope="module")
def mixed(lab):
    """Make a config whose rows are half the base's own, with an anchor on such of given prompts."""

    def make(**changes):
        own = dict(name="self", rows=8, max_new_tokens=6, kind="text", weight=0.5, label="own")
        parts = (lab.rows(weight=0.5, label="new"), own | changes)
        said = dict(name="self", rows=6, max_new_tokens=4, prompts=lab.raw())
        anchor = dict(name="kl_forward", weight=1.0, rows=8, data=dict(said, kind="prompt"))
        data = dict(name="mixture", parts=parts, max_tokens=64, packing="none")
        return {"data": data, "anchors": {"said": anchor}}

    return make


@pytest.fixture(scope="module")
def whole(lab, mixed, tmp_path_factory):
    return lab.run("whole", tmp_path_factory.mktemp("self"), **mixed())


def lines(workdir, *, key):
    found = [path.read_text() for path in sorted((workdir / "self").glob("*.jsonl"))]
    rows = [[json.loads(line) for line in text.splitlines()] for text in found]
    return next(each for each in rows if key in each[0])


def test_rows_are_kept_with_their_seed(whole):
    texts, answers = lines(whole, key="text"), lines(whole, key="response")
    assert 0 < len(texts) <= 8
    assert 0 < len(answers) <= 6
    assert all(row["text"].strip() and row["seed"] == 0 for row in texts)
    assert [row["prompt"] for row in answers][:1] == ["Q: what is 0?\nA:"]
    assert len({row["text"] for row in texts}) > 1
    assert any("anchor/said" in row for row in metrics(whole))


def test_a_run_that_goes_on_reads_its_own_rows(lab, mixed, whole, tmp_path, monkeypatch):
    work = tmp_path / "again"
    shutil.copytree(whole, work)
    monkeypatch.setattr(replay, "_sampled", lambda *args, **options: pytest.fail("sampled"))
    lab.run("again", tmp_path, **mixed())
    assert metrics(work) == metrics(whole)


def test_the_same_seed_gives_the_same_rows_and_another_one_others(lab, mixed, whole, tmp_path):
    of = lambda name, **changes: replay.fill(
        lab.settings(**mixed(**changes)), Artifacts(tmp_path / name)
    )
    same, other = of("same"), of("other", seed=1)
    path = pathlib.Path(same.data["parts"][1]["path"])
    assert path.read_bytes() == (whole / "self" / path.name).read_bytes()
    assert pathlib.Path(other.data["parts"][1]["path"]).read_bytes() != path.read_bytes()
    assert "path" not in same.plain["data"]["parts"][1]  # the config stays what it was
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ValueError, match="bytes that have changed"):
        of("same")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(rows=0), r"data\.parts\[1\]\.rows: got 0; expected at least 1"),
        (dict(rewrite="{prompt}"), r"parts\[1\]\.prompts: got none with rewrite"),
        (dict(temperature=0.0), r"data\.parts\[1\]\.temperature: got 0.0; expected above 0"),
    ],
)
def test_what_is_refused(lab, mixed, changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        replay.fill(lab.settings(**mixed(**changes)), Artifacts(tmp_path))


def test_without_a_run_there_are_no_rows(lab, mixed):
    with pytest.raises(ValueError, match="got 'self', whose rows are sampled by the run itself"):
        plans.plan(lab.settings(**mixed()))


def test_other_sections_stay_as_they_are(lab, tmp_path):
    settings = lab.settings()
    assert dataclasses.asdict(replay.fill(settings, Artifacts(tmp_path))) == (
        dataclasses.asdict(settings)
    )
    assert not tmp_path.exists() or not any(tmp_path.iterdir())


def rewritten(lab, tmp_path, **more):
    """The rows of a section that rewrites the answers of the lab's own."""
    section = dict(name="self", kind="prompt", rows=6, max_new_tokens=4, prompts=lab.raw())
    asked = dict(rewrite="{prompt} Not {response} but", max_tokens=64, **more)
    path = replay.fill(lab.settings(data=section | asked), Artifacts(tmp_path)).data["path"]
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


def test_answers_are_rewritten_where_the_base_ends_them(lab, tmp_path, capsys):
    given = [json.loads(line) for line in (lab.root / "rows.jsonl").read_text().splitlines()][:6]
    rows = rewritten(lab, tmp_path / "one", until=[" ", "a", "e", "i", "o", "n", "t", "s"])
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in given]
    count = sum(row["rewritten"] for row in rows)
    assert count > 0
    assert f"{count} of 6 answers rewritten" in capsys.readouterr().err
    for row, old in zip(rows, given, strict=True):
        assert (row["response"] == old["response"]) or row["rewritten"]
        assert (row["response"][0], row["response"][-1]) == (" ", "\n")  # as the data join them
    cut = rewritten(lab, tmp_path / "two", until=["never said"])
    assert [row["response"] for row in cut] == [row["response"] for row in given]


def test_a_rewritten_answer_must_pass_the_check():
    rows = [{"prompt": "2+2?", "response": " 4\n"}] * 4
    found = rewriting.read(rows, "{prompt} {response}", count=4, where="data")
    assert found.asked == ["2+2? 4\n".replace("? ", "?  ")] * 4
    said = [("It is 4.", True), ("It is 5.", True), ("So 4", False), ("  ", True)]
    answers = [Answer([], [], text, finished) for text, finished in said]
    check = dict(name="number", field="response")
    lines, count = rewriting.lines(found, answers, check, where="data")
    assert [line["response"] for line in lines] == [" It is 4.\n", " 4\n", " 4\n", " 4\n"]
    assert ([line["rewritten"] for line in lines], count) == ([True, False, False, False], 1)
    assert rewriting.lines(found, answers, None, where="data")[1] == 2
    assert rewriting.lines(found, answers, check | {"min_reward": 0.0}, where="data")[1] == 2


@pytest.mark.parametrize(
    ("row", "template", "message"),
    [
        (dict(prompt="a"), "{prompt}", r"data\.prompts: got a row with the fields prompt"),
        (
            dict(prompt="a", response="b"),
            "{text}",
            r"data\.rewrite: got '.text.'.*prompt, response",
        ),
    ],
)
def test_rows_and_templates_that_do_not_fit_are_refused(row, template, message):
    with pytest.raises(ValueError, match=message):
        rewriting.read([row], template, count=1, where="data")
