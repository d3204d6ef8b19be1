"""Qwen3-Next: gated DeltaNet in three of four layers, gated attention in the others, experts.

Attention has a gate of its width, sigmoid(x W_g), which the query's map makes beside the queries;
norms multiply by 1 + scale; a part of each head rotates; a gated expert meets every token.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from ftjax.core import mesh
from ftjax.models import base, blocks, decoder, deltanet, experts, layer_runs
from ftjax.models.families import llama, qwen2_moe, qwen3
from ftjax.models.hf import config as hf_config
from ftjax.ops import moe, norm, remat

KINDS = {True: "linear_attention", False: "full_attention"}
DELTA = dict(
    key_heads="linear_num_key_heads", value_heads="linear_num_value_heads",
    key_dim="linear_key_head_dim", value_dim="linear_value_head_dim",
    width="linear_conv_kernel_dim",
)  # fmt: skip
EXAMPLE = qwen3.EXAMPLE | dict(
    model_type="qwen3_next", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24,
    shared_expert_intermediate_size=20, router_aux_loss_coef=0.001, norm_topk_prob=True,
    partial_rotary_factor=0.5, full_attention_interval=2, linear_num_key_heads=2,
    linear_num_value_heads=4, linear_key_head_dim=6, linear_value_head_dim=10,
    linear_conv_kernel_dim=4,
)  # fmt: skip


class Hybrid:
    """What configs of families with DeltaNet layers add; a mixin.

    `delta` are the sizes of those layers; layer i is one if `recurrent[i % len(recurrent)]`.
    """

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes by letter, those of the recurrent layers too."""
        return super().sizes | dict(C=2) | self.delta.sizes  # C: queries and gate

    @property
    def kinds(self) -> tuple[decoder.Kind, ...]:
        """Recurrent layers and attention."""
        # A state knows the order of tokens by itself: no window, no positions.
        state = decoder.Kind("delta", None, None)
        attention = decoder.Kind("blocks", self.window, self.rope)
        return tuple(state if recurrent else attention for recurrent in self.recurrents)

    @property
    def recurrents(self) -> tuple[bool, ...]:
        """Which layers have a state."""
        return tuple(self.recurrent[i % len(self.recurrent)] for i in range(self.layers))


@dataclasses.dataclass(frozen=True)
class Config(Hybrid, experts.Config):
    """Numbers of the recurrent layers, and which they are."""

    delta: deltanet.Numbers
    recurrent: tuple[bool, ...]

    @property
    def spare_tensors(self) -> tuple[str, ...]:
        """The predictor of further tokens."""
        # Beside the model in files; the causal model of the reference has no part for them.
        return (r"mtp\..*",)


class Attention(blocks.Attention):
    """Attention under a gate that the query's map makes: C numbers queries and gate of a head."""

    def __init__(self, sizes: Mapping[str, int], *, key: jax.Array, init_scale: float, **options):
        super().__init__(sizes, key=key, init_scale=init_scale, **options)
        # In place of the parent's: of each head the rows of the query lie first, then the gate's.
        self.q = base.weight("BTD,DNCH->BTNCH", sizes, key=key, scale=init_scale)

    def __call__(self, x_BTD, context: base.Context, site: base.Site, cache=None):
        """Attend; returns the output [B,T,D] and these tokens' keys and values."""
        both = site("q", x_BTD, self.q)
        q, gate = both[..., 0, :], both[..., 1, :]
        k, v = site("k", x_BTD, self.k), site("v", x_BTD, self.v)
        # The gate is neither normalised nor rotated.
        q, k = self.norm(remat.keep(q), self.q_norm), self.norm(remat.keep(k), self.k_norm)
        mixed, new = blocks.attend(q, k, v, context, cache, scale=self.scale)
        return self.out(mixed * jax.nn.sigmoid(gate), site), new


class Block(nnx.Module):
    """One decoder layer, with attention or a state, and an MLP or experts."""

    RECURRENT, PACKED = False, True

    def __init__(self, config: Any, key: jax.Array):
        keys = jax.random.split(key)
        self.norm = blocks.Norm(norm.rms_norm_around_one, 0.0, config.norm_eps)
        self.attn_norm = self.norm.declare("D", config.sizes)
        if self.RECURRENT:
            self.attn = deltanet.DeltaNet(config, key=keys[0], packed=self.PACKED)
        else:
            self.attn = Attention(
                config.sizes, key=keys[0], init_scale=config.init_scale, norm=self.norm,
                scale=config.head_dim**-0.5, norms=("H", "H"),
            )  # fmt: skip
        self.mlp_norm = self.norm.declare("D", config.sizes)
        self.declare_mlp(config, keys[1])

    def declare_mlp(self, config: Any, key: jax.Array) -> None:
        """Make the experts; relatives have an MLP."""
        self.moe = experts.Experts(config, key=key, shared="gated")

    def feed_forward(self, h_BTD, segments_BT, site: base.Site):
        """Apply them: [B,T,D], and what they give beside it."""
        return self.moe(h_BTD, segments_BT, site.under("moe"))

    def __call__(self, x_BTD, context: base.Context, site: base.Site, cache=None):
        """Apply the layer; returns [B,T,D], what it caches, what its router gives."""
        h = self.norm(x_BTD, self.attn_norm)
        mixed, new = self.attn(h, context, site.under("attn"), cache)
        x_BTD = remat.keep(x_BTD + mixed)
        made, given = self.feed_forward(
            self.norm(x_BTD, self.mlp_norm), context.segments_BT, site
        )  # fmt: skip
        return mesh.constrain(x_BTD + made, "BTD"), new, given


