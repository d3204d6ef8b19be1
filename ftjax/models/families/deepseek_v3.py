"""DeepSeek-V3 (arXiv:2412.19437): latent attention (MLA), and experts in groups.

    c = norm(x W_a), r = rotated part of x W_a        cached: one row of both for all heads
    k_n = [c W_k, r], v_n = c W_v                     scores of the two parts add up

A decoder reads its cache as it lies: queries go through W_k and mixtures of latents through W_v, so
that attention has one key head, the latent's own.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ftjax.core import mesh
from ftjax.models import base, blocks, decoder, experts
from ftjax.models.families import glm4_moe, llama
from ftjax.models.hf import config as hf_config
from ftjax.ops import attention, norm, products, remat, rope

LATENT_EPS = 1e-6  # of the latents' norms, whatever the config has for the others
CACHE = {"latent": "LBOXS"}
EXAMPLE = {k: v for k, v in glm4_moe.EXAMPLE.items() if k not in (
    "use_qk_norm", "partial_rotary_factor", "head_dim", "attention_bias",
)} | dict(
    model_type="deepseek_v3", num_key_value_heads=4, q_lora_rank=14, kv_lora_rank=10,
    qk_nope_head_dim=6, qk_rope_head_dim=8, v_head_dim=12,
)  # fmt: skip
ATTENTION = {
    "attn/q_a": "q_a_proj.weight", "attn/q_a_norm": "q_a_layernorm.weight",
    "attn/q_b": "q_b_proj.weight", "attn/q": "q_proj.weight",
    "attn/kv_a": "kv_a_proj_with_mqa.weight", "attn/kv_a_norm": "kv_a_layernorm.weight",
    "attn/kv_b": "kv_b_proj.weight", "attn/o": "o_proj.weight",
}  # fmt: skip
ALL = experts.names(glm4_moe.MOE)
NAMES = {path: name for path, name in ALL.items() if "/attn/" not in path} | {
    f"{stack}/{path}": f"model.layers.{{L}}.self_attn.{name}"
    for stack in ("blocks", "dense") for path, name in ATTENTION.items()
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(glm4_moe.Config):
    """Sizes of the latents; `head_dim` is that of values."""

    q_rank: int | None
    kv_rank: int
    plain_dim: int  # features of a query and a key that do not rotate
    rope_dim: int

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes by letter: A features of a query, Y of a key's plain part and a value."""
        own = dict(
            A=self.plain_dim + self.rope_dim, W=self.kv_rank, X=self.kv_rank + self.rope_dim,
            Y=self.plain_dim + self.head_dim,
        )  # fmt: skip
        return super().sizes | own | ({"Q": self.q_rank} if self.q_rank else {})

    @property
    def kinds(self) -> tuple[decoder.Kind, ...]:
        """A plain MLP, then experts; a part of a head rotates."""
        return tuple(
            # Rotary tables are as wide as what rotates, and not as the whole head.
            dataclasses.replace(kind, head_dim=self.rope_dim) for kind in super().kinds
        )  # fmt: skip

    @property
    def score_scale(self) -> float:
        """What multiplies scores: yarn makes them grow with the context."""
        numbers = dict(self.rope.numbers)
        grown = rope.yarn_temperature(numbers.get("factor", 1.0), numbers.get("mscale_all_dim", 0))
        # Squared, since a factor of scores stands for one of queries and one of keys.
        return (self.plain_dim + self.rope_dim) ** -0.5 * grown**2


