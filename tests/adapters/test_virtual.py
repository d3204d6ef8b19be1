"""Prompts and prefixes: how they start, their files, and what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.adapters import prefix, prompt
from ftjax.adapters.lib import protocol
from ftjax.adapters.peft import io as peft
from ftjax.core import files

SIZES = dict(V=11, D=4, L=3, K=2, H=5)
TABLE = jnp.arange(44.0).reshape(11, 4)
FILES = {
    "PROMPT_TUNING": dict(num_virtual_tokens=2, token_dim=4),
    "PREFIX_TUNING": dict(num_virtual_tokens=2, token_dim=10, num_layers=3, num_attention_heads=2),
}


def draw(method):
    return protocol.init(method, jax.random.key(0), {}, {"embed": TABLE}, where="", sizes=SIZES)


def test_a_prompt_starts_as_tokens():
    drawn = draw(prompt.make(tokens=4))["prompt"].embeddings
    assert all((row == TABLE).all(1).any() for row in drawn)
    given = draw(prompt.make(tokens=3, ids=[5, 1]))["prompt"].embeddings
    np.testing.assert_array_equal(given, TABLE[np.array([5, 1, 5])])


def test_a_prefix_starts_small():
    found = draw(prefix.make(tokens=3, init_scale=0.01))["prefix"]
    assert found.k.shape == found.v.shape == (3, 3, 2, 5)
    assert 0 < float(jnp.abs(found.k - found.v).max()) < 0.1


@pytest.mark.parametrize("module", [prompt, prefix])
def test_without_tokens_there_is_nothing(module):
    with pytest.raises(ValueError, match=r"adapter\.tokens: got 0"):
        module.make(tokens=0)


def write(folder, kind, shape, **changes):
    config = {"peft_type": kind, "task_type": "CAUSAL_LM"} | FILES[kind] | changes
    folder.mkdir()
    (folder / peft.CONFIG).write_text(json.dumps(config))
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    files.write_tensors(folder / peft.WEIGHTS, {"prompt_embeddings": values})
    return folder, values


def load(folder):
    return peft.load(folder, linears={}, names={})


def test_layers_of_a_prefix_alternate_keys_and_values(tmp_path):
    folder, values = write(tmp_path / "a", "PREFIX_TUNING", (2, 60))
    found = load(folder)["prefix"]
    parts = values.reshape(2, 3, 2, 2, 5)  # tokens, layers, key or value, heads, width
    np.testing.assert_array_equal(found.k, parts[:, :, 0].swapaxes(0, 1))
    np.testing.assert_array_equal(found.v, parts[:, :, 1].swapaxes(0, 1))


@pytest.mark.parametrize(
    ("kind", "shape", "changes", "message"),
    [
        ("PROMPT_TUNING", (2, 4), dict(num_transformer_submodules=2), "submodules=2"),
        ("PREFIX_TUNING", (2, 60), dict(num_transformer_submodules=2), "submodules=2"),
        ("PROMPT_TUNING", (3, 4), {}, r"has shape \(3, 4\), expected \(2, 4\)"),
        ("PREFIX_TUNING", (2, 58), {}, r"expected \(2, 60\)"),
        ("PREFIX_TUNING", (2, 60), dict(modules_to_save=["lm_head"]), "modules_to_save"),
    ],
)
def test_files_that_are_refused(tmp_path, kind, shape, changes, message):
    folder, _ = write(tmp_path / "a", kind, shape, **changes)
    with pytest.raises(ValueError, match=message):
        load(folder)
