import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax.numpy as jnp
import pytest

from ftjax.core import typed

GROUPS = Iterable[tuple[str, Mapping]]
FITS = [  # (value, annotation)
    (1, int), (1, float), (None, int | None), (1, "int | None"), ("x", "str"), (True, bool),
    (3, typed.Count), (None, typed.Positive | None), (0.0, typed.Chance), (1, typed.Share),
    (("a", "b"), typed.Patterns), ("a", typed.Patterns), ((), typed.Patterns),
    ((("a", {"lr_scale": 1.0}),), GROUPS), ([("a", {})], GROUPS), ({"a": {}}, GROUPS | Mapping),
    ((1, 2), tuple[int, int]), ((1, 2, 3), tuple[int, ...]), ({"a": {"b": 1}}, dict[str, dict]),
    ("anything", "jax.Array"), (jnp.ones(()), typed.Positive), ([1], list), ({}, Mapping),
]  # fmt: skip
FAULTS = [  # (value, annotation, what is expected)
    (True, int, "int"), (1.5, int, "int"), ("1", float, "float"), (None, int, "int"),
    (1, bool, "bool"),
    (0, typed.Count, "at least 1"), (-1.0, typed.Positive | None, "above 0"),
    (float("nan"), typed.Positive, "above 0"), (float("inf"), typed.NonNegative, "at least 0"),
    (1.0, typed.Decay, "at least 0 and below 1"), ("a", typed.Positive | None, "float | None"),
    ("adapter", dict, "a section"), (3, typed.Patterns, "str | a list of str"),
    (("a", 3), typed.Patterns, r"str at \[1\], got 3"), ("ab", Sequence[int], "a list of int"),
    ((("a", 1),), GROUPS, r"a section.* at \[1\], got 1 at \[0\]"),
    ((("a", {}, 3),), GROUPS, "2 elements at"), ({"x": 3}, dict[str, dict], "a section.*'x'"),
    ((1, "b"), tuple[int, int], r"int at \[1\]"), (3, "bool | None", "bool"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "annotation"), FITS)
def test_it_fits(value, annotation):
    assert typed.problem(value, annotation) is None


@pytest.mark.parametrize(("value", "annotation", "expected"), FAULTS)
def test_it_does_not_fit(value, annotation, expected):
    assert re.search(expected, typed.problem(value, annotation) or "nothing")


@pytest.mark.parametrize("annotation", ["jax.Array", "int | str | Path", object])
def test_annotations_that_no_config_can_have_are_left_alone(annotation):
    assert typed.problem({"x": 3}, annotation) is None
    assert typed.alternatives(Callable) == (Callable,)


def test_plain_types_of_an_annotation():
    assert typed.plain(typed.Positive | None) == (float, type(None))
    assert typed.plain("int | None") == (int, type(None))
    assert typed.plain(typed.Patterns) == (str,)
