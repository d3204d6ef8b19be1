"""GPT-2: learned positions, LayerNorms, biases everywhere, and a plain MLP with GELU.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners". One map makes queries,
keys and values, `BTD,DCNH->BTCNH` with C = 3, and stays one weight, as adapters of other libraries
have it. Checkpoints keep weights as (in, out). The dropouts in the configs are those of
pretraining; there is none here.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ftjax.core import mesh
from ftjax.models import base, blocks, decoder
from ftjax.models.hf import config as hf_config
from ftjax.ops import norm, remat

PARTS = 3  # queries, keys, values


@dataclasses.dataclass(frozen=True)
class Config(decoder.Config):
    """Sizes and numerics; kv_heads = heads, and there is no rotary embedding."""

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes by letter of the legend."""
        return super().sizes | dict(C=PARTS, S=self.max_positions)


class LayerNorm(nnx.Module):
    """A norm with scale and bias."""

    def __init__(self, sizes: Mapping[str, int], *, eps: float):
        self.scale = base.vector("D", sizes, fill=1.0)
        self.bias = base.vector("D", sizes, fill=0.0)
        self.eps = eps

    def __call__(self, x_BTD):
        """Normalise the last axis."""
        return norm.layer_norm(x_BTD, self.scale[...], self.bias[...], eps=self.eps)


def _map(site: base.Site, name: str, x, weight: nnx.Param, bias: nnx.Param):
    """Apply a linear map and its bias."""
    return site(name, x, weight) + bias[...].astype(x.dtype)


class Attention(nnx.Module):
    """Multi-head attention with one map for queries, keys and values; biases."""

    def __init__(self, config: Config, key: jax.Array):
        sizes, keys = config.sizes, jax.random.split(key)
        # Conv1D of the reference: all weights of GPT-2 but the embeddings lie (in, out).
        self.qkv = base.weight(
            "BTD,DCNH->BTCNH", sizes, key=keys[0], scale=config.init_scale, inputs_first=True
        )
        self.qkv_bias = base.vector("CNH", sizes, fill=0.0)
        self.o = base.weight(
            "BTNH,NHD->BTD", sizes, key=keys[1], scale=_residual_scale(config), inputs_first=True
        )
        self.o_bias = base.vector("D", sizes, fill=0.0)

    def __call__(self, x_BTD, context: base.Context, site: base.Site, cache=None):
        """Attend; returns the output [B,T,D] and these tokens' keys and values."""
        qkv_BTCNH = _map(site, "qkv", x_BTD, self.qkv, self.qkv_bias)
        q, k, v = (qkv_BTCNH[:, :, part] for part in range(PARTS))
        mixed, new = blocks.attend(q, k, v, context, cache, scale=q.shape[-1] ** -0.5)
        return _map(site, "o", mixed, self.o, self.o_bias), new


class Mlp(nnx.Module):
    """Feed-forward layer, down(gelu(up x)), with biases; the tanh form of GELU."""

    def __init__(self, config: Config, key: jax.Array):
        sizes, keys = config.sizes, jax.random.split(key)
        self.up = base.weight(
            "BTD,DF->BTF", sizes, key=keys[0], scale=config.init_scale, inputs_first=True
        )
        self.up_bias = base.vector("F", sizes, fill=0.0)
        self.down = base.weight(
            "BTF,FD->BTD", sizes, key=keys[1], scale=_residual_scale(config), inputs_first=True
        )
        self.down_bias = base.vector("D", sizes, fill=0.0)

    def __call__(self, x_BTD, site: base.Site):
        """Apply the layer to [B,T,D]."""
        hidden = remat.keep(_map(site, "up", x_BTD, self.up, self.up_bias))
        hidden = mesh.constrain(jax.nn.gelu(hidden, approximate=True), "BTF")
        return _map(site, "down", hidden, self.down, self.down_bias)


def _residual_scale(config: Config) -> float:
    """Start maps into the residual stream small: by 1/sqrt(their number)."""
    return config.init_scale / (2 * config.layers) ** 0.5


class Block(nnx.Module):
    """One decoder layer."""

    def __init__(self, config: Config, key: jax.Array):
        attn_key, mlp_key = jax.random.split(key)
        self.attn_norm = LayerNorm(config.sizes, eps=config.norm_eps)
        self.attn = Attention(config, attn_key)
        self.mlp_norm = LayerNorm(config.sizes, eps=config.norm_eps)
        self.mlp = Mlp(config, mlp_key)

    def __call__(self, x_BTD, context: base.Context, site: base.Site, cache=None):
        """Apply the layer; returns [B,T,D], their keys and values, nothing auxiliary."""
        mixed, new = self.attn(self.attn_norm(x_BTD), context, site.under("attn"), cache)
        x_BTD = remat.keep(x_BTD + mixed)
        x_BTD = x_BTD + self.mlp(self.mlp_norm(x_BTD), site.under("mlp"))
        return mesh.constrain(x_BTD, "BTD"), new, None


