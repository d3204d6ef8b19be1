"""Ministral 3: the Llama block; queries grow with the logarithm of their position (Llama 4)."""

from typing import Any

from ftjax.models.families import llama
from ftjax.models.hf import config as hf_config

Config, make, NAMES = llama.Config, llama.make, llama.NAMES
EXAMPLE = llama.EXAMPLE | dict(
    model_type="ministral3", sliding_window=None,
    rope_scaling=dict(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=4, beta_fast=4.0,
        beta_slow=0.1, mscale=1.0, mscale_all_dim=0.5, llama_4_scaling_beta=0.5,
    ),
)  # fmt: skip


def from_hf(config_json: dict[str, Any]) -> llama.Config:
    """Read a config.json of model type `ministral3`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    config = llama.read_common(
        keys, qkv_bias=False, qk_norm=False, window=keys.get("sliding_window", None),
        # Absent: Ministral3Config says 8, 1e-5 and a million.
        kv_heads=keys.get("num_key_value_heads", 8), norm_eps=keys.get("rms_norm_eps", 1e-5),
        # In the rotary dictionary, though it scales queries and turns nothing.
        rope=keys.rope(default_theta=1000000.0, also=["llama_4_scaling_beta"]),
    )  # fmt: skip
    keys.finish()
    return config


def to_hf(config: llama.Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    own = {"architectures": ["Ministral3ForCausalLM"], "model_type": "ministral3"}
    return llama.write_common(config) | own | {"sliding_window": config.window}
