"""Qwen3, dense (arXiv:2505.09388): the Llama block with RMSNorms of queries and keys."""

from typing import Any

from ftjax.models.families import llama, qwen2
from ftjax.models.hf import config as hf_config

Config, make, NAMES = llama.Config, llama.make, llama.NAMES
EXAMPLE = llama.EXAMPLE | dict(model_type="qwen3")


def from_hf(config_json: dict[str, Any]) -> llama.Config:
    """Read a config.json of model type `qwen3`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    keys.only("attention_bias", [False], False)  # absent: Qwen3Config says no
    # The norms of q and k took the place of Qwen2's biases.
    config = llama.read_common(
        keys, qkv_bias=False, qk_norm=True, window=qwen2.read_window(keys),
        kv_heads=keys.get("num_key_value_heads", 32),  # absent: Qwen3Config says 32
        head_dim=keys.get("head_dim", 128),  # absent: Qwen3Config says 128
    )  # fmt: skip
    keys.finish()
    return config


def to_hf(config: llama.Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    own = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False}
    return llama.write_common(config) | qwen2.write_window(config) | own