class Ends(nnx.Module):
    """What exists once: the embeddings of tokens and positions, the last norm, an untied head."""

    def __init__(self, config: Config, key: jax.Array):
        keys, sizes, scale = jax.random.split(key, 3), config.sizes, config.init_scale
        self.embed = base.weight("BTD,VD->BTV", sizes, key=keys[0], scale=scale)
        self.positions = base.table("SD", sizes, key=keys[1], scale=scale)
        self.final_norm = LayerNorm(sizes, eps=config.norm_eps)
        if not config.tied:
            self.head = base.weight("BTD,VD->BTV", sizes, key=keys[2], scale=scale)

    def enter(self, tokens_BT, positions_BT, site: base.Site):
        """Embed tokens and their positions: [B,T,D], NaN beyond the positions that there are."""
        # Plain indexing takes the last row for all that follow: wrong numbers in silence.
        places = self.positions[...].at[positions_BT].get(mode="fill", fill_value=jnp.nan)
        return site.lookup("embed", tokens_BT, self.embed) + places

    layer_inputs = blocks.Ends.layer_inputs

    def leave(self, x_BTD):
        """Normalise what the last layer gives."""
        return self.final_norm(x_BTD)


def make(config: Config, **options) -> decoder.Model:
    """Make the handle of a model; the options are those of `decoder.make`."""
    return decoder.make(config, ends=Ends, blocks={"blocks": Block}, **options)


# -- checkpoints -----------------------------------------------------------------------------------

EXAMPLE = dict(
    model_type="gpt2", vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64,
    layer_norm_epsilon=1e-5, activation_function="gelu_new", initializer_range=0.02,
)  # fmt: skip
NAMES = {
    "embed": "transformer.wte.weight",
    "positions": "transformer.wpe.weight",
    "blocks/attn_norm/scale": "transformer.h.{L}.ln_1.weight",
    "blocks/attn_norm/bias": "transformer.h.{L}.ln_1.bias",
    "blocks/attn/qkv": "transformer.h.{L}.attn.c_attn.weight",
    "blocks/attn/qkv_bias": "transformer.h.{L}.attn.c_attn.bias",
    "blocks/attn/o": "transformer.h.{L}.attn.c_proj.weight",
    "blocks/attn/o_bias": "transformer.h.{L}.attn.c_proj.bias",
    "blocks/mlp_norm/scale": "transformer.h.{L}.ln_2.weight",
    "blocks/mlp_norm/bias": "transformer.h.{L}.ln_2.bias",
    "blocks/mlp/up": "transformer.h.{L}.mlp.c_fc.weight",
    "blocks/mlp/up_bias": "transformer.h.{L}.mlp.c_fc.bias",
    "blocks/mlp/down": "transformer.h.{L}.mlp.c_proj.weight",
    "blocks/mlp/down_bias": "transformer.h.{L}.mlp.c_proj.bias",
    "final_norm/scale": "transformer.ln_f.weight",
    "final_norm/bias": "transformer.ln_f.bias",
    # Only untied exports have it.
    "head": "lm_head.weight",
}
# Dropouts of pretraining, a classifier's head, and the order of roundings in half precision.
HARMLESS = (
    "attn_pdrop", "embd_pdrop", "n_ctx", "reorder_and_upcast_attn", "resid_pdrop",
    "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type",
    "summary_use_proj", "task_specific_params",
)  # fmt: skip


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `gpt2`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    # Two names of one function.
    keys.only("activation_function", ["gelu_new", "gelu_pytorch_tanh"], "gelu_new")  # absent: that
    keys.only("add_cross_attention", [False], False)  # absent: GPT2Config says no
    keys.only("scale_attn_weights", [True], True)  # absent: GPT2Config says yes
    keys.only("scale_attn_by_inverse_layer_idx", [False], False)  # absent: GPT2Config says no
    dim, heads = keys.get("n_embd"), keys.get("n_head")
    config = Config(
        vocab_size=keys.get("vocab_size"), dim=dim, layers=keys.get("n_layer"), heads=heads,
        kv_heads=heads, head_dim=dim // heads,
        ffw=keys.get("n_inner", 4 * dim),  # absent: GPT2Config says four times
        norm_eps=keys.get("layer_norm_epsilon", 1e-5), rope=None,  # absent: GPT2Config says 1e-5
        tied=keys.get("tie_word_embeddings", True),  # absent: GPT2Config says yes
        max_positions=keys.get("n_positions"),
        init_scale=keys.get("initializer_range", 0.02),  # absent: GPT2Config says 0.02
    )  # fmt: skip
    keys.finish(harmless=HARMLESS)
    return config


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    return {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "initializer_range": config.init_scale,
        "layer_norm_epsilon": config.norm_eps,
        "model_type": "gpt2",
        "n_embd": config.dim,
        "n_head": config.heads,
        "n_inner": config.ffw,
        "n_layer": config.layers,
        "n_positions": config.max_positions,
        "tie_word_embeddings": config.tied,
        "vocab_size": config.vocab_size,
    }
