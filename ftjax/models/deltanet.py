"""Gated DeltaNet (arXiv:2412.06464): a layer with a state in place of keys and values.

    q, k, v = silu(convolution(x W));  g = -exp(A) softplus(x W_a + b);  beta = sigmoid(x W_b)
    y = norm(gated delta rule(q, k, v, g, beta)) * silu(x W_z);  out = y W_o

q and k have X heads of G features, v has Y of P; a key head serves Y/X value heads. A layer caches
the last inputs of its convolution and one state [Y,G,P] a row, whatever the length.
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
    """Sizes of a layer."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    width: int  # of the convolution

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes by letter: Q channels of the convolution, Z and A parts of packed projections."""
        ratio = self.value_heads // self.key_heads
        return dict(
            X=self.key_heads, Y=self.value_heads, G=self.key_dim, P=self.value_dim, W=self.width,
            Q=2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim,
            J=self.width - 1, Z=2 * self.key_dim + 2 * ratio * self.value_dim, A=2 * ratio, O=1,
        )  # fmt: skip


class DeltaNet(nnx.Module):
    """The layer. `packed`: its projections lie head by head of the keys, in two maps."""

    def __init__(self, config, *, key: jax.Array, packed: bool):
        sizes, keys = config.sizes, jax.random.split(key, 6)
        declare = lambda equation, key: base.weight(
            equation, sizes, key=key, scale=config.init_scale
        )
        # Qwen3-Next's files pack q, k, v, z and b, a by key head; Qwen3.5's have four plain maps.
        if packed:
            self.qkvz = declare("BTD,DXZ->BTXZ", keys[0])
            self.ba = declare("BTD,DXA->BTXA", keys[1])
        else:
            self.qkv = declare("BTD,DQ->BTQ", keys[0])
            self.z = declare("BTD,DYP->BTYP", keys[1])
            self.b = declare("BTD,DY->BTY", keys[2])
            self.a = declare("BTD,DY->BTY", keys[3])
        # A sum over few inputs: larger weights than those of wide maps.
        scale = sizes["W"] ** -0.5
        # O is 1: torch keeps the weight of a depthwise convolution as (channels, 1, width).
        self.conv = base.table("QOW", sizes, key=keys[4], scale=scale)
        # As a logarithm: A is positive whatever is learned, so that no state can grow by itself.
        self.a_log = base.vector("Y", sizes, fill=0.0)
        self.dt_bias = base.vector("Y", sizes, fill=1.0)
        # Multiplied as it is: the one norm of these families that is not 1 + weight.
        self.norm = base.vector("P", sizes, fill=1.0)
        self.o = declare("BTYP,YPD->BTD", keys[5])
        self.numbers, self.packed, self.eps = config.delta, packed, config.norm_eps

    def __call__(self, x_BTD, context: base.Context, site: base.Site, cache=None):
        """Apply the layer; returns [B,T,D], and its state after the last real token."""
        start = context.prefix  # the state that a prompt leaves
        flow = recurrence.flow(context.segments_BT, continues=cache is not None)
        # Attention masks padding; a convolution and a state would take it in.
        x_BTD = jnp.where(flow.real[..., None], x_BTD, 0)
        qkv_BTQ, z_BTYP, b_BTY, a_BTY = self._project(x_BTD, site)
        pasts = [states and states["conv"] for states in (cache, start)]
        qkv_BTQ, conv = recurrence.convolve(qkv_BTQ, self.conv[...][:, 0], flow, *pasts)
        q, k, v = self._split(jax.nn.silu(qkv_BTQ))
        # In float32, as in the reference: exp(A) overflows float16, and decays multiply up.
        pace = jax.nn.softplus(a_BTY.astype(jnp.float32) + self.dt_bias[...].astype(jnp.float32))
        g_BTY = -jnp.exp(self.a_log[...].astype(jnp.float32)) * pace
        out_BTYP, state = recurrence.scan(
            q, k, v, g_BTY, flow, beta_BTY=jax.nn.sigmoid(b_BTY),
            state_BYGP=cache and cache["state"], start_BYGP=start and start["state"],
        )  # fmt: skip
        # The norm comes before the gate, which is float32 too; Mamba has them the other way round.
        y = norm.rms_norm(out_BTYP, self.norm[...], eps=self.eps)
        y = (y.astype(jnp.float32) * jax.nn.silu(z_BTYP.astype(jnp.float32))).astype(x_BTD.dtype)
        return site("o", y, self.o), {"conv": conv, "state": state}

    def _project(self, x_BTD, site: base.Site):
        """Make q, k and v in the channels of the convolution, then z, b and a by value head."""
        if not self.packed:
            names = ("qkv", self.qkv), ("z", self.z), ("b", self.b), ("a", self.a)
            return tuple(site(name, x_BTD, param) for name, param in names)
        n, ratio = self.numbers, self.numbers.value_heads // self.numbers.key_heads
        # Of each key head lie its query, its key, the values of its heads, and their z.
        cuts = n.key_dim, 2 * n.key_dim, 2 * n.key_dim + ratio * n.value_dim
        q, k, v, z = jnp.split(site("qkvz", x_BTD, self.qkvz), cuts, axis=-1)
        b, a = jnp.split(site("ba", x_BTD, self.ba), 2, axis=-1)
        rows = x_BTD.shape[:2]
        # The convolution's channels are all queries, all keys, all values, as in plain projections.
        flat = [part.reshape(*rows, -1) for part in (q, k, v)]
        by_head = lambda part: part.reshape(*rows, n.value_heads, -1)
        return jnp.concatenate(flat, -1), by_head(z), by_head(b)[..., 0], by_head(a)[..., 0]

    def _split(self, qkv_BTQ):
        """Cut the channels into queries, keys and values; the first two of length 1."""
        n, rows = self.numbers, qkv_BTQ.shape[:2]
        wide = n.key_heads * n.key_dim
        q, k, v = jnp.split(qkv_BTQ.astype(jnp.float32), (wide, 2 * wide), axis=-1)
        q, k = (x.reshape(*rows, n.key_heads, n.key_dim) for x in (q, k))
        # 1e-6, inside the root, is the reference's.
        unit = lambda x: x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-6)
        # Repeated and not tiled: value heads of one key head are neighbours.
        spread = lambda x: jnp.repeat(x, n.value_heads // n.key_heads, axis=2)
        v = v.reshape(*rows, n.value_heads, n.value_dim)
        return spread(unit(q) * n.key_dim**-0.5), spread(unit(k)), v.astype(qkv_BTQ.dtype)


def names(prefix: str, *, packed: bool) -> dict[str, str]:
    """Name the tensors of a layer, after `prefix`."""
    maps = dict(qkvz="in_proj_qkvz.weight", ba="in_proj_ba.weight")
    if not packed:
        maps = {name: f"in_proj_{name}.weight" for name in ("qkv", "z", "b", "a")}
    rest = dict(
        conv="conv1d.weight", a_log="A_log", dt_bias="dt_bias", norm="norm.weight",
        o="out_proj.weight",
    )  # fmt: skip
    return {name: f"{prefix}{tensor}" for name, tensor in (maps | rest).items()}
