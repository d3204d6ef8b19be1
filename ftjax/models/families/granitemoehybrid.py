"""Granite 4: Mamba 2 in most layers, attention in the others, experts beside a shared MLP.

Branches, embedding, scores and logits have Granite's multipliers. Attention has no positions, or
rotary ones. Without experts the shared MLP is all of the feed-forward layer.
"""

import dataclasses
import math
from typing import Any

import jax
from flax import nnx

from ftjax.core import mesh
from ftjax.models import base, blocks, decoder, experts, layer_runs, mamba
from ftjax.models.families import granite, llama
from ftjax.models.hf import config as hf_config
from ftjax.ops import moe, norm, remat, rope

# Transformers 4 says "mamba" and "attention", transformers 5 the other two.
NAMES_OF_KINDS = {"mamba": True, "linear_attention": True}
NAMES_OF_KINDS |= {"attention": False, "full_attention": False}
EXAMPLE = granite.EXAMPLE | dict(
    model_type="granitemoehybrid", num_local_experts=4, num_experts_per_tok=2,
    shared_intermediate_size=20, router_aux_loss_coef=0.01, position_embedding_type="nope",
    layer_types=["mamba", "attention"], mamba_n_heads=8, mamba_d_head=8, mamba_n_groups=2,
    mamba_d_state=6, mamba_d_conv=4, mamba_expand=2, mamba_conv_bias=True,
)  # fmt: skip
LAYER = "model.layers.{L}."
OF_BOTH = {
    "attn_norm": "input_layernorm.weight", "mlp_norm": "post_attention_layernorm.weight",
    "shared/gate_up": "shared_mlp.input_linear.weight",
    "shared/down": "shared_mlp.output_linear.weight",
    "moe/router": "block_sparse_moe.router.layer.weight",
    "moe/gate_up": "block_sparse_moe.input_linear.weight",
    "moe/down": "block_sparse_moe.output_linear.weight",
}  # fmt: skip
NAMES = {path: name for path, name in llama.NAMES.items() if "/mlp" not in path}
NAMES |= {f"{stack}/{p}": LAYER + n for stack in ("blocks", "mamba") for p, n in OF_BOTH.items()}
NAMES |= {f"mamba/attn/{name}": n for name, n in mamba.names(LAYER + "mamba.").items()}


