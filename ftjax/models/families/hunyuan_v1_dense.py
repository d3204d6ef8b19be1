"""Hunyuan, dense: the Llama block with norms of q and k after a rotation of a rescaled base."""

import dataclasses
from typing import Any

import jax

from ftjax.models import base, blocks, decoder
from ftjax.models.families import llama
from ftjax.models.hf import config as hf_config
from ftjax.ops import remat, rope

EXAMPLE = llama.EXAMPLE | dict(
    model_type="hunyuan_v1_dense", rope_scaling=dict(type="dynamic", alpha=10.0, factor=1.0)
)  # fmt: skip
NAMES = llama.NAMES | {
    "blocks/attn/q_norm": "model.layers.{L}.self_attn.query_layernorm.weight",
    "blocks/attn/k_norm": "model.layers.{L}.self_attn.key_layernorm.weight",
}
Config = llama.Config
# In the rotary dictionary, and read by nothing where there is an alpha.
UNREAD = ("beta_fast", "beta_slow", "factor", "mscale", "mscale_all_dim")


class Attention(blocks.Attention):
    """Attention whose norms of queries and keys come after the rotation."""

    def __call__(self, x_BTD, context: base.Context, site: base.Site, cache=None):
        """Attend; returns the output [B,T,D] and these tokens' keys and values."""
        q, k, v = (site(n, x_BTD, p) for n, p in (("q", self.q), ("k", self.k), ("v", self.v)))
        if self.bias:
            add = blocks.add
            q, k, v = add(q, self.q_bias), add(k, self.k_bias), add(v, self.v_bias)
        q, k = (remat.keep(rope.rotate(x, *context.rotation)) for x in (q, k))
        q, k = self.norm(q, self.q_norm), self.norm(k, self.k_norm)
        # Done already: `attend` must not rotate again.
        context = dataclasses.replace(context, rotation=None)
        mixed, new = blocks.attend(q, k, v, context, cache, scale=self.scale)
        return self.out(mixed, site), new


class Block(llama.Block):
    """One decoder layer."""

    def attention(self, config: Config, key: jax.Array) -> Attention:
        """Make the attention with late norms."""
        return Attention(
            config.sizes, key=key, init_scale=config.init_scale, norm=self.norm,
            scale=config.head_dim**-0.5, bias=config.qkv_bias, o_bias=config.o_bias,
            norms=("H", "H"),
        )  # fmt: skip


def make(config: Config, **options) -> decoder.Model:
    """Make the handle of a model; the options are those of `decoder.make`."""
    return decoder.make(config, ends=llama.ends, blocks={"blocks": Block}, **options)


# -- checkpoints -----------------------------------------------------------------------------------


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `hunyuan_v1_dense`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    keys.only("use_qk_norm", [True], True)  # the reference reads no such key, and normalises
    bias = keys.get("attention_bias", False)  # absent: HunYuanDenseV1Config says no
    config = llama.read_common(
        keys, qkv_bias=bias, o_bias=bias, qk_norm=True, window=None, rope=_read_rope(keys),
        norm_eps=keys.get("rms_norm_eps", 1e-5),  # absent: HunYuanDenseV1Config says 1e-5
    )  # fmt: skip
    keys.finish(harmless=["eod_token_id"])
    return config


def _read_rope(keys: hf_config.Keys) -> rope.Rope:
    """Read the rotary embedding: "dynamic" with an alpha, which no other family has, or another."""
    given = dict(keys.get("rope_parameters", keys.get("rope_scaling", {})))
    if not given.get("alpha"):
        return keys.rope(default_theta=10000.0)  # absent: HunYuanDenseV1Config says 10000
    kinds = {given.pop(name, "dynamic") for name in ("rope_type", "type")}
    theta = given.pop("rope_theta", None) or keys.get("rope_theta", 10000.0)
    unknown = given.keys() - {"alpha", *UNREAD}
    if kinds != {"dynamic"} or unknown:
        raise ValueError(
            f"{keys.where}: got an alpha with rope_type {sorted(kinds)} and {sorted(unknown)}; "
            f"expected 'dynamic' and at most {UNREAD} beside it"
        )
    # For `finish`: the newer dialect may have it in both places.
    keys.get("rope_theta", theta)
    # The alpha changes the base once; what others call dynamic follows the length of the input.
    return rope.Rope(float(theta), "dynamic", (("alpha", float(given["alpha"])),))


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    written = llama.write_common(config) | {
        "architectures": ["HunYuanDenseV1ForCausalLM"],
        "attention_bias": config.qkv_bias,
        "model_type": "hunyuan_v1_dense",
    }
    if config.rope.kind == "dynamic":  # the reference asks for a factor, and then reads the alpha
        written["rope_scaling"] |= {"factor": 1.0}
    return written
