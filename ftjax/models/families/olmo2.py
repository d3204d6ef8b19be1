"""OLMo 2 (arXiv:2501.00656): norms after attention and MLP, and of q and k over their whole width.

x + norm(attention(x)), then x + norm(mlp(x))
"""

from typing import Any

import jax
from flax import nnx

from ftjax.core import mesh
from ftjax.models import base, blocks, decoder
from ftjax.models.families import llama
from ftjax.models.hf import config as hf_config
from ftjax.ops import norm, remat

Config = llama.Config
EXAMPLE = llama.EXAMPLE | dict(model_type="olmo2")


class Block(nnx.Module):
    """One decoder layer."""

    def __init__(self, config: Config, key: jax.Array):
        sizes, scale = config.sizes, config.init_scale
        attn_key, mlp_key = jax.random.split(key)
        # One rounding, after the scale: OLMo 2 was trained so, Llama with two.
        self.norm = blocks.Norm(norm.rms_norm_wide, 1.0, config.norm_eps)
        self.attn = blocks.Attention(
            sizes, key=attn_key, init_scale=scale, norm=self.norm, scale=config.head_dim**-0.5,
            norms=("NH", "KH"),
        )  # fmt: skip
        self.attn_post_norm = self.norm.declare("D", sizes)
        self.mlp = blocks.GatedMlp(sizes, key=mlp_key, scale=scale, activation=jax.nn.silu)
        self.mlp_post_norm = self.norm.declare("D", sizes)

    def __call__(self, x_BTD, context: base.Context, site: base.Site, cache=None):
        """Apply the layer; returns [B,T,D], their keys and values, nothing auxiliary."""
        # The stream itself goes in: norms stand behind the branches alone.
        mixed, new = self.attn(x_BTD, context, site.under("attn"), cache)
        # What the norm reads is kept, so that the map before it is not run again.
        x_BTD = remat.keep(x_BTD + self.norm(remat.keep(mixed), self.attn_post_norm))
        made = remat.keep(self.mlp(x_BTD, site.under("mlp")))
        x_BTD = x_BTD + self.norm(made, self.mlp_post_norm)
        return mesh.constrain(x_BTD, "BTD"), new, None


def ends(config: Config, key: jax.Array) -> blocks.Ends:
    """Make what exists once."""
    return blocks.Ends(config, key, norm=blocks.Norm(norm.rms_norm_wide, 1.0, config.norm_eps))


def make(config: Config, **options) -> decoder.Model:
    """Make the handle of a model; the options are those of `decoder.make`."""
    return decoder.make(config, ends=ends, blocks={"blocks": Block}, **options)


# -- checkpoints -----------------------------------------------------------------------------------

NAMES = {
    path: name for path, name in llama.NAMES.items() if path.split("/")[-1] not in (
        "attn_norm", "mlp_norm", "q_bias", "k_bias", "v_bias"
    )
} | {
    # The name that Llama has for the norm before its MLP means what it says here.
    "blocks/attn_post_norm": "model.layers.{L}.post_attention_layernorm.weight",
    "blocks/mlp_post_norm": "model.layers.{L}.post_feedforward_layernorm.weight",
}  # fmt: skip


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `olmo2`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    keys.only("attention_bias", [False], False)  # absent: Olmo2Config says no
    config = llama.read_common(
        keys, qkv_bias=False, qk_norm=True, window=None,
        norm_eps=keys.get("rms_norm_eps", 1e-5),  # absent: Olmo2Config says 1e-5
    )  # fmt: skip
    keys.finish()
    return config


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    own = {"architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "attention_bias": False}
    return llama.write_common(config) | own
