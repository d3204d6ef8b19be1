"""Checkpoints: sharded reading, what is refused, types, hashes, and independent readers."""

import json
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ftjax.core import mesh as meshes
from ftjax.core import tree
from ftjax.models.families import llama, qwen2
from ftjax.models.hf import checkpoint as hf
from ftjax.models.hf import digests


def build(family, **changes):
    config = family.from_hf(family.EXAMPLE | changes)
    model = family.make(config)
    draw = np.random.default_rng(0).normal
    array = lambda leaf: jnp.asarray(draw(size=leaf.shape), leaf.dtype)
    return config, model, jax.tree.map(array, model.abstract)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small model on disk in several files."""
    config, model, params = build(llama, tie_word_embeddings=False)
    out = tmp_path_factory.mktemp("hf") / "model"
    hf.save(out, params, family=llama, config=config, max_shard_gb=2e-5)
    return out, model, params


@pytest.fixture
def whole(saved, tmp_path):
    """The same model in one file that a test may spoil."""
    _, model, params = saved
    hf.save(tmp_path / "model", params, family=llama, config=model.config)
    return tmp_path / "model"


def load(directory, model, **options):
    return hf.load(directory, model, names=llama.NAMES, **options)


def rewrite(directory, change):
    tensors = change(load_file(directory / hf.WEIGHTS))
    save_file(tensors, directory / hf.WEIGHTS)


def test_an_independent_reader_sees_torch_tensors(saved):
    directory, _, params = saved
    index = json.loads((directory / hf.INDEX).read_text())
    files = {name: load_file(directory / name) for name in set(index["weight_map"].values())}
    assert len(files) > 1
    found = {key: files[file][key] for key, file in index["weight_map"].items()}
    assert sum(len(f) for f in files.values()) == len(found)
    assert index["metadata"]["total_size"] == sum(a.nbytes for a in found.values())
    q = np.asarray(params["blocks"]["attn"]["q"][1])
    x = np.random.default_rng(0).normal(size=(3, q.shape[0])).astype(np.float32)
    torch = found["model.layers.1.self_attn.q_proj.weight"]
    wanted = np.einsum("BD,DNH->BNH", x, q).reshape(3, -1)
    np.testing.assert_allclose(x @ torch.T, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [dict(), dict(data=2, fsdp=2, tensor=2), dict(data=8)])
def test_reading_onto_a_mesh(saved, sizes):
    directory, model, params = saved
    mesh = meshes.make(**sizes) if sizes else None
    found = load(directory, model, mesh=mesh)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    if mesh is not None:
        places = meshes.shardings(model.axes, params, mesh)
        assert jax.tree.map(lambda x: x.sharding, found) == places


def test_biases_are_sharded_too(tmp_path):
    config, model, params = build(qwen2)
    hf.save(tmp_path / "model", params, family=qwen2, config=config)
    mesh = meshes.make(data=1, fsdp=4, tensor=2)
    found = hf.load(tmp_path / "model", model, names=qwen2.NAMES, mesh=mesh)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert "q_bias" in found["blocks"]["attn"]


def test_only_the_needed_slices_are_read(saved, monkeypatch):
    directory, model, params = saved
    mesh = meshes.make(data=1, fsdp=2, tensor=4)
    read = []
    original = hf.layout.Layout.read

    def counted(self, stored, sizes, part):
        result = original(self, stored, sizes, part)
        read.append(result.size)
        return result

    monkeypatch.setattr(hf.layout.Layout, "read", counted)
    load(directory, model, mesh=mesh)
    assert sum(read) == tree.size_of(params)


def test_the_host_holds_one_parameter_at_a_time(tmp_path):
    config, model, params = build(
        llama, hidden_size=128, intermediate_size=512, num_hidden_layers=8, head_dim=32
    )
    hf.save(tmp_path / "model", params, family=llama, config=config)
    largest = max(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert largest * 3 < tree.bytes_of(params)
    load(tmp_path / "model", model)
    tracemalloc.start()
    try:
        found = jax.block_until_ready(load(tmp_path / "model", model, dtype=jnp.bfloat16))
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert tree.bytes_of(found) * 2 == tree.bytes_of(params)
    assert peak - kept < 1.5 * largest


def test_types_convert_both_ways(saved, tmp_path):
    directory, model, params = saved
    half = load(directory, model, dtype=jnp.bfloat16)
    for path, leaf in tree.paths(half).items():
        assert leaf.dtype == jnp.bfloat16
        np.testing.assert_array_equal(leaf, tree.paths(params)[path].astype(jnp.bfloat16))
    hf.save(tmp_path / "half", half, family=llama, config=model.config)
    assert json.loads((tmp_path / "half" / hf.CONFIG).read_text())["torch_dtype"] == "bfloat16"
    same = load(tmp_path / "half", model)
    jax.tree.map(np.testing.assert_array_equal, same, half)
    assert {leaf.dtype for leaf in jax.tree.leaves(same)} == {jnp.dtype(jnp.bfloat16)}
    hf.save(tmp_path / "f16", params, family=llama, config=model.config, dtype=jnp.float16)
    wide = load(tmp_path / "f16", model, dtype=jnp.float32)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4), wide, params)


def test_every_wrong_tensor_is_listed(saved, whole):
    def spoil(tensors):
        tensors["model.final_norm.weight"] = tensors.pop("model.norm.weight")
        tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1].copy()
        tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].astype(np.int8)
        return tensors

    rewrite(whole, spoil)
    with pytest.raises(ValueError, match="got other tensors") as error:
        load(whole, saved[1])
    for part in (
        "missing model.norm.weight (nearest: model.final_norm.weight)",
        "unexpected model.final_norm.weight", "lm_head.weight has shape (63, 32)",
        "model.embed_tokens.weight has type I8",
    ):  # fmt: skip
        assert part in str(error.value)


def test_a_layer_too_few_and_one_too_many(saved, whole):
    model = saved[1]
    for layers, message in ((3, r"missing model\.layers\.2\."), (1, r"unexpected model\.layers")):
        other = llama.make(hf.dataclasses.replace(model.config, layers=layers))
        with pytest.raises(ValueError, match=message):
            load(whole, other)


def test_a_tied_model_may_repeat_its_head_and_old_buffers_are_passed_over(tmp_path):
    config, model, params = build(llama)
    hf.save(tmp_path / "model", params, family=llama, config=config)
    head = {"lm_head.weight": np.zeros((64, 32), np.float32)}
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(4, np.float32)}
    rewrite(tmp_path / "model", lambda tensors: tensors | head | old)
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "model", model), params)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/x/model.safetensors", 7])
def test_an_index_stays_in_its_directory(whole, saved, name):
    index = {"weight_map": {"lm_head.weight": name}}
    (whole / hf.INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="expected a plain name"):
        load(whole, saved[1])


@pytest.mark.parametrize("index", [{}, {"weight_map": [1]}])
def test_an_index_without_a_map(whole, saved, index):
    (whole / hf.INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="no weight_map"):
        load(whole, saved[1])


def test_a_file_that_the_index_names_is_missing(saved, whole):
    (whole / hf.INDEX).write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(ValueError, match=r"gone\.safetensors: no such file"):
        load(whole, saved[1])


def test_the_hash_follows_every_byte(whole):
    before = digests.fingerprint(whole)
    assert before == digests.fingerprint(whole)
    path = whole / hf.WEIGHTS
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(bytes(changed))
    assert digests.fingerprint(whole) != before


def test_saving_takes_files_along_and_replaces_nothing(saved, tmp_path):
    _, model, params = saved
    options = dict(family=llama, config=model.config, extra={"eos_token_id": 5})
    add = lambda draft: (draft / "tokenizer.json").write_text("{}")
    hf.save(tmp_path / "out", params, complete=add, **options)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {hf.CONFIG, hf.WEIGHTS, "tokenizer.json"}
    assert json.loads((tmp_path / "out" / hf.CONFIG).read_text())["eos_token_id"] == 5
    with pytest.raises(ValueError, match="not empty"):
        hf.save(tmp_path / "out", params, **options)


def test_saving_other_params_than_the_config_says(saved, tmp_path):
    _, model, params = saved
    wrong = {k: v for k, v in params.items() if k != "head"}
    with pytest.raises(ValueError, match="missing head"):
        hf.save(tmp_path / "out", wrong, family=llama, config=model.config)
    assert not list(tmp_path.iterdir())
