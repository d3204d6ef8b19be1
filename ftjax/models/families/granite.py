"""Granite 3: the Llama block with multipliers of the embedding, scores, branches and logits."""

import dataclasses
from typing import Any

import jax
from flax import nnx

from ftjax.core import mesh
from ftjax.models import base, blocks, decoder
from ftjax.models.families import llama
from ftjax.models.hf import config as hf_config
from ftjax.ops import norm, remat

NAMES = llama.NAMES
EXAMPLE = llama.EXAMPLE | dict(
    model_type="granite", embedding_multiplier=3.0, attention_multiplier=0.25,
    residual_multiplier=0.6, logits_scaling=2.0,
)  # fmt: skip
MULTIPLIERS = (
    "embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(llama.Config):
    """The four multipliers; logits are divided by theirs."""

    embedding_multiplier: float
    attention_multiplier: float
    residual_multiplier: float
    logits_scaling: float


class Block(nnx.Module):
    """One decoder layer."""

    def __init__(self, config: Config, key: jax.Array):
        sizes, scale = config.sizes, config.init_scale
        attn_key, mlp_key = jax.random.split(key)
        self.norm = blocks.Norm(norm.rms_norm, 1.0, config.norm_eps)
        self.attn_norm = self.norm.declare("D", sizes)
        self.attn = blocks.Attention(
            sizes, key=attn_key, init_scale=scale, norm=self.norm, bias=config.qkv_bias,
            # In place of 1/sqrt(head_dim), not beside it.
            o_bias=config.o_bias, scale=config.attention_multiplier,
        )  # fmt: skip
        self.mlp_norm = self.norm.declare("D", sizes)
        self.mlp = blocks.GatedMlp(
            sizes, key=mlp_key, scale=scale, activation=jax.nn.silu, bias=config.mlp_bias
        )
        self.multiplier = config.residual_multiplier

    def __call__(self, x_BTD, context: base.Context, site: base.Site, cache=None):
        """Apply the layer; returns [B,T,D], their keys and values, nothing auxiliary."""
        h = self.norm(x_BTD, self.attn_norm)
        mixed, new = self.attn(h, context, site.under("attn"), cache)
        x_BTD = remat.keep(x_BTD + mixed * self.multiplier)
        made = self.mlp(self.norm(x_BTD, self.mlp_norm), site.under("mlp"))
        return mesh.constrain(x_BTD + made * self.multiplier, "BTD"), new, None


def ends(config: Config, key: jax.Array) -> blocks.Ends:
    """Make what exists once."""
    return blocks.Ends(
        config, key, norm=blocks.Norm(norm.rms_norm, 1.0, config.norm_eps),
        # The one multiplier that divides.
        embed_scale=config.embedding_multiplier, leave_scale=1 / config.logits_scaling,
    )  # fmt: skip


def make(config: Config, **options) -> decoder.Model:
    """Make the handle of a model; the options are those of `decoder.make`."""
    return decoder.make(config, ends=ends, blocks={"blocks": Block}, **options)


# -- checkpoints -----------------------------------------------------------------------------------


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `granite`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    bias = keys.get("attention_bias", False)  # absent: GraniteConfig says no
    config = llama.read_common(
        # `attention_bias` is of q, k, v and o here.
        keys, kind=Config, qkv_bias=bias, o_bias=bias, qk_norm=False, window=None,
        mlp_bias=keys.get("mlp_bias", False),  # absent: GraniteConfig says no
        norm_eps=keys.get("rms_norm_eps", 1e-6),  # absent: GraniteConfig says 1e-6
        **{name: keys.get(name, 1.0) for name in MULTIPLIERS},  # absent: GraniteConfig says 1
    )  # fmt: skip
    keys.finish()
    return config


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    common = {k: v for k, v in llama.write_common(config).items() if k != "head_dim"}
    own = {"architectures": ["GraniteForCausalLM"], "model_type": "granite"}
    biases = {"attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias}
    return common | own | biases | {name: vars(config)[name] for name in MULTIPLIERS}
