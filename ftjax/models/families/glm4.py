"""GLM-4-0414: interleaved rotation of half of each head, norms around both branches, fused MLP.

x + norm(attention(norm(x))), then x + norm(mlp(norm(x)))
"""

import dataclasses
from typing import Any

import jax
from flax import nnx

from ftjax.core import mesh
from ftjax.models import base, blocks, decoder
from ftjax.models.families import llama, phi3
from ftjax.models.hf import config as hf_config
from ftjax.ops import norm, remat

EXAMPLE = llama.EXAMPLE | dict(
    model_type="glm4", attention_bias=True, partial_rotary_factor=0.5, eos_token_id=[2, 3]
)  # fmt: skip
NAMES = llama.NAMES | {
    # `post_attention_layernorm` stays the norm before the MLP; these two follow the branches.
    "blocks/attn_post_norm": "model.layers.{L}.post_self_attn_layernorm.weight",
    "blocks/mlp_post_norm": "model.layers.{L}.post_mlp_layernorm.weight",
    "blocks/mlp/gate_up": "model.layers.{L}.mlp.gate_up_proj.weight",
}


class Config(llama.Config):
    """A Llama's, with the letters of the fused map."""

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes by letter of the legend."""
        return super().sizes | dict(C=2)


class Block(nnx.Module):
    """One decoder layer."""

    def __init__(self, config: Config, key: jax.Array):
        sizes, scale = config.sizes, config.init_scale
        attn_key, mlp_key = jax.random.split(key)
        self.norm = blocks.Norm(norm.rms_norm, 1.0, config.norm_eps)
        self.attn_norm = self.norm.declare("D", sizes)
        self.attn = blocks.Attention(
            sizes, key=attn_key, init_scale=scale, norm=self.norm, scale=config.head_dim**-0.5,
            # None on o, whatever `attention_bias` says: the reference makes that map without one.
            bias=config.qkv_bias,
        )  # fmt: skip
        self.attn_post_norm = self.norm.declare("D", sizes)
        self.mlp_norm = self.norm.declare("D", sizes)
        self.mlp = phi3.GatedMlp(sizes, key=mlp_key, scale=scale)
        self.mlp_post_norm = self.norm.declare("D", sizes)

    def __call__(self, x_BTD, context: base.Context, site: base.Site, cache=None):
        """Apply the layer; returns [B,T,D], their keys and values, nothing auxiliary."""
        h = self.norm(x_BTD, self.attn_norm)
        mixed, new = self.attn(h, context, site.under("attn"), cache)
        x_BTD = remat.keep(x_BTD + self.norm(remat.keep(mixed), self.attn_post_norm))
        made = self.mlp(self.norm(x_BTD, self.mlp_norm), site.under("mlp"))
        # What the norm reads is kept, so that the map before it is not run again.
        made = self.norm(remat.keep(made), self.mlp_post_norm)
        return mesh.constrain(x_BTD + made, "BTD"), new, None


def make(config: Config, **options) -> decoder.Model:
    """Make the handle of a model; the options are those of `decoder.make`."""
    return decoder.make(config, ends=llama.ends, blocks={"blocks": Block}, **options)


# -- checkpoints -----------------------------------------------------------------------------------


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `glm4`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    # Absent: Glm4Config says 10000, and half of each head.
    rope = keys.rope(default_theta=10000.0, may_be_partial=True, default_partial=0.5)
    config = llama.read_common(
        keys, kind=Config, qk_norm=False, window=None,
        # Absent: Glm4Config says no, 2, 128 and 1.5625e-7.
        qkv_bias=keys.get("attention_bias", False), kv_heads=keys.get("num_key_value_heads", 2),
        head_dim=keys.get("head_dim", 128), norm_eps=keys.get("rms_norm_eps", 1.5625e-7),
        # No key says so: GLM-4 turns neighbours, GLM-4.5 halves.
        rope=dataclasses.replace(rope, interleaved=True),
    )  # fmt: skip
    keys.finish()
    return config


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    return llama.write_common(config) | {
        "architectures": ["Glm4ForCausalLM"],
        "attention_bias": config.qkv_bias,
        "model_type": "glm4",
        "partial_rotary_factor": config.rope.partial,
    }
