"""Qwen2 and Qwen2.5 (arXiv:2407.10671): the Llama block with biases on q, k and v."""

from typing import Any

from ftjax.models.families import llama
from ftjax.models.hf import config as hf_config

Config, make, NAMES = llama.Config, llama.make, llama.NAMES
EXAMPLE = llama.EXAMPLE | dict(model_type="qwen2")


def read_window(keys: hf_config.Keys) -> int | None:
    """Read the sliding window: none, or the same one in every layer.

    Raises:
      ValueError: the layers differ.
    """
    layers = keys.get("num_hidden_layers")
    use = keys.get("use_sliding_window", False)  # absent: Qwen2Config says no
    window = keys.get("sliding_window", 4096) if use else None  # absent: Qwen2Config says 4096
    # Released files have the numbers of a window though it is off.
    keys.seen |= {"sliding_window", "max_window_layers", "layer_types"}
    # Absent: Qwen2Config says 28. Layers from this one on have the window.
    first = keys.get("max_window_layers", 28) if use else layers
    implied = ["full_attention" if i < first else "sliding_attention" for i in range(layers)]
    kinds = set(keys.get("layer_types", implied))
    if kinds == {"full_attention"}:
        return None
    if kinds == {"sliding_attention"} and window is not None:
        return window
    raise ValueError(
        f"{keys.where}: got layers with attention {sorted(kinds)} and a window of {window}; "
        "expected one kind in all layers (use_sliding_window, max_window_layers, layer_types)"
    )


def write_window(config: llama.Config) -> dict[str, Any]:
    """Write the keys that `read_window` reads."""
    return {
        # The reference gives the window to layers from this one on: to none, or to all.
        "max_window_layers": config.layers if config.window is None else 0,
        "sliding_window": config.window,
        "use_sliding_window": config.window is not None,
    }


def from_hf(config_json: dict[str, Any]) -> llama.Config:
    """Read a config.json of model type `qwen2`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    config = llama.read_common(
        keys, qkv_bias=True, qk_norm=False, window=read_window(keys),
        kv_heads=keys.get("num_key_value_heads", 32),  # absent: Qwen2Config says 32
    )  # fmt: skip
    keys.finish()
    return config


def to_hf(config: llama.Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    own = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    return llama.write_common(config) | write_window(config) | own
