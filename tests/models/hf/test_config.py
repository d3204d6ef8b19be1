"""Configs of checkpoints: both dialects, defaults of the reference, and what is refused."""

import jax
import pytest

from ftjax.models.families import (
    gemma,
    gemma2,
    gemma3_text,
    llama,
    mistral,
    mixtral,
    olmo2,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
)
from ftjax.models.hf import checkpoint, presets
from ftjax.models.hf import config as hf_config
from ftjax.train import flops

# Parameters in 10^9, as the models' cards say (with tied embeddings counted once).
PUBLIC = {
    "llama3.1-8b": 8.03, "llama3.1-70b": 70.55, "llama3.2-1b": 1.24, "llama3.2-3b": 3.21,
    "qwen2.5-0.5b": 0.49, "qwen2.5-1.5b": 1.54, "qwen2.5-3b": 3.09, "qwen2.5-7b": 7.62,
    "qwen2.5-14b": 14.8, "qwen2.5-32b": 32.8, "qwen2.5-72b": 72.7, "qwen3-0.6b": 0.6,
    "qwen3-1.7b": 1.72, "qwen3-4b": 4.02, "qwen3-8b": 8.19, "qwen3-14b": 14.8, "qwen3-32b": 32.8,
    "mistral-7b-v0.1": 7.24, "mistral-7b-v0.3": 7.25, "gemma-2b": 2.51, "gemma-7b": 8.54,
    "gemma2-2b": 2.61, "gemma2-9b": 9.24, "gemma2-27b": 27.2, "gemma3-1b": 1.0, "olmo2-1b": 1.48,
    "olmo2-7b": 7.3, "olmo2-13b": 13.7, "phi3-mini-4k": 3.82, "phi3-mini-128k": 3.82,
    "phi3-medium-4k": 13.96, "gpt2": 0.124, "gpt2-medium": 0.355, "gpt2-large": 0.774,
    "gpt2-xl": 1.558, "mixtral-8x7b": 46.70, "qwen3-30b-a3b": 30.53,
}  # fmt: skip
NANO = presets.PRESETS["nano"]
LLAMA3 = dict(
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
)


ACTIVE = {"mixtral-8x7b": 12.88, "qwen3-30b-a3b": 3.35}  # what a token meets


@pytest.mark.parametrize("name", presets.PRESETS)
def test_presets_parse_and_have_their_public_size(name):
    family, config = checkpoint.config_of(name)
    assert family.from_hf(family.to_hf(config)) == config
    model = family.make(config)
    count = sum(leaf.size for leaf in jax.tree.leaves(model.abstract))
    assert flops.active(model) / 1e9 == pytest.approx(ACTIVE.get(name, count / 1e9), abs=0.006)
    if name in PUBLIC:
        digits = 0.006 if PUBLIC[name] < 10 else 0.06
        assert count / 1e9 == pytest.approx(PUBLIC[name], abs=digits)
    else:
        assert count < 2e6


def test_every_public_preset_is_checked():
    assert presets.PRESETS.keys() == PUBLIC.keys() | {"tiny", "tiny-0.1m", "tiny-0.3m", "nano"}


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(ValueError, match=r"got 'Llama3\.2-1B-it'.*llama3\.2-1b"):
        checkpoint.config_of("Llama3.2-1B-it")


def test_an_unknown_family_lists_ours():
    with pytest.raises(ValueError, match=r"model_type='bert'; expected one of \[.*'llama'"):
        checkpoint.family_of("bert")
    with pytest.raises(ValueError, match="the nearest is 'qwen3_vl'"):
        checkpoint.family_of("qwen3_vlm")


def test_a_family_may_be_a_dotted_path():
    assert checkpoint.family_of("ftjax.models.families.llama") is llama
    with pytest.raises(ValueError, match="cannot be imported"):
        checkpoint.family_of("my_lab.families.new")
    with pytest.raises(ValueError, match="lacks from_hf, to_hf"):
        checkpoint.family_of("ftjax.core.tree")


