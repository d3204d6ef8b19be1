"""The Llama architecture (arXiv:2302.13971) and its close relatives: Qwen2 and Qwen3.

Pre-norm decoder: x + attention(norm(x)), then x + mlp(norm(x)); grouped-query attention with
rotary positions, SwiGLU, RMSNorm, tied or untied head. Qwen2 adds biases to q, k, v; Qwen3 norms of
q and k.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ftjax.core import mesh, tree
from ftjax.models import base, blocks, hf_config, presets
from ftjax.ops import attention, norm, rope
from ftjax.ops import remat as policies


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and numerics; none has a default, all come from a checkpoint's config or a preset."""

    vocab_size: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffw: int
    norm_eps: float
    rope: rope.Rope
    tied: bool
    qkv_bias: bool
    qk_norm: bool
    window: int | None
    max_positions: int
    init_scale: float

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes by letter of the legend."""
        return dict(
            V=self.vocab_size, D=self.dim, L=self.layers, N=self.heads, K=self.kv_heads,
            H=self.head_dim, F=self.ffw,
        )  # fmt: skip


class Block(nnx.Module):
    """One decoder layer."""

    def __init__(self, config: Config, key: jax.Array):
        sizes, scale = config.sizes, config.init_scale
        attn_key, mlp_key = jax.random.split(key)
        self.attn_norm = base.vector("D", sizes, fill=1.0)
        self.attn = blocks.Attention(
            sizes, key=attn_key, scale=scale, bias=config.qkv_bias, qk_norm=config.qk_norm,
            eps=config.norm_eps,
        )  # fmt: skip
        self.mlp_norm = base.vector("D", sizes, fill=1.0)
        self.mlp = blocks.GatedMlp(sizes, key=mlp_key, scale=scale, activation=jax.nn.silu)
        self.eps = config.norm_eps

    def __call__(self, x_BTD, context: base.Context, site: base.Site, cache=None):
        """Apply the layer; returns [B,T,D] and the written cache."""
        h = norm.rms_norm(x_BTD, self.attn_norm[...], eps=self.eps)
        mixed, cache = self.attn(h, context, site.under("attn"), cache)
        x_BTD = policies.keep(x_BTD + mixed)
        h = norm.rms_norm(x_BTD, self.mlp_norm[...], eps=self.eps)
        return mesh.constrain(x_BTD + self.mlp(h, site.under("mlp")), "BTD"), cache


class Ends(nnx.Module):
    """What exists once: the embedding, the final norm, and the head unless it is tied."""

    def __init__(self, config: Config, key: jax.Array):
        keys = jax.random.split(key)
        table = lambda key: base.weight(
            "BTD,VD->BTV", config.sizes, key=key, scale=config.init_scale
        )
        self.embed = table(keys[0])
        self.final_norm = base.vector("D", config.sizes, fill=1.0)
        if not config.tied:
            self.head = table(keys[1])


@dataclasses.dataclass(frozen=True)
class Model:
    """The handle of a decoder; see `make`. Holds no arrays."""

    config: Config
    remat: str
    scan: bool
    dtype: Any

    # -- declarations ------------------------------------------------------------------------------

    def init(self, key: jax.Array) -> base.Params:
        """Draw random parameters, float32: embed, blocks (stacked on L), final_norm[, head]."""
        ends_key, blocks_key = jax.random.split(key)
        one = lambda key: nnx.to_pure_dict(nnx.state(Block(self.config, key)))
        stacked = jax.vmap(one)(jax.random.split(blocks_key, self.config.layers))
        ends = nnx.to_pure_dict(nnx.state(Ends(self.config, ends_key)))
        return ends | {"blocks": stacked}

    @property
    def abstract(self) -> base.Params:
        """Shapes and types of every parameter, in the structure of the parameters."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def _abstract(self, module):
        return nnx.eval_shape(lambda: module(self.config, jax.random.key(0)))

    @property
    def axes(self) -> base.Params:
        """Letters of every parameter, in the structure of the parameters."""
        stack = lambda letters: "L" + letters
        inner = jax.tree.map(stack, base.metadata(self._abstract(Block), "axes"))
        return base.metadata(self._abstract(Ends), "axes") | {"blocks": inner}

    @property
    def equations(self) -> dict[str, str]:
        """The equation of every parameter by path; empty for norms and biases."""
        inner = base.metadata(self._abstract(Block), "equation")
        return tree.paths(base.metadata(self._abstract(Ends), "equation") | {"blocks": inner})

    @property
    def linears(self) -> dict[str, base.Linear]:
        """Every linear map by path (`blocks/attn/q`); the embedding is a lookup and not one."""
        block, ends = self._abstract(Block), self._abstract(Ends)
        inner = base.linears(block, stack=self.config.layers)
        outer = base.linears(ends, stack=None)
        outer.pop("embed")
        return {f"blocks/{name}": site for name, site in inner.items()} | outer

    # -- computation -------------------------------------------------------------------------------

    def hidden(
        self, params, tokens_BT, *, positions_BT, segments_BT, adapters=None, cache=None, key=None
    ):
        """Compute the final hidden states [B,T,D], after the last norm.

        Args:
          params: the model's parameters, in any float type; they are cast to the compute type.
          tokens_BT: token ids.
          positions_BT: positions, restarting in each packed example.
          segments_BT: 0 for padding, 1.. for the examples of a packed row.
          adapters: a tree that mirrors `params` and holds adapters at some paths; None = off.
          cache: from `init_cache`; slot = position. When given, (hidden, cache) is returned.
          key: for the adapters' dropout; None means evaluation.
        """
        params = jax.tree.map(lambda leaf: leaf.astype(self.dtype), params)
        context = self._context(positions_BT, segments_BT, cache)
        x = mesh.constrain(params["embed"][tokens_BT], "BTD")
        x, cache_out = self._blocks(params["blocks"], x, context, adapters or {}, cache, key)
        x = norm.rms_norm(x, params["final_norm"], eps=self.config.norm_eps)
        return x if cache is None else (x, cache_out)

    def _context(self, positions_BT, segments_BT, cache) -> base.Context:
        c = self.config
        cos, sin = rope.tables(rope.inverse_frequencies(c.rope, c.head_dim), positions_BT)
        query = (positions_BT, segments_BT)
        if cache is None:
            mask = attention.causal_mask(query, query, window=c.window)
            return base.Context(cos, sin, mask)
        length = cache["k"].shape[2]
        key_pos = jnp.broadcast_to(jnp.arange(length), (positions_BT.shape[0], length))
        key_seg = jnp.ones_like(key_pos)  # slot = position: what is not later has been written
        mask = attention.causal_mask(query, (key_pos, key_seg), window=c.window)
        return base.Context(cos, sin, mask, jnp.where(segments_BT > 0, positions_BT, length))

    def _blocks(self, params, x, context, adapters, cache, key):
        graph = nnx.graphdef(self._abstract(Block))
        layers = jnp.arange(self.config.layers)

        def body(x, inputs):
            block, adapters, cache, layer = inputs
            layer_key = None if key is None else jax.random.fold_in(key, layer)
            site = base.Site(adapters, layer_key)
            return nnx.merge(graph, block)(x, context, site, cache)

        return base.scan(
            body, x, (params, adapters.get("blocks") or {}, cache, layers),
            length=self.config.layers, policy=self.remat, loop=not self.scan,
        )  # fmt: skip

    def head(self, params, adapters=None) -> jax.Array:
        """Return the output embedding w_VD, with its adapter merged in."""
        name = "embed" if self.config.tied else "head"
        adapter = (adapters or {}).get("head")
        w = params[name]
        return w if adapter is None else adapter.merge("BTD,VD->BTV", w)

    def logits(self, params, x, *, adapters=None) -> jax.Array:
        """Compute logits [..., V] in float32 of hidden states [..., D]."""
        w = self.head(params, adapters).astype(self.dtype)
        return (x.reshape(-1, x.shape[-1]) @ w.T).reshape(*x.shape[:-1], -1).astype(jnp.float32)

    def init_cache(self, *, batch: int, length: int, dtype=None) -> dict[str, jax.Array]:
        """Make an empty cache for rows of up to `length` positions: k and v [L,B,S,K,H]."""
        c = self.config
        shape = (c.layers, batch, length, c.kv_heads, c.head_dim)
        return base.empty_cache(shape, dtype or self.dtype)


