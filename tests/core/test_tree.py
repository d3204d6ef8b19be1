"""Paths, patterns, partition."""

import dataclasses

import jax
import numpy as np
import pytest

from ftjax.core import tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Pair:
    a: object
    b: object


NESTED = {"model": {"q": 1, "norm": 2}, "adapters": {"q": Pair(3, 4)}, "list": [5, None]}


def test_paths_name_dicts_attributes_and_sequences():
    assert tree.paths(NESTED) == {
        "adapters/q/a": 3, "adapters/q/b": 4, "list/0": 5, "model/norm": 2, "model/q": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("a/*", "a/b", True),
        ("a/*", "a/b/c", False),
        ("a/**", "a/b/c", True),
        ("**/b", "a/x/b", True),
        ("**/b", "b", False),
        ("a/*/c", "a/b/c", True),
        ("a/q*", "a/q_bias", True),
        ("a.b", "axb", False),
        ("a", "a/b", False),
    ],
)
def test_globs(pattern, path, expected):
    assert tree.matches(pattern, path) is expected


def test_selecting_joins_patterns():
    assert tree.select(["a/*", "**/c"], ["a/b", "x/c", "d"], where="t") == {"a/b", "x/c"}
    assert tree.select("d", ["a/b", "d"], where="t") == {"d"}


def test_a_pattern_without_a_match_names_the_nearest():
    with pytest.raises(ValueError, match=r"trainable: got .*blocks/atn.*blocks/attn/q"):
        tree.select("blocks/atn/*", ["blocks/attn/q", "head"], where="trainable")


def test_partition_and_combine_are_inverse():
    inside, outside = tree.partition(NESTED, "adapters/**", where="t", exclude=["adapters/q/b"])
    assert tree.paths(inside) == {"adapters/q/a": 3}
    assert tree.paths(outside).keys() == tree.paths(NESTED).keys() - {"adapters/q/a"}
    assert tree.combine(inside, outside) == NESTED
    assert tree.combine(outside, inside) == NESTED


def test_mapping_gives_the_path():
    assert tree.map_with_paths(lambda p, x, y: (p, x + y), {"a": {"b": 1}}, {"a": {"b": 2}}) == {
        "a": {"b": ("a/b", 3)}
    }


def test_sizes():
    arrays = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(5, np.int8)}
    assert (tree.size_of(arrays), tree.bytes_of(arrays)) == (11, 29)


def test_alternatives_in_braces():
    assert tree.matches("**{norm,norm/*,bias}", "model/attn_norm")
    assert tree.matches("**{norm,norm/*,bias}", "model/attn_norm/scale")
    assert tree.matches("**{norm,norm/*,bias}", "model/q_bias")
    assert not tree.matches("**{norm,norm/*,bias}", "model/norm/a/b")
    assert not tree.matches("a,b", "a")
