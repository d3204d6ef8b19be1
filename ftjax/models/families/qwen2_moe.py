"""Qwen2 with experts (arXiv:2407.10671): Qwen2's attention, experts, and a gated one for all.

Which layers have experts, and how gates are made, is as in Qwen3 with experts.
"""

import functools
from typing import Any

import jax

from ftjax.models import experts
from ftjax.models.families import llama, qwen2, qwen3_moe
from ftjax.models.hf import config as hf_config
from ftjax.ops import moe

Config = qwen3_moe.Config
EXAMPLE = qwen2.EXAMPLE | dict(
    model_type="qwen2_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24,
    shared_expert_intermediate_size=20, router_aux_loss_coef=0.001, norm_topk_prob=False,
    decoder_sparse_step=2, mlp_only_layers=[],
)  # fmt: skip
SHARED = {
    "router": "mlp.gate.weight",
    "gate_up": "mlp.experts.{E}.{C:gate_proj,up_proj}.weight",
    "down": "mlp.experts.{E}.down_proj.weight",
    # This gate opens the whole expert by one number a token; the one below is inside it.
    "shared/gate": "mlp.shared_expert_gate.weight",
    "shared/mlp/gate": "mlp.shared_expert.gate_proj.weight",
    "shared/mlp/up": "mlp.shared_expert.up_proj.weight",
    "shared/mlp/down": "mlp.shared_expert.down_proj.weight",
}
NAMES = experts.names(SHARED)


class Block(experts.Block):
    """One decoder layer."""

    def mixture(self, config: Config, key: jax.Array) -> experts.Experts:
        """Make the experts and the gated one."""
        return experts.Experts(config, key=key, shared="gated")


make = functools.partial(experts.make, blocks={"blocks": Block, "dense": llama.Block})


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `qwen2_moe`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    keys.get("output_router_logits", False)  # what is returned beside, not what is computed
    common = llama.read_common(
        keys, window=qwen2.read_window(keys), qk_norm=False,
        qkv_bias=keys.get("qkv_bias", True),  # absent: Qwen2MoeConfig says yes
    )  # fmt: skip
    config = Config(
        **vars(common), experts=keys.get("num_experts"), top=keys.get("num_experts_per_tok"),
        expert_ffw=keys.get("moe_intermediate_size"), dispatch=moe.DROPLESS,
        shared_ffw=keys.get("shared_expert_intermediate_size"),
        normalise=keys.get("norm_topk_prob", False),  # absent: Qwen2MoeConfig says no
        router_aux=keys.get("router_aux_loss_coef"),
        sparse_step=keys.get("decoder_sparse_step", 1),  # absent: Qwen2MoeConfig says 1
        dense_layers=tuple(keys.get("mlp_only_layers", ())),  # absent: Qwen2MoeConfig says none
    )  # fmt: skip
    qwen3_moe.check_experts(keys, config)
    keys.finish()
    return config


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    # Experts have the keys of Qwen3's, the window those of Qwen2: it goes by layer.
    written = qwen3_moe.to_hf(config) | qwen2.write_window(config)
    # Qwen2MoeConfig calls it `qkv_bias`, since o has none.
    written.pop("attention_bias")
    return written | {
        "architectures": ["Qwen2MoeForCausalLM"],
        "model_type": "qwen2_moe",
        "qkv_bias": config.qkv_bias,
        "shared_expert_intermediate_size": config.shared_ffw,
    }
