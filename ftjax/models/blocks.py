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
        # A scale over heads and features, as in OLMo 2, means one norm of the whole width.
        flat = x.reshape(*x.shape[: x.ndim - scale[...].ndim], -1)
        return self.function(flat, scale[...].reshape(-1), eps=self.eps).reshape(x.shape)


def attend(
    q, k, v, context: base.Context, cache=None, *, scale: float, cap: float | None = None, sink=None
):
    """Rotate queries and keys, attend to these and to a cache: [B,T,N,H], new keys and values."""
    options = dict(scale=scale, cap=cap, sink_N=sink)
    if context.rotation is not None:
        # Before caching: a key's position never changes, so it is rotated once.
        q, k = rope.rotate(q, *context.rotation), rope.rotate(k, *context.rotation)
    if context.query_factor is not None:
        # On queries and not on scores or keys: what a cache holds must fit queries of any position.
        q = q * context.query_factor.astype(q.dtype)
    # Without the prefix: it comes with the adapters at every call, and caches hold real tokens.
    new = {"k": k, "v": v}
    k, v = virtual_tokens.join(context.prefix, k, v)
    if cache is None:
        mixed = attention.attend_causal(q, k, v, context.visible, **options)
    else:
        # In the order of a cache (see `base.CACHE`), so that both parts take the same product.
        own = k.transpose(0, 2, 3, 1), v.swapaxes(1, 2), context.visible.mask()
        past = *base.read_cache(cache, q.dtype), context.past_BTS
        mixed = attention.attend_cached(q, [past, own], **options)
    return mesh.constrain(mixed, "BTNH"), new


class Attention(nnx.Module):
    """Grouped-query attention.

    `bias` adds biases to q, k, v, `o_bias` one to the output. `norms` are the letters of the scales
    that normalise q and k: ("H", "H") head by head, ("NH", "KH") over the whole width, None not at
    all. Scores are multiplied by `scale` and, where there is a `cap`, become
    cap * tanh(score / cap).
    """

    def __init__(
        self, sizes: Mapping[str, int], *, key, init_scale, norm: Norm, scale: float,
        bias: bool = False, o_bias: bool = False, norms: tuple[str, str] | None = None,
        cap: float | None = None,
    ):  # fmt: skip
        keys = jax.random.split(key, 4)
        declare = lambda equation, key: base.weight(equation, sizes, key=key, scale=init_scale)
        self.q = declare("BTD,DNH->BTNH", keys[0])
        self.k = declare("BTD,DKH->BTKH", keys[1])
        self.v = declare("BTD,DKH->BTKH", keys[2])
        self.o = declare("BTNH,NHD->BTD", keys[3])
        self.bias, self.norms, self.norm, self.scale, self.cap = bias, norms, norm, scale, cap
        # Two switches: `attention_bias` means q, k, v and o in Llama, and q, k and v alone in GLM.
        self.has_o_bias = o_bias
        if bias:
            self.q_bias = base.vector("NH", sizes, fill=0.0)
            self.k_bias = base.vector("KH", sizes, fill=0.0)
            self.v_bias = base.vector("KH", sizes, fill=0.0)
        if o_bias:
            self.o_bias = base.vector("D", sizes, fill=0.0)
        if norms:
            self.q_norm, self.k_norm = (norm.declare(letters, sizes) for letters in norms)

    def project(self, x_BTD, site: base.Site):
        """Make queries, keys and values, before rotation."""
        q, k, v = (site(n, x_BTD, p) for n, p in (("q", self.q), ("k", self.k), ("v", self.v)))
        if self.bias:
            q, k, v = add(q, self.q_bias), add(k, self.k_bias), add(v, self.v_bias)
        if self.norms:
            # Before rotation, as in all families but Hunyuan. What the norm reads is kept: the norm
            # itself is cheap to do again.
            q, k = remat.keep(q), remat.keep(k)
            q, k = self.norm(q, self.q_norm), self.norm(k, self.k_norm)
        return q, k, v

    def __call__(self, x_BTD, context: base.Context, site: base.Site, cache=None):
        """Attend; returns the output [B,T,D] and these tokens' keys and values."""
        q, k, v = self.project(x_BTD, site)
        mixed, new = attend(q, k, v, context, cache, scale=self.scale, cap=self.cap)
        return self.out(mixed, site), new

    def out(self, mixed_BTNH, site: base.Site):
        """Apply the last map."""
        y = site("o", mixed_BTNH, self.o)
        return add(y, self.o_bias) if self.has_o_bias else y


