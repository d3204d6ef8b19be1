"""Phi-3 (arXiv:2404.14219): the Llama block with fused projections, and longrope.

One map makes queries, keys and values, `BTD,DJH->BTJH` with J = N + 2K heads; one makes the gate
and the input of the MLP, `BTD,DCF->BTCF` with C = 2. Each stays one weight, since adapters of other
libraries treat it as one. The rotation may be partial, and all layers may have a window.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ftjax.core import mesh
from ftjax.models import base, blocks, decoder
from ftjax.models.families import llama
from ftjax.models.hf import config as hf_config
from ftjax.ops import remat


class Config(llama.Config):
    """A Llama's, with the letters of the fused maps."""

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes by letter of the legend."""
        return super().sizes | dict(J=self.heads + 2 * self.kv_heads, C=2)


class Attention(nnx.Module):
    """Attention whose queries, keys and values come out of one map."""

    def __init__(self, sizes: Mapping[str, int], *, key, scale):
        keys = jax.random.split(key)
        # Heads are one axis over queries, keys and values, as in files: they differ in number.
        self.qkv = base.weight("BTD,DJH->BTJH", sizes, key=keys[0], scale=scale)
        self.o = base.weight("BTNH,NHD->BTD", sizes, key=keys[1], scale=scale)
        self.ends = sizes["N"], sizes["N"] + sizes["K"]

    def __call__(self, x_BTD, context: base.Context, site: base.Site, cache=None):
        """Attend; returns the output [B,T,D] and these tokens' keys and values."""
        q, k, v = jnp.split(site("qkv", x_BTD, self.qkv), self.ends, axis=2)
        mixed, new = blocks.attend(q, k, v, context, cache, scale=q.shape[-1] ** -0.5)
        return site("o", mixed, self.o), new


class GatedMlp(nnx.Module):
    """Gated feed-forward layer whose gate and input come out of one map."""

    def __init__(self, sizes: Mapping[str, int], *, key, scale):
        keys = jax.random.split(key)
        self.gate_up = base.weight("BTD,DCF->BTCF", sizes, key=keys[0], scale=scale)
        self.down = base.weight("BTF,FD->BTD", sizes, key=keys[1], scale=scale)

    def __call__(self, x_BTD, site: base.Site):
        """Apply the layer to [B,T,D]."""
        both = remat.keep(site("gate_up", x_BTD, self.gate_up))
        # The rows of the gate lie first in `gate_up_proj`.
        hidden = mesh.constrain(jax.nn.silu(both[:, :, 0]) * both[:, :, 1], "BTF")
        return site("down", hidden, self.down)


class Block(llama.Block):
    """One decoder layer."""

    def attention(self, config: Config, key: jax.Array) -> Attention:
        """Make the attention with one map."""
        return Attention(config.sizes, key=key, scale=config.init_scale)

    def feed_forward(self, config: Config, key: jax.Array) -> GatedMlp:
        """Make the MLP with one map."""
        return GatedMlp(config.sizes, key=key, scale=config.init_scale)


def make(config: Config, **options) -> decoder.Model:
    """Make the handle of a model; the options are those of `decoder.make`."""
    return decoder.make(config, ends=llama.ends, blocks={"blocks": Block}, **options)


# -- checkpoints -----------------------------------------------------------------------------------

# Longrope of a part of each head, with the border in the middle of short rows.
EXAMPLE = llama.EXAMPLE | dict(
    model_type="phi3", hidden_size=64, head_dim=None, original_max_position_embeddings=8,
    partial_rotary_factor=0.5,
    rope_scaling=dict(
        type="longrope", short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[1.5, 2.2, 2.9, 3.5]
    ),
)  # fmt: skip
NAMES = llama.NAMES | {
    "blocks/attn/qkv": "model.layers.{L}.self_attn.qkv_proj.weight",
    "blocks/mlp/gate_up": "model.layers.{L}.mlp.gate_up_proj.weight",
}


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `phi3`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(_renamed(config_json))
    keys.only("attention_bias", [False], False)  # absent: Phi3 has none
    for name in ("embd_pdrop", "resid_pdrop"):
        keys.only(name, [0.0], 0.0)  # absent: Phi3Config says 0
    heads, dim = keys.get("num_attention_heads"), keys.get("hidden_size")
    common = llama.read_common(
        keys, qkv_bias=False, qk_norm=False, window=keys.get("sliding_window", None),
        head_dim=dim // heads,
        norm_eps=keys.get("rms_norm_eps", 1e-5),  # absent: Phi3Config says 1e-5
        rope=keys.rope(default_theta=10000.0, may_be_partial=True),  # absent: Phi3Config says 10000
    )  # fmt: skip
    keys.finish(harmless={"original_max_position_embeddings"})  # used by longrope alone
    return Config(**vars(common))


def _renamed(config_json: Mapping[str, Any]) -> dict[str, Any]:
    """Call longrope by its name in configs from before it had one."""
    scaling = config_json.get("rope_scaling") or {}
    # Phi3Config takes both of these older names for longrope.
    if scaling.get("type") not in ("su", "yarn"):
        return dict(config_json)
    return dict(config_json) | {"rope_scaling": scaling | {"type": "longrope"}}


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    own = {
        "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "sliding_window": config.window,
        "partial_rotary_factor": config.rope.partial,
        "original_max_position_embeddings": config.max_positions,
        "embd_pdrop": 0.0, "resid_pdrop": 0.0,
    }  # fmt: skip
    written = llama.write_common(config) | own
    written.pop("head_dim")  # it follows from the others
    if config.rope.kind == "longrope":
        # The older dialect allows exactly three keys here; the rest follows from other places.
        numbers = dict(config.rope.numbers)
        original = numbers.pop("original_max_position_embeddings")
        if numbers["factor"] == config.max_positions / original:
            numbers.pop("factor")
        written["original_max_position_embeddings"] = original
        written["rope_scaling"] = {"type": "longrope"} | numbers
    return written