def test_both_dialects_of_a_rescaled_rope():
    old = NANO | {"rope_scaling": LLAMA3 | {"rope_type": "llama3"}}
    bare = {k: v for k, v in NANO.items() if k != "rope_theta"}
    new = bare | {"rope_parameters": LLAMA3 | {"rope_type": "llama3", "rope_theta": 10000.0}}
    legacy = NANO | {"rope_scaling": LLAMA3 | {"type": "llama3"}}
    assert llama.from_hf(old) == llama.from_hf(new) == llama.from_hf(legacy)
    assert dict(llama.from_hf(old).rope.numbers) == LLAMA3


def test_defaults_of_absent_keys():
    optional = {
        "num_key_value_heads", "head_dim", "rope_theta", "tie_word_embeddings", "initializer_range",
    }  # fmt: skip
    config = llama.from_hf({k: v for k, v in NANO.items() if k not in optional})
    heads = NANO["num_attention_heads"]
    assert (config.kv_heads, config.head_dim) == (heads, NANO["hidden_size"] // heads)
    assert (config.rope.theta, config.tied, config.init_scale) == (10000.0, False, 0.02)


@pytest.mark.parametrize("key", ["hidden_size", "vocab_size", "num_hidden_layers"])
def test_sizes_have_no_default(key):
    with pytest.raises(ValueError, match=f"'{key}' is missing"):
        llama.from_hf({k: v for k, v in NANO.items() if k != key})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(final_logit_softcapping=30.0), "final_logit_softcapping=30.0"),
        (dict(quantization_config={"bits": 4}), "quantization_config"),
        (dict(hidden_act="gelu"), "hidden_act='gelu'"),
        (dict(attention_dropout=0.1), "attention_dropout=0.1"),
        (dict(rope_scaling={"rope_type": "yarn", "alpha": 4.0}), r"\['alpha', 'beta_fast'"),
        (dict(rope_scaling={"rope_type": "dynamic", "factor": 4.0}), "rope_type='dynamic'"),
        (dict(rope_scaling={"rope_type": "linear", "factor": 4.0, "x": 1}), r"\['factor', 'x'\]"),
        (dict(rope_scaling={"rope_type": "llama3", "factor": 4.0}), "low_freq_factor"),
        (dict(rope_parameters={"rope_theta": 5.0}), "expected one"),
    ],
)
def test_what_changes_the_mathematics_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        llama.from_hf(NANO | change)


def test_keys_that_are_null_or_harmless_are_read_over():
    assert llama.from_hf(NANO | {"rope_scaling": None, "use_cache": True, "new_feature": None}) == (
        llama.from_hf(NANO)
    )


QWEN = NANO | {"model_type": "qwen2"}
ALL_LAYERS = dict(use_sliding_window=True, sliding_window=8, max_window_layers=0)


@pytest.mark.parametrize(
    ("change", "window"),
    [
        (dict(use_sliding_window=False, sliding_window=8, max_window_layers=0), None),
        (ALL_LAYERS, 8),
        (ALL_LAYERS | dict(max_window_layers=2), None),
        (ALL_LAYERS | dict(layer_types=["sliding_attention"] * 2), 8),
        (ALL_LAYERS | dict(layer_types=["full_attention"] * 2), None),
    ],
)
def test_windows_of_qwen(change, window):
    for family in (qwen2, qwen3):
        config = family.from_hf(QWEN | change)
        assert config.window == window
        assert family.from_hf(family.to_hf(config)) == config


def test_layers_that_differ_are_refused():
    with pytest.raises(ValueError, match="one kind in all layers"):
        qwen2.from_hf(QWEN | ALL_LAYERS | dict(max_window_layers=1))


def test_what_makes_the_relatives_different():
    assert qwen2.from_hf(QWEN).qkv_bias
    assert not qwen2.from_hf(QWEN).qk_norm
    assert qwen3.from_hf(QWEN).qk_norm
    assert not qwen3.from_hf(QWEN).qkv_bias
    without = {k: v for k, v in QWEN.items() if k != "head_dim"}
    assert qwen3.from_hf(without).head_dim == 128


def test_windows_of_mistral():
    given = NANO | {"model_type": "mistral"}
    assert mistral.from_hf(given).window == 4096  # as the reference, where the key is absent
    for window in (None, 7):
        config = mistral.from_hf(given | {"sliding_window": window})
        assert config.window == window
        assert mistral.from_hf(mistral.to_hf(config)) == config


