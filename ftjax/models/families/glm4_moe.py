"""GLM-4.5 (arXiv:2508.06471): experts chosen by sigmoids, of which one meets every token.

The first layers have a plain MLP; half of each head rotates; q and k may be normalised.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from ftjax.models import base, decoder, experts
from ftjax.models.families import llama
from ftjax.models.hf import config as hf_config
from ftjax.ops import moe

EXAMPLE = llama.EXAMPLE | dict(
    model_type="glm4_moe", attention_bias=True, partial_rotary_factor=0.5, use_qk_norm=True,
    n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, n_shared_experts=1,
    first_k_dense_replace=1, n_group=2, topk_group=1, routed_scaling_factor=2.5,
    norm_topk_prob=True,
)  # fmt: skip
MOE = {
    "router": "mlp.gate.weight",
    "correction": "mlp.gate.e_score_correction_bias",
    "gate_up": "mlp.experts.{E}.{C:gate_proj,up_proj}.weight",
    "down": "mlp.experts.{E}.down_proj.weight",
    "shared/mlp/gate": "mlp.shared_experts.gate_proj.weight",
    "shared/mlp/up": "mlp.shared_experts.up_proj.weight",
    "shared/mlp/down": "mlp.shared_experts.down_proj.weight",
}
NAMES = experts.names(MOE)


@dataclasses.dataclass(frozen=True)
class Config(experts.Config):
    """Numbers of the routing; the first `dense` layers have an MLP."""

    dense: int
    groups: int
    top_groups: int
    gate_scale: float
    predictors: int  # layers that predict further tokens, which files have behind the others

    @property
    def kinds(self) -> tuple[decoder.Kind, ...]:
        """A plain MLP, then experts."""
        stacks = ["dense" if i < self.dense else "blocks" for i in range(self.layers)]
        return tuple(decoder.Kind(stack, self.window, self.rope) for stack in stacks)

    @property
    def spare_tensors(self) -> tuple[str, ...]:
        """The predictors of further tokens."""
        # Files number them on behind the last layer of the model.
        layers = range(self.layers, self.layers + self.predictors)
        return tuple(rf"model\.layers\.{number}\..*" for number in layers)


class Experts(experts.Experts):
    """Experts chosen by sigmoids and a correction that keeps them busy."""

    def __init__(self, config: Config, *, key: jax.Array):
        super().__init__(config, key=key, shared="plain")
        # A buffer in the reference: pretraining moved it by the load, no gradient does.
        self.correction = base.vector("E", config.sizes, fill=0.0)

    def route(self, x_BTD, site: base.Site) -> tuple[jax.Array, moe.Choice]:
        """Choose by the corrected scores, weigh by the bare ones."""
        c = self.config
        logits = site("router", x_BTD, self.router).astype(jnp.float32)
        choice = moe.route_sigmoid(
            logits, self.correction[...], top=c.top, normalise=c.normalise, scale=c.gate_scale,
            groups=c.groups, top_groups=c.top_groups,
        )  # fmt: skip
        return logits, choice


class Block(experts.Block):
    """One decoder layer with experts."""

    def mixture(self, config: Config, key: jax.Array) -> Experts:
        """Make the experts."""
        return Experts(config, key=key)


make = functools.partial(experts.make, blocks={"blocks": Block, "dense": llama.Block})


# -- checkpoints -----------------------------------------------------------------------------------


def read_experts(keys: hf_config.Keys, *, groups: int, scale: float, dense: int) -> dict[str, Any]:
    """Read the numbers of experts and of their routing; the defaults are those of absent keys."""
    width = keys.get("moe_intermediate_size")
    keys.get("output_router_logits", False)  # what is returned beside, not what is computed
    return dict(
        experts=keys.get("n_routed_experts"), top=keys.get("num_experts_per_tok"),
        # Several shared experts are in files one MLP of their joint width.
        expert_ffw=width, shared_ffw=width * keys.get("n_shared_experts"), dispatch=moe.DROPLESS,
        normalise=keys.get("norm_topk_prob", True),  # absent: yes, in both configs
        router_aux=0.0,  # the correction balances the load
        dense=keys.get("first_k_dense_replace", dense), groups=keys.get("n_group", groups),
        # Absent: DeepSeek's 4 of 8 groups, GLM's one of one.
        top_groups=keys.get("topk_group", max(1, groups // 2)),
        gate_scale=keys.get("routed_scaling_factor", scale),
        predictors=keys.get("num_nextn_predict_layers", 0),
    )  # fmt: skip


def write_experts(config: Config) -> dict[str, Any]:
    """Write the keys that `read_experts` reads."""
    return {
        "first_k_dense_replace": config.dense,
        "moe_intermediate_size": config.expert_ffw,
        "n_group": config.groups,
        "n_routed_experts": config.experts,
        "n_shared_experts": config.shared_ffw // config.expert_ffw,
        "norm_topk_prob": config.normalise,
        "num_experts_per_tok": config.top,
        "num_nextn_predict_layers": config.predictors,
        # There is no load-balancing loss that it could ask for.
        "output_router_logits": False,
        "routed_scaling_factor": config.gate_scale,
        "topk_group": config.top_groups,
    }


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `glm4_moe`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    common = llama.read_common(
        keys, window=None,
        # Absent: Glm4MoeConfig says no, no, 8, 1e-5, 10000, and half of each head.
        qkv_bias=keys.get("attention_bias", False), qk_norm=keys.get("use_qk_norm", False),
        kv_heads=keys.get("num_key_value_heads", 8), norm_eps=keys.get("rms_norm_eps", 1e-5),
        rope=keys.rope(default_theta=10000.0, may_be_partial=True, default_partial=0.5),
    )  # fmt: skip
    # Absent: Glm4MoeConfig says one group, 1 and 1.
    config = Config(**vars(common), **read_experts(keys, groups=1, scale=1.0, dense=1))
    keys.finish()
    return config


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    return llama.write_common(config) | write_experts(config) | {
        "architectures": ["Glm4MoeForCausalLM"],
        "attention_bias": config.qkv_bias,
        "model_type": "glm4_moe",
        "partial_rotary_factor": config.rope.partial,
        "use_qk_norm": config.qk_norm,
    }  # fmt: skip