def add(y, bias: nnx.Param):
    """Add a bias in the type of the computation."""
    return y + bias[...].astype(y.dtype)


class GatedMlp(nnx.Module):
    """Gated feed-forward layer, down(act(gate x) * up x) (arXiv:2002.05202).

    `inner` is the letter of its width; `bias` adds biases to all three maps.
    """

    def __init__(
        self, sizes: Mapping[str, int], *, key, scale, activation, inner: str = "F",
        bias: bool = False,
    ):  # fmt: skip
        keys, i = jax.random.split(key, 3), inner
        declare = lambda equation, key: base.weight(equation, sizes, key=key, scale=scale)
        # Two maps, as in files and as adapters of other libraries see them; fused ones: `phi3`.
        self.gate = declare(f"BTD,D{i}->BT{i}", keys[0])
        self.up = declare(f"BTD,D{i}->BT{i}", keys[1])
        self.down = declare(f"BT{i},{i}D->BTD", keys[2])
        self.activation, self.inner, self.bias = activation, inner, bias
        if bias:
            self.gate_bias = base.vector(i, sizes, fill=0.0)
            self.up_bias = base.vector(i, sizes, fill=0.0)
            self.down_bias = base.vector("D", sizes, fill=0.0)

    def __call__(self, x_BTD, site: base.Site):
        """Apply the layer to [B,T,D]."""
        gate, up = site("gate", x_BTD, self.gate), site("up", x_BTD, self.up)
        if self.bias:
            gate, up = add(gate, self.gate_bias), add(up, self.up_bias)
        gate, up = remat.keep(gate), remat.keep(up)
        # Not kept: an elementwise product of two arrays that are.
        hidden = mesh.constrain(self.activation(gate) * up, f"BT{self.inner}")
        y = site("down", hidden, self.down)
        return add(y, self.down_bias) if self.bias else y


class Ends(nnx.Module):
    """What exists once: the embedding, the final norm, and the head unless it is tied.

    `embed_scale` multiplies the embedding in the type of the computation, `leave_scale` what the
    head reads.
    """

    def __init__(
        self, config, key: jax.Array, *, norm: Norm, embed_scale: float | None = None,
        leave_scale: float | None = None,
    ):  # fmt: skip
        keys = jax.random.split(key)
        table = lambda key: base.weight(
            "BTD,VD->BTV", config.sizes, key=key, scale=config.init_scale
        )
        self.embed = table(keys[0])
        self.final_norm = norm.declare("D", config.sizes)
        # A tied head is no parameter of its own: the embedding gets the gradients of both uses.
        if not config.tied:
            self.head = table(keys[1])
        self.norm, self.embed_scale, self.leave_scale = norm, embed_scale, leave_scale

    def enter(self, tokens_BT, positions_BT, site: base.Site):
        """Embed tokens: [B,T,D]."""
        del positions_BT
        x = site.lookup("embed", tokens_BT, self.embed)
        # The factor is rounded before the product, as in the reference: the sqrt(3072) = 55.43 of
        # Gemma 7B is 55.5 in bfloat16.
        return x if self.embed_scale is None else x * jnp.asarray(self.embed_scale, x.dtype)

    def layer_inputs(self, tokens_BT, x_BTD, site: base.Site):
        """Make the layers' own inputs [L,B,T,X]; None: there are none."""
        del tokens_BT, x_BTD, site

    def leave(self, x_BTD):
        """Normalise what the last layer gives."""
        x = self.norm(x_BTD, self.final_norm)
        # The head is linear: factors of the logits may come before it, on D numbers in place of V.
        return x if self.leave_scale is None else x * jnp.asarray(self.leave_scale, x.dtype)
