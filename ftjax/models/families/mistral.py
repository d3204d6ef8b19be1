"""Mistral 7B (arXiv:2310.06825): the Llama block, with a sliding window in every layer."""

from typing import Any

from ftjax.models.families import llama
from ftjax.models.hf import config as hf_config

Config, make, NAMES = llama.Config, llama.make, llama.NAMES
EXAMPLE = llama.EXAMPLE | dict(model_type="mistral", sliding_window=4)


def from_hf(config_json: dict[str, Any]) -> llama.Config:
    """Read a config.json of model type `mistral`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    # Null is a value of its own: v0.2 and later have no window.
    window = keys.nullable("sliding_window", 4096)  # absent: MistralConfig says 4096
    # Absent: MistralConfig says 8, where llama has one for each head.
    kv_heads = keys.get("num_key_value_heads", 8)
    config = llama.read_common(
        keys, qkv_bias=False, qk_norm=False, window=window, kv_heads=kv_heads
    )
    keys.finish()
    return config


def to_hf(config: llama.Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    own = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    return llama.write_common(config) | own | {"sliding_window": config.window}
