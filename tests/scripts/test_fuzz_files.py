"""A slice of `scripts/fuzz_files.py`: what is changed at random is read or refused in one line."""

import pytest

from scripts import fuzz_files

COUNTS = {"config": 20, "model": 30, "tokenizer": 20, "adapter": 30, "header": 25, "prompts": 25}


def test_nothing_ends_in_a_traceback_and_no_nonsense_is_taken():
    wrong = []

    def tell(*found):
        wrong.extend([found] if found[3] not in ("read", "refused") else [])

    table = fuzz_files.run(COUNTS, 7, tell=tell)
    assert wrong == []
    assert {kind: sum(found.values()) for kind, found in table.items()} == COUNTS
    assert sum(found["read"] for found in table.values()) > 20
    assert all(found["refused"] > 3 for found in table.values())


def crash(rng, bench):
    yield "a change"
    raise TypeError("no message of ours")


def nonsense(rng, bench):
    yield "a change"
    fuzz_files.check("a number that is none", fault=True)


@pytest.mark.parametrize(("target", "outcome"), [(crash, "CRASH"), (nonsense, "NONSENSE")])
def test_what_is_wrong_is_counted_as_that(target, outcome):
    change, found, why = fuzz_files.attempt(target, None, None)
    assert (change, found) == ("a change", outcome)
    assert why
