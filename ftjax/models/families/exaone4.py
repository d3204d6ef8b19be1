"""EXAONE 4 (arXiv:2507.11407): norms after both branches and of q and k; local and global layers.

Local layers have a window and rotary positions, global ones neither. Without a window all layers
are global and have positions.
"""

import dataclasses
from typing import Any

import jax

from ftjax.models import blocks, decoder, layer_runs
from ftjax.models.families import gemma, llama, olmo2
from ftjax.models.hf import config as hf_config
from ftjax.ops import norm

NAMES = olmo2.NAMES
EXAMPLE = llama.EXAMPLE | dict(
    model_type="exaone4", num_hidden_layers=4, sliding_window=4, sliding_window_pattern="LG"
)


@dataclasses.dataclass(frozen=True)
class Config(llama.Config):
    """Layer i has the window if `local[i % len(local)]`."""

    local: tuple[bool, ...]

    @property
    def kinds(self) -> tuple[decoder.Kind, ...]:
        """Local and global layers in turn."""
        near = decoder.Kind("blocks", self.window, self.rope)
        # Without a window there is no other kind of layer: positions must then be here.
        far = decoder.Kind("blocks", None, self.rope if self.window is None else None)
        return tuple(near if local else far for local in self.locals)

    @property
    def locals(self) -> tuple[bool, ...]:
        """Which layers are local."""
        return tuple(self.local[i % len(self.local)] for i in range(self.layers))


class Block(olmo2.Block):
    """One decoder layer; q and k are normalised head by head."""

    def __init__(self, config: Config, key: jax.Array):
        sizes, scale = config.sizes, config.init_scale
        attn_key, mlp_key = jax.random.split(key)
        # Llama's norm, though the block is OLMo 2's: the scale enters after the cast back.
        self.norm = blocks.Norm(norm.rms_norm, 1.0, config.norm_eps)
        self.attn = blocks.Attention(
            sizes, key=attn_key, init_scale=scale, norm=self.norm, scale=config.head_dim**-0.5,
            norms=("H", "H"),
        )  # fmt: skip
        self.attn_post_norm = self.norm.declare("D", sizes)
        self.mlp = blocks.GatedMlp(sizes, key=mlp_key, scale=scale, activation=jax.nn.silu)
        self.mlp_post_norm = self.norm.declare("D", sizes)


def make(config: Config, **options) -> decoder.Model:
    """Make the handle of a model; the options are those of `decoder.make`."""
    return decoder.make(config, ends=llama.ends, blocks={"blocks": Block}, **options)


# -- checkpoints -----------------------------------------------------------------------------------


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `exaone4`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    window = keys.nullable("sliding_window", 4096)  # absent: Exaone4Config says 4096
    config = llama.read_common(
        keys, kind=Config, qkv_bias=False, qk_norm=True, window=window,
        # A pattern without a window says nothing: small models have null for both.
        local=(False,) if window is None else _read_local(keys),
        # Absent: Exaone4Config says 32 and 1e-5.
        kv_heads=keys.get("num_key_value_heads", 32), norm_eps=keys.get("rms_norm_eps", 1e-5),
    )  # fmt: skip
    # Read above, unless there is no window.
    keys.finish(harmless=["layer_types", "sliding_window_pattern"])
    return config


def _read_local(keys: hf_config.Keys) -> tuple[bool, ...]:
    """Read which layers are local: a list, or a pattern "LLLG", or all but each n-th.

    The reference makes the last layer of a pattern global.
    """
    count, pattern = keys.get("num_hidden_layers"), keys.get("sliding_window_pattern", 4)
    if isinstance(pattern, str) and "layer_types" not in keys.json:
        kinds = [pattern[i % len(pattern)] == "L" and i < count - 1 for i in range(count)]
        return layer_runs.period(kinds)
    return gemma.read_local(keys, every=pattern if isinstance(pattern, int) else len(pattern))


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    return llama.write_common(config) | {
        "architectures": ["Exaone4ForCausalLM"],
        # The list: no pattern says every one, since its last layer is always global.
        "layer_types": [gemma.LOCAL[local] for local in config.locals],
        "model_type": "exaone4",
        "sliding_window": config.window,
    }
