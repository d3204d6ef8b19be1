"""What families with a mixture of experts share: the layer, the block, the loss of their router.

    h = x + attention(norm(x));  y = h + sum over the top k experts of g_e expert_e(norm(h))

An expert is a gated MLP, down(act(gate x) * up x). The experts of a layer are stacked on E, and
gate and up are one weight with an axis C of two, as adapters of others adapt them: one low-rank `a`
for both. Beside them there may be an expert that every token meets, as it is or under a gate of its
own, sigmoid(x g). See `ops.moe` for routing and the two ways of dispatch.
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
    shared_ffw: int | None  # of the expert that every token meets; None: there is none
    dispatch: moe.Dispatch

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes by letter, those of experts too."""
        own = dict(E=self.experts, C=2, I=self.expert_ffw, O=1)  # C: gate, up; O: a lone gate
        return super().sizes | own | ({"U": self.shared_ffw} if self.shared_ffw else {})


class Shared(nnx.Module):
    """The expert that every token meets, under a gate of its own if it is `gated`."""

    def __init__(self, config: Config, *, key: jax.Array, activation: Callable, gated: bool):
        keys, scale = jax.random.split(key), config.init_scale
        self.mlp = blocks.GatedMlp(
            config.sizes, key=keys[0], scale=scale, activation=activation, inner="U"
        )
        self.gated = gated
        if gated:
            self.gate = base.weight("BTD,DO->BTO", config.sizes, key=keys[1], scale=scale)

    def __call__(self, x_BTD, site: base.Site):
        """Apply the expert to [B,T,D]."""
        y = self.mlp(x_BTD, site.under("mlp"))
        return y * jax.nn.sigmoid(site("gate", x_BTD, self.gate)) if self.gated else y


class Experts(nnx.Module):
    """A router and its experts.

    `shared` says whether there is one that every token meets: None, "plain" or "gated". `fused` are
    the axes of the two weights in checkpoints that keep the experts of a layer in one tensor, and
    `biases` those of their biases, where there are some.
    """

    def __init__(
        self, config: Config, *, key: jax.Array, activation: Callable = jax.nn.silu,
        shared: str | None = None, fused: tuple[str, str] = ("", ""),
        biases: tuple[str, str] | None = None,
    ):  # fmt: skip
        keys = jax.random.split(key, 4)
        declare = lambda equation, key, stored="": base.weight(
            equation, config.sizes, key=key, scale=config.init_scale, stored=stored
        )
        self.router = declare("BTD,DE->BTE", keys[0])
        self.gate_up = declare("EBTD,EDCI->EBTCI", keys[1], fused[0])
        self.down = declare("EBTI,EID->EBTD", keys[2], fused[1])
        self.config, self.activation, self.has_shared = config, activation, shared is not None
        self.biased = biases is not None
        if biases:
            zeros = dict(key=key, scale=0.0)
            self.gate_up_bias = base.table("ECI", config.sizes, stored=biases[0], **zeros)
            self.down_bias = base.table("ED", config.sizes, stored=biases[1], **zeros)
        if shared:
            gated = shared == "gated"
            self.shared = Shared(config, key=keys[3], activation=activation, gated=gated)

    def route(self, x_BTD, site: base.Site) -> tuple[jax.Array, moe.Choice]:
        """Choose the experts of every token: the router's logits, float32, and the choice."""
        # The softmax is in float32, as in the reference, whatever the map computes in.
        logits = site("router", x_BTD, self.router).astype(jnp.float32)
        return logits, moe.route(logits, top=self.config.top, normalise=self.config.normalise)

    def __call__(self, x_BTD, segments_BT, site: base.Site):
        """Apply the layer to [B,T,D]; returns also its router's logits and its load."""
        y, given = self.mix(x_BTD, *self.route(x_BTD, site), segments_BT, site)
        return y + self.shared(x_BTD, site.under("shared")) if self.has_shared else y, given

    def mix(self, x_BTD, logits, choice: moe.Choice, segments_BT, site: base.Site):
        """Send tokens to the experts of their choice."""
        if self.config.dispatch.kind == "dropless":
            y, dropped = self._dropless(x_BTD, choice, site), 0.0
        else:
            y, dropped = self._seated(x_BTD, choice, segments_BT, site)
        load = moe.load(logits, choice, segments_BT, dropped=dropped)
        return y, {"logits": logits, "load": load, "choice": choice}

    def _seated(self, x_BTD, choice: moe.Choice, segments_BT, site: base.Site):
        c = self.config
        seats = moe.capacity(x_BTD.shape[1], experts=c.experts, top=c.top, factor=c.dispatch.factor)
        # Seats belong to a row: what a token gets does not depend on the rows beside its own.
        found = moe.seat(choice, segments_BT, experts=c.experts, seats=seats)
        x = mesh.constrain(moe.to_seats(x_BTD, found), "EBTD")
        add = lambda y, name: (
            y + self._bias(name)[:, None, None].astype(y.dtype) if self.biased else y
        )
        gate_up = add(site("gate_up", x, self.gate_up), "gate_up")
        y = add(site("down", self.gated(gate_up), self.down), "down")
        return moe.from_seats(mesh.constrain(y, "EBTD"), found), found.dropped

    def _dropless(self, x_BTD, choice: moe.Choice, site: base.Site):
        params = {"gate_up": self.gate_up, "down": self.down}
        equations = {name: p.get_metadata("equation") for name, p in params.items()}
        adapters = {name: site.adapters.get(name) for name in params}
        letters = {
            name: adapter and tree.unshared(adapter.axes(equations[name]))
            for name, adapter in adapters.items()
        }
        biases = {name: self._bias(name) for name in params} if self.biased else {}
        weights = {name: p[...] for name, p in params.items()}, adapters, site.key, biases
        of_weights = {name: p.get_metadata("axes") for name, p in params.items()}
        of_biases = {name: dict(gate_up="ECI", down="ED")[name] for name in biases}

        def run(weights, x, contract, part):
            own, adapters, key, biases = weights
            # Each device draws for its own rows: one key would give all of them the same dropout.
            key = None if key is None else jax.random.fold_in(key, part)

            def apply(name, x):
                own_key = None if key is None else rng.named(key, name)
                y = linear.linear_rows(
                    equations[name], x, own[name], contract, adapters[name], own_key
                )
                return y + _bias_rows(biases[name], x, contract) if biases else y

            return apply("down", self.gated(apply("gate_up", x)))

        places = of_weights, letters, None if site.key is None else "", of_biases
        return grouped.dropless(run, x_BTD, choice, weights, places)

    def _bias(self, name: str) -> jax.Array:
        return {"gate_up": self.gate_up_bias, "down": self.down_bias}[name][...]

    def gated(self, gate_up):
        """Join an expert's gate and input, [..., C, I]: [..., I]."""
        gate_up = remat.keep(gate_up)
        return self.activation(gate_up[..., 0, :]) * gate_up[..., 1, :]


