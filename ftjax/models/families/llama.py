"""The Llama architecture (arXiv:2302.13971) and its close relatives: Qwen2 and Qwen3.

Pre-norm decoder: x + attention(norm(x)), then x + mlp(norm(x)); grouped-query attention with
rotary positions, SwiGLU, RMSNorm, tied or untied head. Qwen2 adds biases to q, k, v; Qwen3 norms of
q and k.
"""

import dataclasses
from typing import Any

import jax
from flax import nnx

from ftjax.core import mesh
from ftjax.models import base, blocks, decoder
from ftjax.models.hf import config as hf_config
from ftjax.models.hf import presets
from ftjax.ops import norm, remat


@dataclasses.dataclass(frozen=True)
class Config(decoder.Config):
    """What the relatives switch on or off."""

    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    window: int | None

    @property
    def kinds(self) -> tuple[decoder.Kind, ...]:
        """Every layer is alike."""
        return (decoder.Kind("blocks", self.window, self.rope),) * self.layers


class Block(nnx.Module):
    """One decoder layer."""

    def __init__(self, config: Config, key: jax.Array):
        attn_key, mlp_key = jax.random.split(key)
        self.norm = blocks.Norm(norm.rms_norm, 1.0, config.norm_eps)
        self.attn_norm = self.norm.declare("D", config.sizes)
        self.attn = self.attention(config, attn_key)
        self.mlp_norm = self.norm.declare("D", config.sizes)
        self.mlp = self.feed_forward(config, mlp_key)

    def attention(self, config: Config, key: jax.Array) -> nnx.Module:
        """Make the attention; relatives have their own."""
        return blocks.Attention(
            config.sizes, key=key, init_scale=config.init_scale, norm=self.norm,
            scale=config.head_dim**-0.5, bias=config.qkv_bias, o_bias=config.o_bias,
            norms=("H", "H") if config.qk_norm else None,
        )  # fmt: skip

    def feed_forward(self, config: Config, key: jax.Array) -> nnx.Module:
        """Make the MLP; relatives have their own."""
        return blocks.GatedMlp(
            config.sizes, key=key, scale=config.init_scale, activation=jax.nn.silu,
            bias=config.mlp_bias,
        )  # fmt: skip

    def __call__(self, x_BTD, context: base.Context, site: base.Site, cache=None):
        """Apply the layer; returns [B,T,D], their keys and values, nothing auxiliary."""
        h = self.norm(x_BTD, self.attn_norm)
        mixed, new = self.attn(h, context, site.under("attn"), cache)
        # Kept with the stream in it: the map out of attention is then not run again.
        x_BTD = remat.keep(x_BTD + mixed)
        h = self.norm(x_BTD, self.mlp_norm)
        return mesh.constrain(x_BTD + self.mlp(h, site.under("mlp")), "BTD"), new, None


def ends(config: decoder.Config, key: jax.Array) -> blocks.Ends:
    """Make what exists once."""
    return blocks.Ends(config, key, norm=blocks.Norm(norm.rms_norm, 1.0, config.norm_eps))


def make(config: Config, **options) -> decoder.Model:
    """Make the handle of a model; the options are those of `decoder.make`."""
    return decoder.make(config, ends=ends, blocks={"blocks": Block}, **options)


# -- checkpoints -----------------------------------------------------------------------------------

