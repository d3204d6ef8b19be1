"""Seed-OSS: the Llama block with biases on q, k and v, none on the output.

The dropouts in its configs are those of pretraining; there is none here.
"""

from typing import Any

from ftjax.models.families import llama
from ftjax.models.hf import config as hf_config

Config, make, NAMES = llama.Config, llama.make, llama.NAMES
EXAMPLE = llama.EXAMPLE | dict(model_type="seed_oss", attention_bias=True, attention_out_bias=False)
DROPOUTS = ("attention_dropout", "residual_dropout")


def from_hf(config_json: dict[str, Any]) -> llama.Config:
    """Read a config.json of model type `seed_oss`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    # Taken out before reading: other families refuse a dropout, this one's files have 0.1.
    keys = hf_config.Keys({k: v for k, v in config_json.items() if k not in DROPOUTS})
    config = llama.read_common(
        keys, qk_norm=False, window=None,
        # Absent: SeedOssConfig says yes, no, no and 128.
        qkv_bias=keys.get("attention_bias", True), o_bias=keys.get("attention_out_bias", False),
        mlp_bias=keys.get("mlp_bias", False), head_dim=keys.get("head_dim", 128),
    )  # fmt: skip
    keys.finish()
    return config


def to_hf(config: llama.Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    return llama.write_common(config) | {
        "architectures": ["SeedOssForCausalLM"],
        "attention_bias": config.qkv_bias,
        "attention_out_bias": config.o_bias,
        "mlp_bias": config.mlp_bias,
        "model_type": "seed_oss",
        # Off, as it was here.
        "residual_dropout": 0.0,
    }