def make(config: Config, *, remat: str = "light", dtype=jnp.float32, scan: bool = True) -> Model:
    """Make the handle of a model.

    Args:
      config: sizes and numerics.
      remat: what the backward pass keeps, "none" (all), "light" or "full"; see `ops.remat`.
      dtype: the type of the computation; the parameters' own type may differ.
      scan: False unrolls the layers, for tests.
    """
    policies.check(remat)
    return Model(config, remat, scan, jnp.dtype(dtype))


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
    "blocks/attn/q_norm": "model.layers.{L}.self_attn.q_norm.weight",
    "blocks/attn/k_norm": "model.layers.{L}.self_attn.k_norm.weight",
    "blocks/mlp_norm": "model.layers.{L}.post_attention_layernorm.weight",
    "blocks/mlp/gate": "model.layers.{L}.mlp.gate_proj.weight",
    "blocks/mlp/up": "model.layers.{L}.mlp.up_proj.weight",
    "blocks/mlp/down": "model.layers.{L}.mlp.down_proj.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
}


def read_common(keys: hf_config.Keys, **special) -> Config:
    """Read what llama and its relatives have in common; `special` is the family's own fields."""
    keys.only("hidden_act", ["silu"])
    keys.only("attention_dropout", [0.0], 0.0)  # absent: LlamaConfig says 0
    dim, heads = keys.get("hidden_size"), keys.get("num_attention_heads")
    own = dict(
        vocab_size=keys.get("vocab_size"), dim=dim, layers=keys.get("num_hidden_layers"),
        heads=heads,
        kv_heads=keys.get("num_key_value_heads", heads),  # absent: LlamaConfig says one per head
        head_dim=keys.get("head_dim", dim // heads),  # absent: LlamaConfig divides
        ffw=keys.get("intermediate_size"), norm_eps=keys.get("rms_norm_eps"),
        rope=keys.rope(default_theta=10000.0),  # absent: LlamaConfig says 10000
        tied=keys.get("tie_word_embeddings", False),  # absent: LlamaConfig says no
        max_positions=keys.get("max_position_embeddings"),
        init_scale=keys.get("initializer_range", 0.02),  # absent: LlamaConfig says 0.02
    )  # fmt: skip
    return Config(**own | special)


def write_common(config: Config) -> dict[str, Any]:
    """Write the keys that `read_common` reads."""
    return {
        "attention_dropout": 0.0,
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
    keys.only("attention_bias", [False], False)  # absent: LlamaConfig says no
    keys.only("mlp_bias", [False], False)  # absent: LlamaConfig says no
    config = read_common(keys, qkv_bias=False, qk_norm=False, window=None)
    keys.finish()
    return config


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    own = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    return write_common(config) | own | {"attention_bias": False, "mlp_bias": False}