@dataclasses.dataclass(frozen=True)
class Config(experts.Config):
    """Granite's multipliers, numbers of the recurrent layers, and which they are."""

    embedding_multiplier: float
    attention_multiplier: float
    residual_multiplier: float
    logits_scaling: float
    mamba: mamba.Numbers
    recurrent: tuple[bool, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes by letter, those of the recurrent layers too."""
        return super().sizes | self.mamba.sizes

    @property
    def kinds(self) -> tuple[decoder.Kind, ...]:
        """Recurrent layers and attention."""
        # A state knows the order of tokens by itself: no window, no positions.
        state = decoder.Kind("mamba", None, None)
        attention = decoder.Kind("blocks", None, self.rope)
        return tuple(state if recurrent else attention for recurrent in self.recurrents)

    @property
    def recurrents(self) -> tuple[bool, ...]:
        """Which layers have a state."""
        return tuple(self.recurrent[i % len(self.recurrent)] for i in range(self.layers))


class Shared(nnx.Module):
    """The MLP that every token meets; one map makes its gate and input."""

    def __init__(self, config: Config, *, key: jax.Array):
        keys, scale = jax.random.split(key), config.init_scale
        self.gate_up = base.weight("BTD,DCU->BTCU", config.sizes, key=keys[0], scale=scale)
        self.down = base.weight("BTU,UD->BTD", config.sizes, key=keys[1], scale=scale)

    def __call__(self, x_BTD, site: base.Site):
        """Apply the layer to [B,T,D]."""
        both = remat.keep(site("gate_up", x_BTD, self.gate_up))
        hidden = mesh.constrain(jax.nn.silu(both[:, :, 0]) * both[:, :, 1], "BTU")
        return site("down", hidden, self.down)


class Block(nnx.Module):
    """One decoder layer, with attention or a state."""

    def __init__(self, config: Config, key: jax.Array):
        keys = jax.random.split(key, 3)
        self.norm = blocks.Norm(norm.rms_norm, 1.0, config.norm_eps)
        self.attn_norm = self.norm.declare("D", config.sizes)
        self.attn = self.mixer(config, keys[0])
        self.mlp_norm = self.norm.declare("D", config.sizes)
        self.shared = Shared(config, key=keys[1])
        self.has_experts, self.multiplier = config.experts > 0, config.residual_multiplier
        if self.has_experts:
            # Files have a layer's experts in one tensor, the rows of gates before those of inputs.
            self.moe = experts.Experts(config, key=keys[2], fused=("E,CI,D", "E,D,I"))

    def mixer(self, config: Config, key: jax.Array) -> nnx.Module:
        """Make the attention."""
        return blocks.Attention(
            config.sizes, key=key, init_scale=config.init_scale, norm=self.norm,
            scale=config.attention_multiplier, bias=config.qkv_bias, o_bias=config.o_bias,
        )  # fmt: skip

    def __call__(self, x_BTD, context: base.Context, site: base.Site, cache=None):
        """Apply the layer; returns [B,T,D], what it caches, what its router gives."""
        h = self.norm(x_BTD, self.attn_norm)
        mixed, new = self.attn(h, context, site.under("attn"), cache)
        x_BTD = remat.keep(x_BTD + mixed * self.multiplier)
        h, given = self.norm(x_BTD, self.mlp_norm), None
        made = self.shared(h, site.under("shared"))
        if self.has_experts:
            y, given = self.moe(h, context.segments_BT, site.under("moe"))
            made = made + y
        return mesh.constrain(x_BTD + made * self.multiplier, "BTD"), new, given


class MambaBlock(Block):
    """A layer with a state."""

    def mixer(self, config: Config, key: jax.Array) -> nnx.Module:
        """Make the state space."""
        return mamba.Mamba(config, key=key)


def make(config: Config, **options) -> decoder.Model:
    """Make the handle of a model; the options are those of `experts.make`, or of `decoder.make`."""
    own = dict(
        ends=granite.ends, blocks={"blocks": Block, "mamba": MambaBlock},
        caches={"mamba": mamba.CACHE},
    )  # fmt: skip
    return (experts.make if config.experts else decoder.make)(config, **own, **options)


# -- checkpoints -----------------------------------------------------------------------------------


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `granitemoehybrid`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    keys.get("output_router_logits", False)  # what is returned beside, not what is computed
    keys.only("normalization_function", ["rmsnorm"], "rmsnorm")
    keys.only("mamba_proj_bias", [False], False)  # absent: GraniteMoeHybridConfig says no
    places = keys.only("position_embedding_type", ["nope", "rope"], "rope")
    # Asked for even where nothing rotates: files have the keys all the same.
    turned = keys.rope(default_theta=10000.0)  # absent: GraniteMoeHybridConfig says 10000
    bias = keys.get("attention_bias", False)  # absent: GraniteMoeHybridConfig says no
    common = llama.read_common(
        keys, qkv_bias=bias, o_bias=bias, qk_norm=False, window=None, rope=turned
    )
    config = Config(
        **vars(common) | {"rope": turned if places == "rope" else None},
        # Absent: GraniteMoeHybridConfig says 8, 2, 1024 and 0.001.
        experts=keys.get("num_local_experts", 8), top=keys.get("num_experts_per_tok", 2),
        shared_ffw=keys.get("shared_intermediate_size", 1024),
        router_aux=keys.get("router_aux_loss_coef", 0.001), expert_ffw=common.ffw,
        # The softmax is over the chosen logits; `intermediate_size` is one expert's width.
        normalise=True, dispatch=moe.DROPLESS, mamba=_read_mamba(keys),
        recurrent=_read_kinds(keys),
        **{name: keys.get(name, 1.0) for name in granite.MULTIPLIERS},  # absent: likewise 1
    )  # fmt: skip
    # How weights were drawn, and by which cuts a row is computed.
    keys.finish(harmless=["init_method", "mamba_chunk_size"])
    return config


def _read_kinds(keys: hf_config.Keys) -> tuple[bool, ...]:
    """Read which layers have a state, in the words of either dialect."""
    count = keys.get("num_hidden_layers")
    given = keys.get("layer_types", ["mamba"] * count)  # absent: GraniteMoeHybridConfig says all
    if len(given) != count or not set(given) <= NAMES_OF_KINDS.keys():
        raise ValueError(
            f"{keys.where}: got layer_types={given}; expected {count} of {sorted(NAMES_OF_KINDS)}"
        )
    # As a pattern, which layers that are added or cut then follow.
    return layer_runs.period([NAMES_OF_KINDS[name] for name in given])


def _read_mamba(keys: hf_config.Keys) -> mamba.Numbers:
    """Read the numbers of the recurrent layers."""
    # Absent: GraniteMoeHybridConfig says 2, 128, 1, 256, 4, yes, and any step.
    heads, wide = keys.get("mamba_n_heads", 128), keys.get("mamba_expand", 2)
    inner = wide * keys.get("hidden_size")
    size = keys.get("mamba_d_head", "auto")
    size = inner // heads if size == "auto" else size
    if heads * size != inner:
        raise ValueError(
            f"{keys.where}: got mamba_n_heads={heads} of {size}; expected {inner} features together"
        )
    least, most = keys.get("time_step_limit", (0.0, math.inf))
    return mamba.Numbers(
        heads=heads, head_dim=size, groups=keys.get("mamba_n_groups", 1),
        state=keys.get("mamba_d_state", 256), width=keys.get("mamba_d_conv", 4),
        conv_bias=keys.get("mamba_conv_bias", True), min_step=least, max_step=most,
    )  # fmt: skip


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    # Files name a base even where nothing rotates.
    given = dataclasses.replace(config, rope=config.rope or rope.Rope(10000.0))
    common = llama.write_common(given)
    m, kinds = config.mamba, {True: "mamba", False: "attention"}
    # Left out where there is no limit, which plain JSON cannot write.
    steps = {} if m.max_step == math.inf else {"time_step_limit": [m.min_step, m.max_step]}
    return common | steps | {name: vars(config)[name] for name in granite.MULTIPLIERS} | {
        "architectures": ["GraniteMoeHybridForCausalLM"],
        "attention_bias": config.qkv_bias,
        "layer_types": [kinds[recurrent] for recurrent in config.recurrents],
        "mamba_conv_bias": m.conv_bias,
        "mamba_d_conv": m.width,
        "mamba_d_head": m.head_dim,
        "mamba_d_state": m.state,
        "mamba_expand": m.heads * m.head_dim // config.dim,
        "mamba_n_groups": m.groups,
        "mamba_n_heads": m.heads,
        "mamba_proj_bias": False,
        "model_type": "granitemoehybrid",
        "num_experts_per_tok": config.top,
        "num_local_experts": config.experts,
        "output_router_logits": False,
        "position_embedding_type": "rope" if config.rope else "nope",
        "router_aux_loss_coef": config.router_aux,
        "shared_intermediate_size": config.shared_ffw,
    }  # fmt: skip
