"""The list of mutations keeps up with the code that it mutates."""

import ast

import pytest

from scripts import mutate
from scripts.mutations import MUTATIONS, Mutation

AREAS = (
    "objectives/", "adapters/", "ops/rope", "ops/attention", "data/packing", "train/step",
    "optim/", "sampling/", "losses/advantages", "evals/", "train/checkpoint",
)  # fmt: skip


def test_every_mutation_changes_the_program():
    for mutation in MUTATIONS:
        before = (mutate.ROOT / mutation.file).read_text(encoding="utf-8")
        after = mutate.text(mutation, mutate.ROOT)
        assert ast.dump(ast.parse(after)) != ast.dump(ast.parse(before)), mutation


def test_the_tests_of_every_mutation_are_there():
    for tests in {m.tests for m in MUTATIONS}:
        paths = [word for word in tests.split() if word.startswith("tests/")]
        assert paths
        assert all((mutate.ROOT / path).exists() for path in paths), tests


def test_no_area_is_left_out():
    assert len(MUTATIONS) == len(set(MUTATIONS)) >= 100
    for area in AREAS:
        assert any(area in m.file for m in MUTATIONS), area


def test_a_fragment_that_is_gone_is_named(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\ny = 1\n")
    with pytest.raises(ValueError, match=r"a\.py: got 0 times the fragment 'z'"):
        mutate.text(Mutation("a.py", "z", "w", "tests"), tmp_path)
    with pytest.raises(ValueError, match="got 2 times the fragment '= 1'"):
        mutate.text(Mutation("a.py", "= 1", "= 2", "tests"), tmp_path)
    assert mutate.text(Mutation("a.py", "x = 1", "x = 2", ""), tmp_path) == "x = 2\ny = 1\n"


def test_survivors_are_listed_with_their_reason():
    outcomes = [
        mutate.Outcome(Mutation("a.py", "x", "y", "t"), "killed", 1.0),
        mutate.Outcome(Mutation("a.py", "+", "-", "t", "it is symmetric"), "survived", 2.0),
    ]
    shown = mutate.table(outcomes).splitlines()
    assert shown[-3].split() == ["all", "1", "1"]
    assert shown[-2].split() == ["survived", "2", "s", "a.py:", "+", "->", "-"]
    assert shown[-1].strip() == "it is symmetric"
