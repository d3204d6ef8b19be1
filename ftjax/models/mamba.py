"""Mamba 2 (arXiv:2405.21060): a layer with a state in place of keys and values.

    z, u, dt = x W;  v, k, q = silu(convolution(u) + b);  dt = softplus(dt + bias)
    y = state space(q, k, dt v, -exp(A) dt) + D v;  out = norm(y silu(z)) W_o

v has Y heads of P features; k and q have X groups of G, one for Y/X heads. The norm is over each
group's part. A layer caches the last inputs of its convolution and one state [Y,G,P] a row.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ftjax.models import base
from ftjax.ops import norm, recurrence

CACHE = {"conv": "LBJQ", "state": "LBYGP"}


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Sizes of a layer; a step is at least `min_step` and at most `max_step`."""

    heads: int
    head_dim: int
    groups: int
    state: int
    width: int  # of the convolution
    conv_bias: bool
    min_step: float
    max_step: float

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes by letter: Q channels of the convolution, Z all that one map makes."""
        inner, channels = self.heads * self.head_dim, 2 * self.groups * self.state
        return dict(
            X=self.groups, Y=self.heads, G=self.state, P=self.head_dim, W=self.width,
            Q=inner + channels, J=self.width - 1, Z=2 * inner + channels + self.heads, O=1,
        )  # fmt: skip


class Mamba(nnx.Module):
    """The layer."""

    def __init__(self, config, *, key: jax.Array):
        sizes, keys, n = config.sizes, jax.random.split(key, 3), config.mamba
        scale = config.init_scale
        # One map, as in files: the gate, what goes through the convolution, the steps.
        self.into = base.weight("BTD,DZ->BTZ", sizes, key=keys[0], scale=scale)
        # A sum over few inputs: larger weights than those of wide maps.
        # O is 1: torch keeps the weight of a depthwise convolution as (channels, 1, width).
        self.conv = base.table("QOW", sizes, key=keys[1], scale=n.width**-0.5)
        if n.conv_bias:
            self.conv_bias = base.vector("Q", sizes, fill=0.0)
        # As a logarithm: A is positive whatever is learned, so that no state can grow by itself.
        self.a_log = base.vector("Y", sizes, fill=0.0)
        self.dt_bias = base.vector("Y", sizes, fill=1.0)
        self.skip = base.vector("Y", sizes, fill=1.0)
        self.norm = base.vector("YP", sizes, fill=1.0)
        self.o = base.weight("BTYP,YPD->BTD", sizes, key=keys[2], scale=scale)
        self.numbers, self.eps = n, config.norm_eps

    def __call__(self, x_BTD, context: base.Context, site: base.Site, cache=None):
        """Apply the layer; returns [B,T,D], and its state after the last real token."""
        start = context.prefix  # the state that a prompt leaves
        flow = recurrence.flow(context.segments_BT, continues=cache is not None)
        # Attention masks padding; a convolution and a state would take it in.
        x_BTD = jnp.where(flow.real[..., None], x_BTD, 0)
        n, wide = self.numbers, self.numbers.heads * self.numbers.head_dim
        cuts = wide, wide + n.sizes["Q"]
        z, u, dt = jnp.split(site("into", x_BTD, self.into), cuts, axis=-1)
        pasts = [states and states["conv"] for states in (cache, start)]
        u, conv = recurrence.convolve(u, self.conv[...][:, 0], flow, *pasts)
        if n.conv_bias:
            u = u + self.conv_bias[...].astype(u.dtype)
        v, k, q = self._split(jax.nn.silu(u))
        # In float32: decays multiply up over the row.
        step = jax.nn.softplus(dt.astype(jnp.float32) + self.dt_bias[...].astype(jnp.float32))
        step_BTY = jnp.clip(step, n.min_step, n.max_step)
        g_BTY = -jnp.exp(self.a_log[...].astype(jnp.float32)) * step_BTY
        out_BTYP, state = recurrence.scan(
            # A step sets how much is written as well as how much is forgotten.
            q, k, v.astype(jnp.float32) * step_BTY[..., None], g_BTY, flow,
            state_BYGP=cache and cache["state"], start_BYGP=start and start["state"],
        )  # fmt: skip
        y = out_BTYP + v.astype(jnp.float32) * self.skip[...].astype(jnp.float32)[:, None]
        # The gate comes before the norm; DeltaNet has them the other way round.
        y = self._normalise(y * jax.nn.silu(z.astype(jnp.float32)).reshape(y.shape))
        return site("o", y.astype(x_BTD.dtype), self.o), {"conv": conv, "state": state}

    def _split(self, u_BTQ):
        """Cut the channels into values, keys and queries, by head."""
        n, rows = self.numbers, u_BTQ.shape[:2]
        wide, part = n.heads * n.head_dim, n.groups * n.state
        # The paper's x, B and C, in this order in files.
        v, k, q = jnp.split(u_BTQ, (wide, wide + part), axis=-1)
        by_group = lambda x: x.reshape(*rows, n.groups, n.state)
        spread = lambda x: jnp.repeat(by_group(x), n.heads // n.groups, axis=2)
        return v.reshape(*rows, n.heads, n.head_dim), spread(k), spread(q)

    def _normalise(self, y_BTYP):
        """Normalise the whole width, or each group's part of it."""
        shape, groups = y_BTYP.shape, self.numbers.groups
        flat = y_BTYP.reshape(*shape[:2], groups, -1)
        # The mean is a group's and the weight the whole width's, so the weight comes after.
        y = norm.rms_norm(flat, jnp.ones(flat.shape[-1]), eps=self.eps).reshape(shape)
        return y * self.norm[...].astype(y.dtype)


def names(prefix: str) -> dict[str, str]:
    """Name the tensors of a layer, after `prefix`."""
    own = dict(
        into="in_proj.weight", conv="conv1d.weight", conv_bias="conv1d.bias", a_log="A_log",
        dt_bias="dt_bias", skip="D", norm="norm.weight", o="out_proj.weight",
    )  # fmt: skip
    return {name: f"{prefix}{tensor}" for name, tensor in own.items()}