GEMMA = {k: v for k, v in NANO.items() if k != "hidden_act"} | {"num_hidden_layers": 4}


def test_null_caps_are_none_and_absent_ones_the_default():
    config = gemma2.from_hf(GEMMA)
    assert (config.attn_cap, config.final_cap, config.window) == (50.0, 30.0, 4096)
    off = dict(attn_logit_softcapping=None, final_logit_softcapping=None)
    config = gemma2.from_hf(GEMMA | off)
    assert (config.attn_cap, config.final_cap, config.logit_cap) == (None, None, None)
    assert gemma2.from_hf(gemma2.to_hf(config)) == config


def test_patterns_of_gemma3():
    near, far = "sliding_attention", "full_attention"
    deep = GEMMA | {"num_hidden_layers": 13, "sliding_window": 8, "rope_local_base_freq": 100.0}
    config = gemma3_text.from_hf(deep)
    assert config.local == (True,) * 5 + (False,)
    assert [kind.window for kind in config.kinds] == ([8] * 5 + [None]) * 2 + [8]
    bases = {(kind.window, kind.rope.theta) for kind in config.kinds}
    assert bases == {(8, 100.0), (None, 10000.0)}
    odd = [near, far, far, near]
    config = gemma3_text.from_hf(GEMMA | {"layer_types": odd})
    assert [kind.window is None for kind in config.kinds] == [name == far for name in odd]
    assert gemma3_text.from_hf(gemma3_text.to_hf(config)) == config


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        (gemma, dict(hidden_activation="relu"), "hidden_activation='relu'"),
        (gemma, dict(final_logit_softcapping=30.0), "final_logit_softcapping=30.0"),
        (gemma2, dict(use_bidirectional_attention=True), "use_bidirectional_attention=True"),
        (gemma2, dict(layer_types=["full_attention"]), "expected 4 of"),
        (gemma3_text, dict(layer_types=["chunked"] * 4), "expected 4 of"),
        (olmo2, dict(hidden_act="silu", clip_qkv=8.0), "clip_qkv=8.0"),
        (mistral, dict(hidden_act="silu", attention_bias=True), "attention_bias=True"),
    ],
)
def test_other_families_refuse_by_name(family, change, message):
    with pytest.raises(ValueError, match=message):
        family.from_hf(GEMMA | change)


# -- experts ---------------------------------------------------------------------------------------


def test_which_layers_have_experts():
    step = qwen3_moe.EXAMPLE | dict(num_hidden_layers=6, decoder_sparse_step=2, mlp_only_layers=[3])
    stacks = [kind.stack for kind in qwen3_moe.from_hf(step).kinds]
    assert stacks == ["dense", "blocks", "dense", "dense", "dense", "blocks"]
    model = qwen3_moe.make(qwen3_moe.from_hf(step))
    assert model.stacks == {"blocks": (1, 5), "dense": (0, 2, 3, 4)}
    plans = checkpoint.stored(model, qwen3_moe.NAMES)
    of = lambda path: [name for _, name in plans[path].names()]
    assert "model.layers.5.mlp.experts.3.up_proj.weight" in of("blocks/moe/gate_up")
    assert of("dense/mlp/up") == [f"model.layers.{i}.mlp.up_proj.weight" for i in (0, 2, 3, 4)]


def test_a_model_without_experts_says_so():
    with pytest.raises(ValueError, match="no layer has experts"):
        qwen3_moe.from_hf(qwen3_moe.EXAMPLE | dict(mlp_only_layers=[0, 1]))


def test_numbers_of_experts_in_either_dialect():
    new = {k: v for k, v in qwen3_moe.EXAMPLE.items() if k != "num_experts"}
    new["num_local_experts"] = qwen3_moe.EXAMPLE["num_experts"]
    assert qwen3_moe.from_hf(new) == qwen3_moe.from_hf(qwen3_moe.EXAMPLE)
    windowed = mixtral.from_hf(mixtral.EXAMPLE | dict(sliding_window=7))
    assert windowed.window == 7
    with pytest.raises(ValueError, match=r"router_jitter_noise=0\.1"):
        mixtral.from_hf(mixtral.EXAMPLE | dict(router_jitter_noise=0.1))


