"""The text model of Gemma 3 (arXiv:2503.19786): five local layers to a global one, two ropes.

Local layers have a window and an unscaled rotary embedding of a low base; global layers have
neither. Norms of q and k take the place of Gemma 2's caps.
"""

from typing import Any

from ftjax.models.families import gemma, gemma2
from ftjax.models.hf import config as hf_config
from ftjax.ops import rope

Config, make = gemma.Config, gemma.make
EXAMPLE = gemma.EXAMPLE | dict(
    model_type="gemma3_text", sliding_window=4, sliding_window_pattern=2, query_pre_attn_scalar=24,
    rope_scaling=dict(rope_type="linear", factor=8.0), rope_local_base_freq=100.0,
)  # fmt: skip
NAMES = gemma2.NAMES


def from_hf(config_json: dict[str, Any]) -> gemma.Config:
    """Read a config.json of model type `gemma3_text`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    keys.only("hidden_act", ["gelu_pytorch_tanh"], "gelu_pytorch_tanh")  # read by none
    keys.only("hidden_activation", ["gelu_pytorch_tanh"], "gelu_pytorch_tanh")  # Gemma3TextConfig
    # Absent: Gemma3TextConfig says 6. The newer dialect keeps it beside the list that it implies.
    every = keys.get("sliding_window_pattern", keys.get("_sliding_window_pattern", 6))
    far, near = read_ropes(keys)
    config = gemma.read_common(
        keys, post_norms=True, qk_norm=True, rope=far, local_rope=near,
        local=gemma.read_local(keys, every=every),
        # Absent: Gemma3TextConfig says 256, no cap, and 4096.
        query_scalar=keys.get("query_pre_attn_scalar", 256),
        attn_cap=None,
        final_cap=keys.nullable("final_logit_softcapping", None),
        window=keys.nullable("sliding_window", 4096),
    )  # fmt: skip
    # Gemma3TextConfig has it from Gemma 2, and its attention does not read it.
    keys.finish(harmless={"attn_logit_softcapping"})
    return config


def read_ropes(keys: hf_config.Keys) -> tuple[rope.Rope, rope.Rope]:
    """Read the rotary embeddings of global and of local layers, in either dialect."""
    nested = keys.get("rope_parameters", {})
    if set(gemma.LOCAL.values()) <= nested.keys():
        own = [dict(nested[gemma.LOCAL[local]]) for local in (False, True)]
        far, near = (keys.rope_of(each, theta=each.pop("rope_theta")) for each in own)
        return far, near
    # Absent: Gemma3TextConfig says 1000000 and 10000.
    # In the older dialect `rope_scaling` is of global layers alone.
    local = rope.Rope(float(keys.get("rope_local_base_freq", 10000.0)))
    return keys.rope(default_theta=1000000.0), local


def to_hf(config: gemma.Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    own = {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "rope_local_base_freq": config.local_rope.theta,
    }
    return gemma.write_common(config) | gemma.write_local(config) | own