class DeltaBlock(Block):
    """A layer with a state."""

    RECURRENT = True


def ends(config: Any, key: jax.Array) -> blocks.Ends:
    """Make what exists once."""
    # Files keep scale - 1, so the identity is zero.
    around_one = blocks.Norm(norm.rms_norm_around_one, 0.0, config.norm_eps)
    return blocks.Ends(config, key, norm=around_one)


make = functools.partial(
    experts.make, ends=ends, blocks={"blocks": Block, "delta": DeltaBlock},
    caches={"delta": deltanet.CACHE},
)  # fmt: skip


# -- checkpoints -----------------------------------------------------------------------------------


def names(feed_forward: Mapping[str, str], *, packed: bool) -> dict[str, str]:
    """Make the table of names; `feed_forward` are those of the MLP or experts, by path."""
    layer, found = "model.layers.{L}.", {}
    for path, name in llama.NAMES.items():
        if path.startswith("blocks/mlp/"):
            continue
        found[path] = name
    for stack in ("blocks", "delta"):
        for path in ("attn_norm", "mlp_norm"):
            found[f"{stack}/{path}"] = llama.NAMES[f"blocks/{path}"]
        found |= {f"{stack}/{path}": layer + name for path, name in feed_forward.items()}
    own = deltanet.names(layer + "linear_attn.", packed=packed)
    return found | {f"delta/attn/{name}": tensor for name, tensor in own.items()}


NAMES = names({f"moe/{path}": name for path, name in qwen2_moe.SHARED.items()}, packed=True)


def read_hybrid(keys: hf_config.Keys) -> dict[str, Any]:
    """Read the numbers of recurrent layers, and which they are."""
    count = keys.get("num_hidden_layers")
    every = keys.get("full_attention_interval", 4)  # absent: Qwen3NextConfig says 4
    # Counted from one: the first layer of attention is the `every`-th.
    implied = [KINDS[bool((i + 1) % every)] for i in range(count)]
    given = keys.get("layer_types", implied)
    of_name = {name: recurrent for recurrent, name in KINDS.items()}
    if len(given) != count or not set(given) <= of_name.keys():
        raise ValueError(
            f"{keys.where}: got layer_types={given}; expected {count} of {sorted(of_name)}"
        )
    numbers = deltanet.Numbers(**{field: keys.get(name) for field, name in DELTA.items()})
    # As a pattern, which layers that are added or cut then follow.
    return dict(delta=numbers, recurrent=layer_runs.period([of_name[name] for name in given]))


def write_hybrid(config: Any) -> dict[str, Any]:
    """Write the keys that `read_hybrid` reads, and those of partial rotation."""
    numbers = {name: vars(config.delta)[field] for field, name in DELTA.items()}
    return numbers | {
        "attention_bias": False,
        "layer_types": [KINDS[recurrent] for recurrent in config.recurrents],
        "partial_rotary_factor": config.rope.partial,
    }


def read_common(keys: hf_config.Keys) -> llama.Config:
    """Read what these families have in common with llama."""
    keys.only("attention_bias", [False], False)  # absent: no, in all their configs
    return llama.read_common(
        keys, qkv_bias=False, qk_norm=True, window=None,
        head_dim=keys.get("head_dim", 256),  # absent: 256 in all their configs
        # Absent: they say 10000, and a quarter of each head.
        rope=keys.rope(default_theta=10000.0, may_be_partial=True, default_partial=0.25),
    )  # fmt: skip


def read_experts(keys: hf_config.Keys) -> dict[str, Any]:
    """Read the numbers of the experts."""
    keys.get("output_router_logits", False)  # what is returned beside, not what is computed
    return dict(
        experts=keys.get("num_experts"), top=keys.get("num_experts_per_tok"),
        expert_ffw=keys.get("moe_intermediate_size"), dispatch=moe.DROPLESS,
        shared_ffw=keys.get("shared_expert_intermediate_size"),
        normalise=keys.get("norm_topk_prob", True),  # absent: Qwen3NextConfig says yes
        router_aux=keys.get("router_aux_loss_coef", 0.001),  # absent: Qwen3NextConfig says 0.001
    )  # fmt: skip


def write_experts(config: Config) -> dict[str, Any]:
    """Write the keys that `read_experts` reads, but for the gates' sum."""
    return {
        "moe_intermediate_size": config.expert_ffw,
        "num_experts": config.experts,
        "num_experts_per_tok": config.top,
        "output_router_logits": False,
        "router_aux_loss_coef": config.router_aux,
        "shared_expert_intermediate_size": config.shared_ffw,
    }


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `qwen3_next`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    keys.only("decoder_sparse_step", [1], 1)  # absent: Qwen3NextConfig says 1
    keys.only("mlp_only_layers", [[]], [])  # absent: Qwen3NextConfig says none
    config = Config(**vars(read_common(keys)), **read_experts(keys), **read_hybrid(keys))
    keys.finish()
    return config


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    written = llama.write_common(config) | write_hybrid(config) | write_experts(config)
    return written | {
        "architectures": ["Qwen3NextForCausalLM"],
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "model_type": "qwen3_next",
        "norm_topk_prob": config.normalise,
    }