def test_options_of_experts():
    config = mixtral.from_hf(mixtral.EXAMPLE)
    assert mixtral.make(config).config == config
    other = mixtral.make(config, dispatch="capacity", capacity_factor=2.0, router_aux=0.5).config
    assert (other.dispatch.kind, other.dispatch.factor, other.router_aux) == ("capacity", 2.0, 0.5)
    with pytest.raises(ValueError, match=r"model\.dispatch: got 'sorted'"):
        mixtral.make(config, dispatch="sorted")


EPSILONS = dict.fromkeys(
    (
        "exaone4", "glm4_moe", "gpt_oss", "hunyuan_v1_dense", "ministral3", "mixtral", "olmo2",
        "olmo3", "olmoe", "phi3",
    ), 1e-5,
) | {"glm4": 1.5625e-7}  # fmt: skip
WITH_EPSILON = [
    name for name in checkpoint.families()
    if "rms_norm_eps" in checkpoint.family_of(name).EXAMPLE
]  # fmt: skip


@pytest.mark.parametrize("name", WITH_EPSILON)
def test_an_absent_epsilon_is_the_one_of_transformers(name):
    family = checkpoint.family_of(name)
    config = family.from_hf({k: v for k, v in family.EXAMPLE.items() if k != "rms_norm_eps"})
    assert config.norm_eps == EPSILONS.get(name, 1e-6)


@pytest.mark.parametrize(
    ("name", "heads"), [("qwen2", 32), ("qwen3", 32), ("qwen3_moe", 4), ("mixtral", 8)]
)
def test_absent_heads_of_keys_are_those_of_transformers(name, heads):
    family = checkpoint.family_of(name)
    given = family.EXAMPLE | {"num_key_value_heads": None}
    assert family.from_hf(given).kv_heads == heads


def test_the_part_that_is_rotated_may_stand_in_two_places():
    example = {k: v for k, v in phi3.EXAMPLE.items() if k != "rope_scaling"}
    inside = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    both = example | {"partial_rotary_factor": 0.5, "rope_parameters": inside}
    assert phi3.from_hf(both).rope.partial == 0.5
    with pytest.raises(ValueError, match=r"partial_rotary_factor=0\.25 beside .*0\.5"):
        phi3.from_hf(both | {"partial_rotary_factor": 0.25})
    whole = inside | {"partial_rotary_factor": 1.0}
    bare = {k: v for k, v in NANO.items() if k != "rope_theta"}
    assert llama.from_hf(bare | {"rope_parameters": whole}) == llama.from_hf(NANO)
    with pytest.raises(ValueError, match="rotates whole heads"):
        llama.from_hf(bare | {"rope_parameters": inside})


@pytest.mark.parametrize("name", sorted(checkpoint.families()))
def test_heads_of_another_width_are_written_or_refused(name):
    family = checkpoint.family_of(name)
    if "WRAPS" in vars(family):
        pytest.skip("its text model is another family's")
    given = family.EXAMPLE | {"head_dim": 24}
    if name == "gpt2":
        with pytest.raises(ValueError, match="head_dim"):
            family.from_hf(given)
        return
    config = family.from_hf(given)
    again = family.from_hf(family.to_hf(config))
    assert again.head_dim == config.head_dim
    # Latent attention has sizes of its own, and this key says nothing there.
    assert config.head_dim == (12 if name == "deepseek_v3" else 24)


def test_gemma3_reads_no_cap_of_scores():
    config = gemma3_text.from_hf(gemma3_text.EXAMPLE | {"attn_logit_softcapping": 2.0})
    assert config.attn_cap is None


@pytest.mark.parametrize("most", [{"__float__": "Infinity"}, float("inf"), None])
def test_an_infinity_is_read_however_it_is_written(most):
    # transformers 5 writes the first, Python's json the second.
    given = NANO | {"time_step_limit": [0.0, most]} if most else NANO
    keys = hf_config.Keys(given)
    assert keys.get("time_step_limit", [0.0, float("inf")]) == [0.0, float("inf")]
    with pytest.raises(ValueError, match="time_step_limit"):
        hf_config.Keys({"time_step_limit": [0.0, {"__float__": "much"}]}).get("time_step_limit")
