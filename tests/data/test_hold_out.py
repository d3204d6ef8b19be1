"""Rows that training holds back: which they are, and that nothing is on both sides."""

import pytest

from ftjax.data import hold_out, loader, prepare, rows
from ftjax.data.sources import jsonl
from tests.lab import ASSETS

ROWS = [{"prompt": f"q {i}", "response": f" a {i}"} for i in range(40)]


def sides(source, share):
    own = [hold_out.split(source, share=share, held=held) for held in (False, True)]
    return [[row["prompt"] for row in side] for side in own]


@pytest.mark.parametrize(("share", "count"), [(0.05, 2), (0.25, 10), (0.001, 1)])
def test_every_row_is_on_one_side(share, count):
    kept, held = sides(ROWS, share)
    assert sorted(kept + held) == sorted(row["prompt"] for row in ROWS)
    assert len(held) == count
    assert kept == [row["prompt"] for row in ROWS if row["prompt"] in kept]  # in order


def test_which_hangs_on_the_content_alone():
    _, held = sides(ROWS, 0.25)
    kept, turned = sides(ROWS[::-1] + ROWS, 0.25)
    assert set(turned) == set(held)  # and those that are the same stay together
    assert not set(kept) & set(turned)
    _, more = sides([*ROWS, {"prompt": "new", "response": "x"}], 0.25)
    assert len(set(more) & set(held)) >= 9


def test_no_more_than_an_evaluation_needs(monkeypatch):
    monkeypatch.setattr(hold_out, "MOST", 3)
    assert len(sides(ROWS, 0.5)[1]) == 3


def test_of_few_rows_nothing_is_held_back():
    few = ROWS[:9] * 3  # rows that are the same count once
    assert len(hold_out.split(few, share=0.5, held=False)) == 27
    with pytest.raises(hold_out.TooFew, match=r"got 0.5 of 9 rows that differ; expected 10 at"):
        hold_out.split(few, share=0.5, held=True)


def test_places_and_bad_rows_stay_with_training(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [f'{{"prompt": "q {i}", "response": "a"}}' for i in range(20)]
    path.write_text("\n".join([*lines, "[]"]))
    source = jsonl.make(path=str(path))
    kept = hold_out.split(source, share=0.25, held=False)
    held = hold_out.split(source, share=0.25, held=True)
    assert (len(kept.bad), len(held.bad)) == (1, 0)
    assert (kept.held_out, held.held_out) == (5, 15)
    for side in (kept, held):
        for i, row in enumerate(side):
            assert side.where(i) == f"{path}:{int(row['prompt'][2:]) + 1}"
    assert rows.check(kept, "prompt", on_bad_row="skip").held_out == 5


def test_the_loader_counts_them_and_keeps_each_side_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("FTJAX_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(f'{{"prompt": "q {i}", "response": "a"}}' for i in range(20)))
    own = dict(name="jsonl", path=str(path), tokenizer=ASSETS, max_tokens=32, batch_size=1)
    for _ in range(2):  # encoded, and read back
        train = loader.make(**own, hold_out=0.25).summary()
        held = loader.make(**own, hold_out=0.25, held=True).summary()
        assert (train["rows"], train["held_out"], held["rows"]) == (15, 5, 5)
    assert loader.make(**own).summary()["held_out"] == 0


def test_a_mixture_has_data_of_its_own(tmp_path):
    parts = (dict(name="embedded", domain="skills", rows=20, weight=1.0),)
    own = dict(name="mixture", parts=parts, tokenizer=ASSETS, max_tokens=64, batch_size=1)
    with pytest.raises(ValueError, match=r"data.hold_out: got 0.1 of a mixture; expected 0"):
        loader.make(**own, hold_out=0.1)
    with pytest.raises(ValueError, match=r"got 'held_out', which stands for .* in evals.LABEL"):
        loader.make(name="held_out", tokenizer=ASSETS, max_tokens=8, batch_size=1)


@pytest.mark.parametrize("held", [False, True])
def test_wrong_rows_are_named_from_the_first_line_on(held, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(f'{{"q": "q {i}", "a": "{i}"}}' for i in range(40)))
    own = dict(name="jsonl", path=str(path), tokenizer=ASSETS, max_tokens=64)
    with pytest.raises(ValueError, match=rf"^{path}:1: field 'prompt'"):
        prepare.load(**own, hold_out=0.25, held=held)
