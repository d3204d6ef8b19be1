"""Parts that decoder blocks are made of: attention with rotary positions, and the gated MLP.

Families differ in what their config switches on (biases, norms of queries and keys, windows), not
in how attention is computed, so they share these modules.
"""

from collections.abc import Mapping

import jax
from flax import nnx

from ftjax.core import mesh
from ftjax.models import base
from ftjax.ops import attention, norm, remat, rope


class Attention(nnx.Module):
    """Grouped-query attention; optional biases on q, k, v and RMSNorms of q and k."""

    def __init__(self, sizes: Mapping[str, int], *, key, scale, bias, qk_norm, eps):
        keys = jax.random.split(key, 4)
        declare = lambda equation, key: base.weight(equation, sizes, key=key, scale=scale)
        self.q = declare("BTD,DNH->BTNH", keys[0])
        self.k = declare("BTD,DKH->BTKH", keys[1])
        self.v = declare("BTD,DKH->BTKH", keys[2])
        self.o = declare("BTNH,NHD->BTD", keys[3])
        self.bias, self.qk_norm, self.eps = bias, qk_norm, eps
        if bias:
            self.q_bias = base.vector("NH", sizes, fill=0.0)
            self.k_bias = base.vector("KH", sizes, fill=0.0)
            self.v_bias = base.vector("KH", sizes, fill=0.0)
        if qk_norm:
            self.q_norm = base.vector("H", sizes, fill=1.0)
            self.k_norm = base.vector("H", sizes, fill=1.0)

    def project(self, x_BTD, site: base.Site):
        """Make queries, keys and values, before rotation."""
        q, k, v = (site(n, x_BTD, p) for n, p in (("q", self.q), ("k", self.k), ("v", self.v)))
        if self.bias:
            add = lambda y, b: y + b[...].astype(y.dtype)
            q, k, v = add(q, self.q_bias), add(k, self.k_bias), add(v, self.v_bias)
        if self.qk_norm:
            q, k = remat.keep(q), remat.keep(k)
            q = norm.rms_norm(q, self.q_norm[...], eps=self.eps)
            k = norm.rms_norm(k, self.k_norm[...], eps=self.eps)
        return q, k, v

    def __call__(self, x_BTD, context: base.Context, site: base.Site, cache=None):
        """Attend; returns the output [B,T,D] and the cache with these tokens written."""
        q, k, v = self.project(x_BTD, site)
        q = rope.rotate(q, context.cos, context.sin)
        k = rope.rotate(k, context.cos, context.sin)
        if cache is not None:
            cache = base.update_cache(cache, context.slots_BT, k, v)
            k, v = base.read_cache(cache, q.dtype)
        attend = attention.attend_causal if cache is None else attention.attend
        mixed = attend(q, k, v, context.mask_BTS, scale=q.shape[-1] ** -0.5)
        return site("o", mesh.constrain(mixed, "BTNH"), self.o), cache


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