EXAMPLE = presets.PRESETS["nano"]  # a config.json, for tests
# Our path -> name in checkpoints; {L} is the layer. Shapes follow from the equations.
NAMES = {
    "embed": "model.embed_tokens.weight",
    "blocks/attn_norm": "model.layers.{L}.input_layernorm.weight",
    "blocks/attn/q": "model.layers.{L}.self_attn.q_proj.weight",
    "blocks/attn/k": "model.layers.{L}.self_attn.k_proj.weight",
    "blocks/attn/v": "model.layers.{L}.self_attn.v_proj.weight",
    "blocks/attn/o": "model.layers.{L}.self_attn.o_proj.weight",
    "blocks/attn/q_bias": "model.layers.{L}.self_attn.q_proj.bias",
    "blocks/attn/k_bias": "model.layers.{L}.self_attn.k_proj.bias",
    "blocks/attn/v_bias": "model.layers.{L}.self_attn.v_proj.bias",
    "blocks/attn/o_bias": "model.layers.{L}.self_attn.o_proj.bias",
    "blocks/attn/q_norm": "model.layers.{L}.self_attn.q_norm.weight",
    "blocks/attn/k_norm": "model.layers.{L}.self_attn.k_norm.weight",
    # Named after what it follows: it is the norm before the MLP.
    "blocks/mlp_norm": "model.layers.{L}.post_attention_layernorm.weight",
    "blocks/mlp/gate": "model.layers.{L}.mlp.gate_proj.weight",
    "blocks/mlp/up": "model.layers.{L}.mlp.up_proj.weight",
    "blocks/mlp/down": "model.layers.{L}.mlp.down_proj.weight",
    "blocks/mlp/gate_bias": "model.layers.{L}.mlp.gate_proj.bias",
    "blocks/mlp/up_bias": "model.layers.{L}.mlp.up_proj.bias",
    "blocks/mlp/down_bias": "model.layers.{L}.mlp.down_proj.bias",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
}


def read_common(keys: hf_config.Keys, *, kind: type = Config, **special) -> decoder.Config:
    """Read what llama and its relatives have in common; `special` is the family's own fields."""
    # Configs of Gemma 1 to 3, which are none of these, name their activation otherwise.
    if issubclass(kind, Config):
        keys.only("hidden_act", ["silu"], "silu")  # absent: LlamaConfig says silu
        special = dict(o_bias=False, mlp_bias=False) | special
    # There is no such dropout here: another value would be dropped in silence.
    keys.only("attention_dropout", [0.0], 0.0)  # absent: LlamaConfig says 0
    dim, heads = keys.get("hidden_size"), keys.get("num_attention_heads")
    own = dict(
        vocab_size=keys.get("vocab_size"), dim=dim, layers=keys.get("num_hidden_layers"),
        heads=heads,
        kv_heads=keys.get("num_key_value_heads", heads),  # absent: LlamaConfig says one per head
        head_dim=keys.get("head_dim", dim // heads),  # absent: LlamaConfig divides
        ffw=keys.get("intermediate_size"),
        norm_eps=keys.get("rms_norm_eps", 1e-6),  # absent: LlamaConfig says 1e-6
        # Absent: LlamaConfig says 10000.
        rope=special.get("rope") or keys.rope(default_theta=10000.0),
        tied=keys.get("tie_word_embeddings", False),  # absent: LlamaConfig says no
        max_positions=keys.get("max_position_embeddings"),
        init_scale=keys.get("initializer_range", 0.02),  # absent: LlamaConfig says 0.02
    )  # fmt: skip
    return kind(**own | special)


def write_common(config: Config) -> dict[str, Any]:
    """Write the keys that `read_common` reads."""
    return {
        "attention_dropout": 0.0,
        # Written even where it follows from the others: it is not dim / heads in every model.
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.dim,
        "initializer_range": config.init_scale,
        "intermediate_size": config.ffw,
        "max_position_embeddings": config.max_positions,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "vocab_size": config.vocab_size,
    } | hf_config.rope_json(config.rope)


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `llama`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    bias = keys.get("attention_bias", False)  # absent: LlamaConfig says no
    config = read_common(
        # One key for q, k, v and o; relatives leave o out.
        keys, qkv_bias=bias, o_bias=bias, qk_norm=False, window=None,
        mlp_bias=keys.get("mlp_bias", False),  # absent: LlamaConfig says no
    )  # fmt: skip
    keys.finish()
    return config


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    own = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    biases = {"attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias}
    return write_common(config) | own | biases
