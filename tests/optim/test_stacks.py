"""Layers by their numbers: which part of a stack an optimizer's group, or training, is about."""

import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.optim import groups, stacks

DEPTHS = {"blocks": (0, 1, 3), "late": (2,)}
TREE = {
    "model": {
        "blocks": {"q": jnp.ones((3, 2)), "norm": jnp.ones(3)}, "late": {"q": jnp.ones((1, 2))},
        "embed": jnp.ones(2),
    },
    "adapters": {"blocks": {"q": {"a": jnp.ones((3, 2, 1))}}},
}  # fmt: skip


def test_only_the_chosen_layers_are_kept_and_what_is_in_no_stack():
    kept = stacks.keeper({1, 2}, DEPTHS, where="trainable_layers")(TREE)
    np.testing.assert_array_equal(kept["model"]["blocks"]["q"][:, 0], [0, 1, 0])
    np.testing.assert_array_equal(kept["model"]["blocks"]["norm"], [0, 1, 0])
    np.testing.assert_array_equal(kept["adapters"]["blocks"]["q"]["a"][:, 0, 0], [0, 1, 0])
    np.testing.assert_array_equal(kept["model"]["late"]["q"], [[1, 1]])
    np.testing.assert_array_equal(kept["model"]["embed"], [1, 1])
    assert stacks.keeper((), DEPTHS, where="")(TREE) is TREE


def test_a_group_of_some_layers_leaves_the_others_as_they_were():
    leaves = {"model/blocks/q": TREE["model"]["blocks"]["q"], "model/embed": jnp.ones(2)}
    pairs = [("**", {"lr_scale": 2.0}), ("**/q", {"lr_scale": 0.5, "layers": (3, 2)})]
    found = groups.settings(leaves, weight_decay=0.1, groups=pairs, depths=DEPTHS)
    np.testing.assert_allclose(found["model/blocks/q"].lr_scale, [[2], [2], [0.5]])
    np.testing.assert_allclose(found["model/blocks/q"].weight_decay, np.full((3, 1), 0.1))
    assert found["model/embed"] == (2.0, 0.1)


@pytest.mark.parametrize(
    ("path", "shape", "chosen", "message"),
    [
        ("model/blocks/q", (3, 2), {4}, r"got layers \[4\]; expected some of 0 \.\. 3"),
        ("model/blocks/q", (3, 2), set(), r"got layers \[\]; expected some of 0 \.\. 3"),
        ("model/embed", (2,), {1}, r"model/embed, which is in no stack.*blocks, late"),
        ("adapters/blocks/scale", (), {1}, r"of the shape \[\], which all layers share"),
    ],
)
def test_layers_that_are_not_there_are_refused(path, shape, chosen, message):
    with pytest.raises(ValueError, match=message):
        stacks.mask(path, jnp.ones(shape), chosen, DEPTHS, where="optim.groups")
