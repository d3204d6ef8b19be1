"""PEFT files without reference material: rules of matching, ranks that differ, what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ftjax.adapters import lora
from ftjax.adapters.lib import protocol
from ftjax.adapters.peft import io as peft
from ftjax.adapters.peft import lora as peft_lora
from ftjax.adapters.peft.config import Targets
from ftjax.models.base import Linear
from ftjax.models.hf import checkpoint

LINEARS = {
    "blocks/attn/q": Linear("BTD,DNH->BTNH", (8, 2, 3), (0, 1, 2)),
    "blocks/attn/o": Linear("BTNH,NHD->BTD", (2, 3, 8), (0, 1, 2)),
    "blocks/mlp/up": Linear("BTD,DF->BTF", (8, 10), (0, 1, 2)),
    "head": Linear("BTD,VD->BTV", (11, 8), None),
}
NAMES = {
    "embed": "model.embed_tokens.weight",
    "blocks/attn/q": "model.layers.{L}.self_attn.q_proj.weight",
    "blocks/attn/o": "model.layers.{L}.self_attn.o_proj.weight",
    "blocks/mlp/up": "model.layers.{L}.mlp.up_proj.weight",
    "head": "lm_head.weight",
}
MODULES = peft.modules(LINEARS, NAMES)
LORA = peft.formats()["LORA"]
PLAIN = dict(
    peft_type="LORA", task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=["q_proj", "o_proj"]
)


def site(path, *, rank, scale, layers=None, seed=0):
    """Draw a LoRA; in each layer only the first of `layers` ranks are used."""
    linear, draw = LINEARS[path], np.random.default_rng(seed).normal
    e = lora.einsum.lora(linear.equation)
    sizes = lora.einsum.sizes(linear.axes, linear.shape) | {"R": rank}
    lead = () if linear.stack is None else (linear.stack,)
    a, b = (draw(size=lead + tuple(sizes[c] for c in letters)) for letters in (e.a, e.b))
    for layer, used in enumerate(layers or ()):
        a[layer, ..., used:] = 0
        b[layer, used:] = 0
    scales = np.broadcast_to(np.float32(scale), lead)
    return lora.LoRA(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32), jnp.asarray(scales))


def tree_of(sites):
    result = {}
    for path, adapter in sites.items():
        protocol.insert(result, path, adapter)
    return result


def save(where, adapters, **hyper):
    peft.save(where, adapters, linears=LINEARS, names=NAMES, base_model="org/base", hyper=hyper)
    return json.loads((where / peft.CONFIG).read_text())


def load(where):
    return peft.load(where, linears=LINEARS, names=NAMES)


def write(where, config, *, drop=(), **more):
    """Write an adapter whose tensors are those that the (plain) config asks for."""
    where.mkdir()
    tensors, hyper = {}, LORA.read(PLAIN)
    for m in peft.targeted(LORA, Targets(("q_proj", "o_proj")), MODULES):
        for suffix, shape in LORA.shapes(m, hyper).items():
            tensors[m.key(suffix)] = np.ones(shape, np.float32)
    kept = {k: v for k, v in tensors.items() if k not in drop} | more
    save_file(kept, where / peft.WEIGHTS)
    (where / peft.CONFIG).write_text(json.dumps(config))
    return where


def names(targets):
    return {m.name for m in peft.targeted(LORA, targets, MODULES)}


def layers_of(module, layers=range(3)):
    return {f"model.layers.{i}.{module}" for i in layers}


@pytest.mark.parametrize(
    ("targets", "options", "expected"),
    [
        (("q_proj",), {}, layers_of("self_attn.q_proj")),
        (("proj",), {}, set()),  # endings count from a dot on
        (("self_attn.q_proj", "lm_head"), {}, layers_of("self_attn.q_proj") | {"lm_head"}),
        (("q_proj",), dict(layers=(1,)), layers_of("self_attn.q_proj", [1])),
        (("q_proj", "lm_head"), dict(layers=(1,)),
         layers_of("self_attn.q_proj", [1]) | {"lm_head"}),  # a full name counts anyway
        (("q_proj",), dict(layers=(1,), layers_pattern=("h",)), set()),
        (("q_proj",), dict(layers=(1,), layers_pattern=("layers",)),
         layers_of("self_attn.q_proj", [1])),
        ("all-linear", {}, {m.name for m in MODULES} - {"lm_head"}),
        (r".*\.(q|o)_proj", {}, layers_of("self_attn.q_proj") | layers_of("self_attn.o_proj")),
        ("q_proj", {}, set()),  # a regular expression covers the whole name
        ("all-linear", dict(exclude=("o_proj", "up_proj")), layers_of("self_attn.q_proj")),
        ("all-linear", dict(exclude=r".*layers\.[01]\..*"),
         {m.name for m in MODULES if ".2." in m.name}),
    ],
)  # fmt: skip
def test_which_modules_are_targeted(targets, options, expected):
    assert names(Targets(targets, **options)) == expected


def test_patterns_of_ranks_and_alphas():
    hyper = LORA.read(PLAIN) | dict(
        rank_pattern={r"^model\.layers\.1\..*": 8, "q_proj": 4}, alpha_pattern={"up_proj": 6}
    )
    rank = lambda name: (peft_lora.rank_of(name, hyper), peft_lora.scale_of(name, hyper))
    assert rank("model.layers.1.self_attn.q_proj") == (8, 0.5)
    assert rank("model.layers.0.self_attn.q_proj") == (4, 1.0)
    assert rank("model.layers.0.self_attn.o_proj") == (2, 2.0)
    assert rank("model.layers.0.mlp.up_proj") == (2, 3.0)
    rs = hyper | dict(rslora=True)
    assert peft_lora.scale_of("model.layers.0.self_attn.q_proj", rs) == 4 / 4**0.5


def test_uniform_adapters_need_no_patterns(tmp_path):
    paths = ["blocks/attn/q", "blocks/attn/o"]
    adapters = tree_of({p: site(p, rank=4, scale=0.25) for p in paths})
    config = save(tmp_path / "out", adapters)
    assert (config["r"], config["lora_alpha"]) == (4, 1)
    assert config["target_modules"] == ["o_proj", "q_proj"]
    assert config["base_model_name_or_path"] == "org/base"
    assert not config["rank_pattern"]
    assert not config["alpha_pattern"]
    assert config["layers_to_transform"] is None
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "out"), adapters)
    key = "base_model.model.model.layers.2.self_attn.o_proj.lora_A.weight"
    torch = load_file(tmp_path / "out" / peft.WEIGHTS)[key]
    a = np.asarray(adapters["blocks"]["attn"]["o"].a[2])
    np.testing.assert_array_equal(torch, a.reshape(6, 4).T)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("layers", [(4, 1, 2), (0, 3, 3), (0, 0, 4), (2, 2, 0)])
def test_ranks_that_differ_between_layers(tmp_path, layers, rslora):
    q = site("blocks/attn/q", rank=4, scale=[0.5, 1.5, 1 / 3], layers=layers)
    adapters = tree_of({"blocks/attn/q": q, "head": site("head", rank=3, scale=2.0)})
    save(tmp_path / "out", adapters, rslora=rslora)
    found = protocol.sites(load(tmp_path / "out"))
    chosen = {m.name for m in peft.settings_of(tmp_path / "out").targeted(MODULES)}
    used = [i for i, rank in enumerate(layers) if rank]
    assert chosen == layers_of("self_attn.q_proj", used) | {"lm_head"}
    assert found["blocks/attn/q"].a.shape[-1] == max(layers)
    for path, adapter in protocol.sites(adapters).items():
        w = jnp.zeros(((3,) if LINEARS[path].stack else ()) + LINEARS[path].shape)
        merge = lambda found, w, p=path: found.merge(LINEARS[p].equation, w)
        merge = jax.vmap(merge) if LINEARS[path].stack else merge
        np.testing.assert_allclose(merge(found[path], w), merge(adapter, w), rtol=1e-6, atol=1e-6)
    save(tmp_path / "again", load(tmp_path / "out"), rslora=rslora)
    for file in (peft.CONFIG, peft.WEIGHTS):
        one, two = ((tmp_path / name / file).read_bytes() for name in ("out", "again"))
        assert one == two


def test_a_fresh_adapter_keeps_its_rank(tmp_path):
    fresh = dataclasses.replace(site("blocks/mlp/up", rank=4, scale=2.0))
    fresh = dataclasses.replace(fresh, b=jnp.zeros_like(fresh.b))
    assert save(tmp_path / "out", tree_of({"blocks/mlp/up": fresh}))["r"] == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(bias="lora_only"), "bias='lora_only'"),
        (dict(lora_bias=True), "lora_bias=True"),
        (dict(modules_to_save=["lm_head"]), "modules_to_save"),
        (dict(target_parameters=["mlp.experts"]), "target_parameters"),
        (dict(layer_replication=[[0, 2]]), "layer_replication"),
        (dict(alora_invocation_tokens=[1]), "alora_invocation_tokens"),
        (dict(init_lora_weights="pissa_niter_16"), "init_lora_weights='pissa_niter_16'"),
        (dict(task_type="SEQ_2_SEQ_LM"), "task_type='SEQ_2_SEQ_LM'"),
        (dict(use_something_new=True), "use_something_new=True"),
        (dict(target_modules=None), "target_modules=None"),
        (dict(peft_type="LORRA"), "peft_type='LORRA'; did you mean 'LORA'"),
    ],
)
def test_settings_that_are_not_supported_are_named(tmp_path, change, message):
    where = write(tmp_path / "in", PLAIN | change)
    with pytest.raises(ValueError, match=message):
        load(where)


@pytest.mark.parametrize("key", ["r", "lora_alpha"])
def test_keys_without_which_nothing_is_known(tmp_path, key):
    where = write(tmp_path / "in", {k: v for k, v in PLAIN.items() if k != key})
    with pytest.raises(ValueError, match=rf"\['{key}'\] are missing"):
        load(where)


def test_tensors_must_be_those_of_the_config(tmp_path):
    load(write(tmp_path / "good", PLAIN))
    gone = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
    more = {"base_model.model.model.embed_tokens.lora_embedding_A": np.ones((2, 9), np.float32)}
    with pytest.raises(ValueError, match=f"missing {gone}.*unexpected .*lora_embedding_A"):
        load(write(tmp_path / "bad", PLAIN, drop=[gone], **more))
    with pytest.raises(ValueError, match=r"has shape \(2, 8\), expected \(3, 8\)"):
        load(write(tmp_path / "rank", PLAIN | {"r": 3}))
    with pytest.raises(ValueError, match=r"match no module|unexpected"):
        load(write(tmp_path / "none", PLAIN | {"target_modules": ["c_attn"]}))


def test_methods_that_peft_lacks_are_not_written_and_never_nothing(tmp_path):
    q = site("blocks/attn/q", rank=2, scale=1.0)
    with pytest.raises(ValueError, match="nothing to write"):
        save(tmp_path / "out", tree_of({"blocks/attn/q": jax.tree.map(jnp.zeros_like, q)}))
    with pytest.raises(ValueError, match="nothing to write"):
        save(tmp_path / "out", {})
    with pytest.raises(ValueError, match=r"got Adapter at .*expected adapters of one"):
        save(tmp_path / "out", {"blocks": {"attn": {"q": protocol.Adapter()}}})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "path", "expected"),
    [
        ("gemma3", "blocks/attn/q", "model.language_model.layers.0.self_attn.q_proj"),
        ("mistral3", "head", "lm_head"),
        ("qwen3_5", "delta/attn/qkv", "model.language_model.layers.0.linear_attn.in_proj_qkv"),
        ("mixtral", "blocks/moe/gate_up", "model.layers.0.mlp.experts.gate_up_proj"),
        ("gemma4_text", "blocks/moe/down", "model.layers.0.experts.down_proj"),
        (
            "granitemoehybrid", "mamba/moe/down",
            "model.layers.0.block_sparse_moe.experts.down_proj",
        ),
        ("gpt_oss", "blocks/moe/down", None),  # lies transposed
    ],
)  # fmt: skip
def test_modules_have_the_names_that_transformers_has_in_memory(name, path, expected):
    family = checkpoint.family_of(name)
    config = dataclasses.replace(family.from_hf(family.EXAMPLE), tied=False)
    found = peft.modules(family.make(config).linears, family.NAMES)
    names = [m.name for m in found if m.path == path]
    assert names[:1] == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("r", "2", "int"), ("lora_alpha", "4", "float"), ("lora_alpha", 0, "above 0"),
        ("lora_alpha", float("nan"), "above 0"), ("lora_dropout", {"value": 0.0}, "float"),
        ("rank_pattern", [None], "a section"), ("rank_pattern", {"q_proj": "8"}, "int at"),
        ("layers_pattern", 0.5, "str | a list of str"), ("use_rslora", "yes", "bool"),
        ("target_modules", [3], "str at"), ("layers_to_transform", ["1"], "int at"),
    ],
)  # fmt: skip
def test_values_of_another_type_are_refused_by_name(tmp_path, key, value, expected):
    (tmp_path / peft.CONFIG).write_text(json.dumps(PLAIN | {key: value}))
    with pytest.raises(ValueError, match=rf"adapter_config\.json: got {key}=") as error:
        peft.settings_of(tmp_path)
    assert f"expected {expected}" in str(error.value)


def test_null_is_no_rank(tmp_path):
    (tmp_path / peft.CONFIG).write_text(json.dumps(PLAIN | {"r": None}))
    with pytest.raises(ValueError, match=r"the keys \['r'\] are missing"):
        peft.settings_of(tmp_path)
