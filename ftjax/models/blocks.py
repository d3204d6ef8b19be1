"""Parts that decoder blocks are made of: norms, attention, the gated MLP, and the ends.

Families differ in what their config switches on (biases, norms of queries and keys, caps, windows),
not in how attention is computed, so they share these modules.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from ftjax.core import mesh
from ftjax.models import base, virtual_tokens
from ftjax.ops import attention, remat, rope


@dataclasses.dataclass(frozen=True)
class Norm:
    """A normalisation: its function, what its scale starts from, and its epsilon."""

    function: Callable
    fill: float
    eps: float

    def declare(self, letters: str, sizes: Mapping[str, int]) -> nnx.Param:
        """Declare the scale."""
        return base.vector(letters, sizes, fill=self.fill)

    def __call__(self, x: jax.Array, scale: nnx.Param) -> jax.Array:
        """Normalise the last axes of `x`, as many as the scale has."""
        flat = x.reshape(*x.shape[: x.ndim - scale[...].ndim], -1)
        return self.function(flat, scale[...].reshape(-1), eps=self.eps).reshape(x.shape)


def attend(q, k, v, context: base.Context, cache=None, *, scale: float, cap: float | None = None):
    """Rotate queries and keys, attend to these and to a cache: [B,T,N,H], new keys and values."""
    if context.rotation is not None:
        q, k = rope.rotate(q, *context.rotation), rope.rotate(k, *context.rotation)
    new = {"k": k, "v": v}
    k, v = virtual_tokens.join(context.prefix, k, v)
    if cache is None:
        mixed = attention.attend_causal(q, k, v, context.mask_BTS, scale=scale, cap=cap)
    else:
        own = k.transpose(0, 2, 3, 1), v.swapaxes(1, 2), context.mask_BTS
        past = *base.read_cache(cache, q.dtype), context.past_BTS
        mixed = attention.attend_cached(q, [past, own], scale=scale, cap=cap)
    return mesh.constrain(mixed, "BTNH"), new


class Attention(nnx.Module):
    """Grouped-query attention.

    `bias` adds biases to q, k, v. `norms` are the letters of the scales that normalise q and k:
    ("H", "H") head by head, ("NH", "KH") over the whole width, None not at all. Scores are
    multiplied by `scale` and, where there is a `cap`, become cap * tanh(score / cap).
    """

    def __init__(
        self, sizes: Mapping[str, int], *, key, init_scale, norm: Norm, scale: float,
        bias: bool = False, norms: tuple[str, str] | None = None, cap: float | None = None,
    ):  # fmt: skip
        keys = jax.random.split(key, 4)
        declare = lambda equation, key: base.weight(equation, sizes, key=key, scale=init_scale)
        self.q = declare("BTD,DNH->BTNH", keys[0])
        self.k = declare("BTD,DKH->BTKH", keys[1])
        self.v = declare("BTD,DKH->BTKH", keys[2])
        self.o = declare("BTNH,NHD->BTD", keys[3])
        self.bias, self.norms, self.norm, self.scale, self.cap = bias, norms, norm, scale, cap
        if bias:
            self.q_bias = base.vector("NH", sizes, fill=0.0)
            self.k_bias = base.vector("KH", sizes, fill=0.0)
            self.v_bias = base.vector("KH", sizes, fill=0.0)
        if norms:
            self.q_norm, self.k_norm = (norm.declare(letters, sizes) for letters in norms)

    def project(self, x_BTD, site: base.Site):
        """Make queries, keys and values, before rotation."""
        q, k, v = (site(n, x_BTD, p) for n, p in (("q", self.q), ("k", self.k), ("v", self.v)))
        if self.bias:
            add = lambda y, b: y + b[...].astype(y.dtype)
            q, k, v = add(q, self.q_bias), add(k, self.k_bias), add(v, self.v_bias)
        if self.norms:
            q, k = remat.keep(q), remat.keep(k)
            q, k = self.norm(q, self.q_norm), self.norm(k, self.k_norm)
        return q, k, v

    def __call__(self, x_BTD, context: base.Context, site: base.Site, cache=None):
        """Attend; returns the output [B,T,D] and these tokens' keys and values."""
        q, k, v = self.project(x_BTD, site)
        mixed, new = attend(q, k, v, context, cache, scale=self.scale, cap=self.cap)
        return site("o", mixed, self.o), new


class GatedMlp(nnx.Module):
    """Gated feed-forward layer, down(act(gate x) * up x) (arXiv:2002.05202)."""

    def __init__(self, sizes: Mapping[str, int], *, key, scale, activation):
        keys = jax.random.split(key, 3)
        declare = lambda equation, key: base.weight(equation, sizes, key=key, scale=scale)
        self.gate = declare("BTD,DF->BTF", keys[0])
        self.up = declare("BTD,DF->BTF", keys[1])
        self.down = declare("BTF,FD->BTD", keys[2])
        self.activation = activation

    def __call__(self, x_BTD, site: base.Site):
        """Apply the layer to [B,T,D]."""
        gate, up = (
            remat.keep(site(n, x_BTD, p)) for n, p in (("gate", self.gate), ("up", self.up))
        )
        hidden = mesh.constrain(self.activation(gate) * up, "BTF")
        return site("down", hidden, self.down)


class Ends(nnx.Module):
    """What exists once: the embedding, the final norm, and the head unless it is tied.

    `embed_scale` multiplies the embedding in the type of the computation.
    """

    def __init__(self, config, key: jax.Array, *, norm: Norm, embed_scale: float | None = None):
        keys = jax.random.split(key)
        table = lambda key: base.weight(
            "BTD,VD->BTV", config.sizes, key=key, scale=config.init_scale
        )
        self.embed = table(keys[0])
        self.final_norm = norm.declare("D", config.sizes)
        if not config.tied:
            self.head = table(keys[1])
        self.norm, self.embed_scale = norm, embed_scale

    def enter(self, tokens_BT, positions_BT, site: base.Site):
        """Embed tokens: [B,T,D]."""
        del positions_BT
        x = site.lookup("embed", tokens_BT, self.embed)
        return x if self.embed_scale is None else x * jnp.asarray(self.embed_scale, x.dtype)

    def leave(self, x_BTD):
        """Normalise what the last layer gives."""
        return self.norm(x_BTD, self.final_norm)
