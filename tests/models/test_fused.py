"""GPT-2 and Phi-3: dialects of their configs, old checkpoints, fused weights on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ftjax.core import mesh as meshes
from ftjax.models import base
from ftjax.models.families import gpt2, phi3
from ftjax.models.hf import checkpoint as hf
from ftjax.models.hf import presets

LONG = presets.PRESETS["phi3-mini-128k"]


def build(family):
    config = family.from_hf(family.EXAMPLE)
    model = family.make(config)
    draw = np.random.default_rng(0).normal
    array = lambda leaf: jnp.asarray(draw(size=leaf.shape), leaf.dtype)
    return config, model, jax.tree.map(array, model.abstract)


@pytest.mark.parametrize("family", [gpt2, phi3])
def test_fused_weights_are_read_onto_a_mesh(family, tmp_path):
    config, model, params = build(family)
    hf.save(tmp_path / "model", params, family=family, config=config)
    mesh = meshes.make(data=1, fsdp=4, tensor=2)
    found = hf.load(tmp_path / "model", model, names=family.NAMES, mesh=mesh)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert not found["blocks"]["attn"]["qkv"].sharding.is_fully_replicated


def test_a_conv1d_computes_with_its_weight_as_stored(tmp_path):
    config, _, params = build(gpt2)
    hf.save(tmp_path / "model", params, family=gpt2, config=config)
    stored = load_file(tmp_path / "model" / hf.WEIGHTS)["transformer.h.1.attn.c_attn.weight"]
    x, qkv = np.random.default_rng(0).normal(size=(3, config.dim)), params["blocks"]["attn"]["qkv"]
    assert stored.shape == (config.dim, 3 * config.dim)
    wanted = np.einsum("TD,DCNH->TCNH", x, qkv[1]).reshape(3, -1)
    np.testing.assert_allclose(x @ stored, wanted, rtol=1e-5, atol=1e-5)


def test_the_first_checkpoints_of_gpt2(tmp_path):
    """They lack the first part of every name and keep the causal masks."""
    config, model, params = build(gpt2)
    hf.save(tmp_path / "model", params, family=gpt2, config=config)
    path = tmp_path / "model" / hf.WEIGHTS
    bare = {name.removeprefix("transformer."): leaf for name, leaf in load_file(path).items()}
    masks = {f"h.{i}.attn.bias": np.ones((1, 1, 4, 4), np.float32) for i in range(config.layers)}
    save_file(bare | masks, path)
    found = hf.load(tmp_path / "model", model, names=gpt2.NAMES)
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_positions_that_were_not_learned_are_nan():
    config, model, params = build(gpt2)
    ends = model.ends_of(params)
    places = jnp.array([[0, config.max_positions - 1, config.max_positions]])
    x = ends.enter(jnp.zeros_like(places), places, base.Site({}, None))
    assert np.isfinite(x[0, :2]).all()
    assert np.isnan(x[0, 2]).all()


@pytest.mark.parametrize("name", ["longrope", "su", "yarn"])
def test_longrope_and_its_older_names(name):
    config = phi3.from_hf(LONG | {"rope_scaling": LONG["rope_scaling"] | {"type": name}})
    numbers = dict(config.rope.numbers)
    assert config.rope.kind == "longrope"
    assert numbers["original_max_position_embeddings"] == 4096
    assert numbers["factor"] == 32.0
    assert len(numbers["long_factor"]) == len(numbers["short_factor"]) == config.head_dim // 2


def test_the_older_dialect_allows_three_keys_of_longrope():
    written = phi3.to_hf(phi3.from_hf(LONG))
    assert set(written["rope_scaling"]) == {"type", "short_factor", "long_factor"}
    assert written["original_max_position_embeddings"] == 4096


def test_numbers_that_do_not_follow_are_written():
    scaling = LONG["rope_scaling"] | dict(factor=4.0, attention_factor=1.5)
    config = phi3.from_hf(LONG | {"rope_scaling": scaling})
    assert {"factor", "attention_factor"} <= dict(config.rope.numbers).keys()
    assert phi3.from_hf(phi3.to_hf(config)) == config


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        (phi3, dict(attention_bias=True), "attention_bias=True"),
        (phi3, dict(resid_pdrop=0.1), "resid_pdrop=0.1"),
        (phi3, dict(rope_scaling={"type": "longrope", "x": 1}), "rope keys"),
        (gpt2, dict(scale_attn_by_inverse_layer_idx=True), "inverse_layer_idx=True"),
        (gpt2, dict(activation_function="relu"), "activation_function='relu'"),
        (gpt2, dict(n_positions=None), "'n_positions' is missing"),
    ],
)
def test_what_changes_the_mathematics_is_refused(family, change, message):
    with pytest.raises(ValueError, match=message):
        family.from_hf(family.EXAMPLE | change)


def test_dropouts_of_pretraining_are_read_over():
    old = dict(attn_pdrop=0.1, embd_pdrop=0.1, resid_pdrop=0.1, n_ctx=64, n_inner=None)
    assert gpt2.from_hf(gpt2.EXAMPLE | old) == gpt2.from_hf(gpt2.EXAMPLE)