class Attention(nnx.Module):
    """Latent attention."""

    def __init__(self, config: Config, key: jax.Array):
        sizes, keys = config.sizes, jax.random.split(key, 5)
        declare = lambda equation, key: base.weight(
            equation, sizes, key=key, scale=config.init_scale
        )
        self.norm = blocks.Norm(norm.rms_norm, 1.0, LATENT_EPS)
        # `q_lora_rank` may be null: queries then come from one plain map.
        if config.q_rank is None:
            self.q = declare("BTD,DNA->BTNA", keys[0])
        else:
            self.q_a = declare("BTD,DQ->BTQ", keys[0])
            self.q_a_norm = self.norm.declare("Q", sizes)
            self.q_b = declare("BTQ,QNA->BTNA", keys[1])
        # One map for the latent and for the rotated key, which has one head for all queries.
        self.kv_a = declare("BTD,DX->BTX", keys[2])
        self.kv_a_norm = self.norm.declare("W", sizes)
        self.kv_b = declare("BTW,WNY->BTNY", keys[3])
        self.o = declare("BTNH,NHD->BTD", keys[4])
        self.config = config

    def _queries(self, x_BTD, context: base.Context, site: base.Site):
        """Make queries [B,T,N,A], their last features rotated."""
        c = self.config
        if c.q_rank is None:
            q = site("q", x_BTD, self.q)
        else:
            low = remat.keep(site("q_a", x_BTD, self.q_a))
            q = site("q_b", self.norm(low, self.q_a_norm), self.q_b)
        turned = rope.rotate(q[..., c.plain_dim :], *context.rotation)
        return jnp.concatenate([q[..., : c.plain_dim], turned], axis=-1)

    def _latents(self, x_BTD, context: base.Context, site: base.Site):
        """Make what is cached [B,T,1,X]: a normalised latent and a rotated key for all heads."""
        rank, both = self.config.kv_rank, remat.keep(site("kv_a", x_BTD, self.kv_a))[:, :, None]
        turned = rope.rotate(both[..., rank:], *context.rotation)
        # Normalised and rotated before caching: neither depends on the query.
        return jnp.concatenate([self.norm(both[..., :rank], self.kv_a_norm), turned], axis=-1)

    def __call__(self, x_BTD, context: base.Context, site: base.Site, cache=None):
        """Attend; returns the output [B,T,D] and these tokens' latents."""
        q, own = self._queries(x_BTD, context, site), self._latents(x_BTD, context, site)
        every = own
        if context.prefix is not None:
            before = context.prefix["latent"].astype(own.dtype)
            before = jnp.broadcast_to(before, (own.shape[0], *before.shape[1:]))
            every = jnp.concatenate([before, own], axis=1)
        # Over a whole row heads of their own cost less: 192 features where the latent has 576. A
        # step of decoding would expand the whole cache for one query.
        attend = self._expanded if cache is None else functools.partial(self._absorbed, cache)
        mixed = mesh.constrain(attend(q, every, context, site), "BTNH")
        return site("o", mixed, self.o), {"latent": own}

    def _expanded(self, q, latents_BS1X, context: base.Context, site: base.Site):
        """Make keys and values of every head, and attend to them."""
        c, rows = self.config, latents_BS1X[:, :, 0]
        both = site("kv_b", rows[..., : c.kv_rank], self.kv_b)
        shape = (*both.shape[:3], c.rope_dim)
        turned = jnp.broadcast_to(rows[:, :, None, c.kv_rank :], shape)
        k = jnp.concatenate([both[..., : c.plain_dim], turned], axis=-1)
        # Of each head the plain part of its key lies first, then its value.
        v = both[..., c.plain_dim :]
        return attention.attend_causal(q, k, v, context.visible, scale=c.score_scale)

    def _absorbed(self, cache, q, latents_BS1X, context: base.Context, site: base.Site):
        """Attend to latents, one key head for all, as the cache has them."""
        c = self.config
        # Keys and values are never made here, so an adapter of their map must be in the weight.
        w_WNY = site.merged("kv_b", self.kv_b, q.dtype).astype(q.dtype)
        to_latent = products.einsum(
            "BTNA,WNA->BTNW", q[..., : c.plain_dim], w_WNY[..., : c.plain_dim]
        )
        q = jnp.concatenate([to_latent, q[..., c.plain_dim :]], axis=-1)
        past = base.read_array(cache, "latent", q.dtype)  # [B,1,X,S]
        keys = past, latents_BS1X.transpose(0, 2, 3, 1)
        masks = context.past_BTS, context.visible.mask()
        # Values are the latents themselves, without the rotated part of the key.
        parts = [
            (k, k[:, :, : c.kv_rank].swapaxes(2, 3), m) for k, m in zip(keys, masks, strict=True)
        ]
        mixed_BTNW = attention.attend_cached(q, parts, scale=c.score_scale)
        return products.einsum("BTNW,WNH->BTNH", mixed_BTNW, w_WNY[..., c.plain_dim :])


class Block(glm4_moe.Block):
    """One decoder layer with experts."""

    def attention(self, config: Config, key: jax.Array) -> Attention:
        """Make the latent attention."""
        return Attention(config, key)


class DenseBlock(llama.Block):
    """One decoder layer with an MLP."""

    attention = Block.attention


make = functools.partial(
    experts.make, blocks={"blocks": Block, "dense": DenseBlock},
    caches={"blocks": CACHE, "dense": CACHE},
)  # fmt: skip


# -- checkpoints -----------------------------------------------------------------------------------

# Of training, of how it is run, or said by other keys.
UNREAD = ("aux_loss_alpha", "ep_size", "head_dim", "qk_head_dim", "seq_aux")


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `deepseek_v3`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    keys.only("attention_bias", [False], False)  # absent: DeepseekV3Config says no
    keys.only("moe_layer_freq", [1], 1)
    # The reference reads neither key; with another value the weights are of another model.
    keys.only("scoring_func", ["sigmoid"], "sigmoid")
    keys.only("topk_method", ["noaux_tc"], "noaux_tc")
    turned = keys.rope(default_theta=10000.0)  # absent: DeepseekV3Config says 10000
    pairs = keys.get("rope_interleave", True)  # absent: DeepseekV3Config says yes
    common = llama.read_common(
        keys, qkv_bias=False, qk_norm=False, window=None, head_dim=keys.get("v_head_dim"),
        rope=dataclasses.replace(turned, interleaved=pairs),
    )  # fmt: skip
    config = Config(
        # Absent: DeepseekV3Config says eight groups, 2.5 and 3.
        **vars(common), **glm4_moe.read_experts(keys, groups=8, scale=2.5, dense=3),
        q_rank=keys.nullable("q_lora_rank", 1536),  # absent: DeepseekV3Config says 1536
        kv_rank=keys.get("kv_lora_rank"), plain_dim=keys.get("qk_nope_head_dim"),
        rope_dim=keys.get("qk_rope_head_dim"),
    )  # fmt: skip
    keys.finish(harmless=UNREAD)
    return config


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    return llama.write_common(config) | glm4_moe.write_experts(config) | {
        "architectures": ["DeepseekV3ForCausalLM"],
        "attention_bias": False,
        # In this family's files it is the rotated part, which the reference's tables are made for.
        "head_dim": config.rope_dim,
        "kv_lora_rank": config.kv_rank,
        "model_type": "deepseek_v3",
        "q_lora_rank": config.q_rank,
        "qk_nope_head_dim": config.plain_dim,
        "qk_rope_head_dim": config.rope_dim,
        "rope_interleave": config.rope.interleaved,
        "v_head_dim": config.head_dim,
    }  # fmt: skip
