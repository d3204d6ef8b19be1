"""What families with a mixture of experts share: the layer, the block, the loss of their router.

    h = x + attention(norm(x));  y = h + sum over the top k experts of g_e expert_e(norm(h))

An expert is a gated MLP, down(act(gate x) * up x). The experts of a layer are stacked on E, and
gate and up are one weight with an axis C of two, as adapters of others adapt them: one low-rank `a`
for both. See `ops.moe` for routing and the two ways of dispatch.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ftjax.core import mesh, rng, tree
from ftjax.core.mean import Mean
from ftjax.models import base, blocks, decoder
from ftjax.models.families import llama
from ftjax.ops import grouped, linear, moe, norm, remat


@dataclasses.dataclass(frozen=True)
class Config(llama.Config):
    """Numbers of the experts; `dispatch` is no part of a checkpoint."""

    experts: int
    top: int
    expert_ffw: int
    normalise: bool  # the gates of a token sum to 1
    router_aux: float  # coefficient of the load-balancing loss
    dispatch: moe.Dispatch

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes by letter, those of experts too."""
        return super().sizes | dict(E=self.experts, C=2, I=self.expert_ffw)


class Experts(nnx.Module):
    """A router and its experts."""

    def __init__(self, config: Config, *, key: jax.Array, activation: Callable):
        keys = jax.random.split(key, 3)
        declare = lambda equation, key: base.weight(
            equation, config.sizes, key=key, scale=config.init_scale
        )
        self.router = declare("BTD,DE->BTE", keys[0])
        self.gate_up = declare("EBTD,EDCI->EBTCI", keys[1])
        self.down = declare("EBTI,EID->EBTD", keys[2])
        self.config, self.activation = config, activation

    def __call__(self, x_BTD, segments_BT, site: base.Site):
        """Apply the layer to [B,T,D]; returns also its router's logits and its load."""
        c = self.config
        logits = site("router", x_BTD, self.router).astype(jnp.float32)
        choice = moe.route(logits, top=c.top, normalise=c.normalise)
        if c.dispatch.kind == "dropless":
            y, dropped = self._dropless(x_BTD, choice, site), 0.0
        else:
            y, dropped = self._seated(x_BTD, choice, segments_BT, site)
        load = moe.load(logits, choice, segments_BT, dropped=dropped)
        return y, {"logits": logits, "load": load}

    def _seated(self, x_BTD, choice: moe.Choice, segments_BT, site: base.Site):
        c = self.config
        seats = moe.capacity(x_BTD.shape[1], experts=c.experts, top=c.top, factor=c.dispatch.factor)
        found = moe.seat(choice, segments_BT, experts=c.experts, seats=seats)
        x = mesh.constrain(moe.to_seats(x_BTD, found), "EBTD")
        y = site("down", self._gated(site("gate_up", x, self.gate_up)), self.down)
        return moe.from_seats(mesh.constrain(y, "EBTD"), found), found.dropped

    def _dropless(self, x_BTD, choice: moe.Choice, site: base.Site):
        params = {"gate_up": self.gate_up, "down": self.down}
        equations = {name: p.get_metadata("equation") for name, p in params.items()}
        adapters = {name: site.adapters.get(name) for name in params}
        letters = {
            name: adapter and tree.unshared(adapter.axes(equations[name]))
            for name, adapter in adapters.items()
        }
        weights = {name: p[...] for name, p in params.items()}, adapters, site.key
        of_weights = {name: p.get_metadata("axes") for name, p in params.items()}

        def run(weights, x, contract, part):
            own, adapters, key = weights
            key = None if key is None else jax.random.fold_in(key, part)

            def apply(name, x):
                own_key = None if key is None else rng.named(key, name)
                return linear.linear_rows(
                    equations[name], x, own[name], contract, adapters[name], own_key
                )

            return apply("down", self._gated(apply("gate_up", x)))

        places = of_weights, letters, None if site.key is None else ""
        return grouped.dropless(run, x_BTD, choice, weights, places)

    def _gated(self, gate_up):
        gate_up = remat.keep(gate_up)
        return self.activation(gate_up[..., 0, :]) * gate_up[..., 1, :]


class Block(nnx.Module):
    """One decoder layer: llama's, with experts in place of the MLP."""

    def __init__(self, config: Config, key: jax.Array):
        attn_key, moe_key = jax.random.split(key)
        self.norm = blocks.Norm(norm.rms_norm, 1.0, config.norm_eps)
        self.attn_norm = self.norm.declare("D", config.sizes)
        self.attn = blocks.Attention(
            config.sizes, key=attn_key, init_scale=config.init_scale, norm=self.norm,
            scale=config.head_dim**-0.5, bias=config.qkv_bias,
            norms=("H", "H") if config.qk_norm else None,
        )  # fmt: skip
        self.mlp_norm = self.norm.declare("D", config.sizes)
        self.moe = Experts(config, key=moe_key, activation=jax.nn.silu)

    def __call__(self, x_BTD, context: base.Context, site: base.Site, cache=None):
        """Apply the layer; returns [B,T,D], new keys and values, the router's logits and load."""
        h = self.norm(x_BTD, self.attn_norm)
        mixed, new = self.attn(h, context, site.under("attn"), cache)
        x_BTD = remat.keep(x_BTD + mixed)
        h = self.norm(x_BTD, self.mlp_norm)
        y, given = self.moe(h, context.segments_BT, site.under("moe"))
        return mesh.constrain(x_BTD + y, "BTD"), new, given


def terms(config: Config, aux: Mapping[str, Any], segments_BT) -> dict[str, Mean]:
    """Compute the load-balancing loss with its coefficient, and what to watch of the router."""
    load = aux["blocks"]["load"]
    layers = load.dropped.shape[0]
    total = jax.tree.map(lambda leaf: leaf.sum(0), load)
    balance = moe.balance(total, layers * (segments_BT > 0).sum())
    return {
        "loss": balance.scale(config.router_aux),
        "router/balance": balance,
        "router/dropped": moe.drop_rate(total),
    }


def make(
    config: Config, *, dispatch: str = "dropless", capacity_factor: float = 1.25,
    router_aux: float | None = None, **options,
) -> decoder.Model:  # fmt: skip
    """Make the handle of a model.

    Args:
      config: sizes and numerics.
      dispatch: how tokens reach experts, "dropless" or "capacity".
      capacity_factor: an expert's seats over the mean load, for "capacity".
      router_aux: the coefficient of the load-balancing loss; the checkpoint's when None.
      options: those of `decoder.make`.
    """
    router_aux = config.router_aux if router_aux is None else router_aux
    way = moe.dispatch(dispatch, factor=capacity_factor)
    config = dataclasses.replace(config, dispatch=way, router_aux=router_aux)
    stacks = {"blocks": Block, "dense": llama.Block}
    return decoder.make(config, ends=llama.ends, blocks=stacks, auxiliary=terms, **options)


# -- checkpoints -----------------------------------------------------------------------------------


def names(moe_template: Mapping[str, str]) -> dict[str, str]:
    """Make a table of names: llama's, its MLP in the stack `dense`, and those of the experts."""
    found = {}
    for path, name in llama.NAMES.items():
        if path.startswith("blocks/"):
            found[path.replace("blocks/", "dense/", 1)] = name
        if not path.startswith("blocks/mlp/"):
            found[path] = name
    prefix = "model.layers.{L}."
    return found | {f"blocks/moe/{path}": prefix + name for path, name in moe_template.items()}