def _bias_rows(bias, x, contract):
    """Give every row the bias of its expert: the map of a one."""
    # `contract` alone knows which rows are whose, so the bias goes through it as a map.
    ones, flat = jnp.ones((x.shape[0], 1), x.dtype), bias.reshape(bias.shape[0], 1, -1)
    found = contract("EBTO,EOD->EBTD", ones, flat.astype(x.dtype))
    return found.reshape(-1, *bias.shape[1:])


class Block(nnx.Module):
    """One decoder layer: llama's, with experts in place of the MLP."""

    def __init__(self, config: Config, key: jax.Array):
        attn_key, moe_key = jax.random.split(key)
        self.norm = blocks.Norm(norm.rms_norm, 1.0, config.norm_eps)
        self.attn_norm = self.norm.declare("D", config.sizes)
        self.attn = self.attention(config, attn_key)
        self.mlp_norm = self.norm.declare("D", config.sizes)
        self.moe = self.mixture(config, moe_key)

    attention = llama.Block.attention

    def mixture(self, config: Config, key: jax.Array) -> Experts:
        """Make the experts; relatives have their own."""
        return Experts(config, key=key)

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
    # Stacks of dense layers give nothing.
    loads = [own["load"] for own in aux.values() if own is not None]
    load = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *loads)
    layers = load.dropped.shape[0]
    # Added over layers before the product, as in the reference, which joins their logits first:
    # the loss asks for balance in the whole model and not in every layer.
    total = jax.tree.map(lambda leaf: leaf.sum(0), load)
    balance = moe.balance(total, layers * (segments_BT > 0).sum())
    return {
        "loss": balance.scale(config.router_aux),
        "router/balance": balance,
        "router/dropped": moe.drop_rate(total),
    }


def make(
    config: Config, *, dispatch: str = "dropless", capacity_factor: float = 1.25,
    router_aux: float | None = None, blocks: Mapping[str, Callable] | None = None,
    ends: Callable = llama.ends, **options: Any,
) -> decoder.Model:  # fmt: skip
    """Make the handle of a model.

    Args:
      config: sizes and numerics.
      dispatch: how tokens reach experts, "dropless" or "capacity".
      capacity_factor: an expert's seats over the mean load, for "capacity".
      router_aux: the coefficient of the load-balancing loss; the checkpoint's when None.
      blocks, ends: those of `decoder.make`, where a family has its own.
      options: those of `decoder.make`.
    """
    router_aux = config.router_aux if router_aux is None else router_aux
    way = moe.dispatch(dispatch, factor=capacity_factor)
    config = dataclasses.replace(config, dispatch=way, router_aux=router_aux)
    # A stack without layers has no parameters: models of experts alone leave `dense` empty.
    stacks = blocks or {"blocks": Block, "dense": llama.Block}
    return decoder.make(config, ends=ends, blocks=stacks, auxiliary=terms, **options)


# -- checkpoints -----------------------------------------------------------------------------------


def names(moe_template: Mapping[str, str]) -> dict[str, str]:
    """Make a table of names: llama's, its MLP in the stack `dense`, and those of the experts."""
    found = {}
    for path, name in llama.NAMES.items():
        # Layers with a plain MLP are a stack of their own; files call both stacks' parts alike.
        if path.startswith("blocks/"):
            found[path.replace("blocks/", "dense/", 1)] = name
        if not path.startswith("blocks/mlp/"):
            found[path] = name
    prefix = "model.layers.{L}."
    return found | {f"blocks/moe/{path}": prefix + name for path, name in moe_template.items()}
