"""Gemma 2 (arXiv:2408.00118): Gemma with caps, norms after each part, and alternating windows."""

from typing import Any

from ftjax.models.families import gemma
from ftjax.models.hf import config as hf_config

Config, make = gemma.Config, gemma.make
EXAMPLE = gemma.EXAMPLE | dict(
    model_type="gemma2", num_hidden_layers=4, sliding_window=4, query_pre_attn_scalar=24,
    attn_logit_softcapping=2.0, final_logit_softcapping=3.0,
)  # fmt: skip
# Four norms: llama's name of the MLP's own norm is here that after the attention.
NAMES = gemma.NAMES | {
    "blocks/attn_post_norm": "model.layers.{L}.post_attention_layernorm.weight",
    "blocks/mlp_norm": "model.layers.{L}.pre_feedforward_layernorm.weight",
    "blocks/mlp_post_norm": "model.layers.{L}.post_feedforward_layernorm.weight",
}


def from_hf(config_json: dict[str, Any]) -> gemma.Config:
    """Read a config.json of model type `gemma2`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    keys.only("hidden_act", ["gelu_pytorch_tanh"], "gelu_pytorch_tanh")  # read by none
    keys.only("hidden_activation", ["gelu_pytorch_tanh"], "gelu_pytorch_tanh")  # as Gemma2Config
    rope = keys.rope(default_theta=10000.0)  # absent: Gemma2Config says 10000
    config = gemma.read_common(
        # One rotary embedding for both kinds of layer; Gemma 3 has two.
        keys, post_norms=True, qk_norm=False, rope=rope, local_rope=rope,
        local=gemma.read_local(keys, every=2),  # absent: Gemma2Config alternates
        # Absent: Gemma2Config says 256, 50, 30 and 4096.
        query_scalar=keys.get("query_pre_attn_scalar", 256),
        attn_cap=keys.nullable("attn_logit_softcapping", 50.0),
        final_cap=keys.nullable("final_logit_softcapping", 30.0),
        window=keys.nullable("sliding_window", 4096),
    )  # fmt: skip
    keys.finish()
    return config


def to_hf(config: gemma.Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    own = {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2"}
    return gemma.write_common(config) | gemma.write_local(config) | own
