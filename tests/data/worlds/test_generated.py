import collections.abc
import subprocess
import sys

import pytest

from ftjax.data.sources import embedded
from ftjax.data.worlds import generated

CASES = [
    dict(domain="facts"),
    dict(domain="facts", form="questions", population="new"),
    dict(domain="reading"),
    dict(domain="reading", about="things", split="test", form="text"),
    dict(domain="skills", shots=(0, 3)),
    dict(domain="rules"),
    dict(domain="patterns"),
    dict(domain="languages"),
]


@pytest.mark.parametrize("options", CASES, ids=lambda o: f"{o['domain']}-{len(o)}")
def test_rows_are_random_access_seeded_and_named(options):
    rows, again = embedded.make(rows=40, **options), embedded.make(rows=40, **options)
    assert isinstance(rows, collections.abc.Sequence)
    assert len(rows) == 40
    backwards = [again[i] for i in range(39, -1, -1)][::-1]
    assert list(rows) == backwards == rows[:]
    assert rows[-1] == rows[39]
    assert list(embedded.make(rows=40, seed=1, **options)) != backwards
    assert len({row.get("text") or row["prompt"] + row["response"] for row in rows}) > 30
    assert rows.where(7).endswith(":7")
    with pytest.raises(IndexError, match="got row 40"):
        rows[40]


@pytest.mark.parametrize("options", CASES, ids=lambda o: f"{o['domain']}-{len(o)}")
def test_prompts_and_responses_meet_at_a_space(options):
    for row in embedded.make(rows=30, **options):
        if "text" in row:
            assert row["text"] == row["text"].strip()
        else:
            assert row["prompt"].endswith(":")
            assert row["response"][0] == " "
            assert row["response"][1:] == row["response"].strip()


def test_rows_are_the_same_in_another_process():
    code = (
        "from ftjax.data.sources import embedded; "
        f"print([embedded.make(rows=9, **o)[8] for o in {CASES!r}])"
    )
    environment = {"PYTHONHASHSEED": "77", "PYTHONPATH": "."}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == str([embedded.make(rows=9, **o)[8] for o in CASES])


def test_mistakes_are_named_with_the_nearest_legal_value():
    with pytest.raises(ValueError, match=r"domain: got 'readin'.*did you mean 'reading'"):
        embedded.make(domain="readin")
    with pytest.raises(ValueError, match=r"got 'shot'.*did you mean 'shots'"):
        embedded.make(domain="skills", shot=3)
    with pytest.raises(ValueError, match=r"got 'tests'.*did you mean 'test'"):
        embedded.make(domain="languages", split="tests")
    with pytest.raises(ValueError, match="rows=-1"):
        embedded.make(domain="facts", rows=-1)


def test_draws_stay_in_range_and_differ():
    rng = generated.generator("draws", 0)
    assert {generated.between(rng, (2, 4)) for _ in range(50)} == {2, 3, 4}
    assert generated.between(rng, 3) == 3
    assert sorted(generated.sample(rng, "abcd", 4)) == list("abcd")
    assert generated.generator("a", 1).random() != generated.generator("a", 2).random()
