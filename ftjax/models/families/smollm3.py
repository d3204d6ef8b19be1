"""SmolLM3: the Llama block, without rotary positions in every fourth layer (arXiv:2501.18795)."""

import dataclasses
from typing import Any

from ftjax.models import decoder, layer_runs
from ftjax.models.families import llama, qwen2
from ftjax.models.hf import config as hf_config

make, NAMES = llama.make, llama.NAMES
EXAMPLE = llama.EXAMPLE | dict(
    model_type="smollm3", num_hidden_layers=4, no_rope_layers=[1, 0, 1, 0], sliding_window=None
)


@dataclasses.dataclass(frozen=True)
class Config(llama.Config):
    """Which layers rotate."""

    rotated: tuple[bool, ...]

    @property
    def kinds(self) -> tuple[decoder.Kind, ...]:
        """With and without positions; layers that were added or cut follow the period."""
        pattern = layer_runs.period(self.rotated)
        kind = lambda turn: decoder.Kind("blocks", self.window, self.rope if turn else None)
        return tuple(kind(pattern[i % len(pattern)]) for i in range(self.layers))


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `smollm3`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    count = keys.get("num_hidden_layers")
    every = keys.get("no_rope_layer_interval", 4)  # absent: SmolLM3Config says 4
    implied = [(i + 1) % every for i in range(count)]
    rotated = keys.get("no_rope_layers", implied)  # 1 where positions ARE rotated
    if len(rotated) != count:
        raise ValueError(
            f"{keys.where}: got no_rope_layers={rotated}; expected {count} numbers, one a layer"
        )
    bias = keys.get("attention_bias", False)  # absent: SmolLM3Config says no
    config = llama.read_common(
        keys, kind=Config, qkv_bias=bias, o_bias=bias, qk_norm=False,
        # Absent: SmolLM3Config says no, 4, 2000000, yes and 1e-6.
        mlp_bias=keys.get("mlp_bias", False), kv_heads=keys.get("num_key_value_heads", 4),
        window=qwen2.read_window(keys), rope=keys.rope(default_theta=2000000.0),
        tied=keys.get("tie_word_embeddings", True), norm_eps=keys.get("rms_norm_eps", 1e-6),
        rotated=tuple(map(bool, rotated)),
    )  # fmt: skip
    keys.finish()
    return config


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    common = llama.write_common(config)
    return common | qwen2.write_window(config) | {
        "architectures": ["SmolLM3ForCausalLM"],
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
        "model_type": "smollm3",
        "no_rope_layers": [int(rotated) for rotated in config.rotated],
    }  # fmt: skip
