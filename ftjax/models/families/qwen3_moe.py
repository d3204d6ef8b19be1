"""Qwen3 with experts (arXiv:2505.09388): Qwen3's attention, and in most layers a mixture of them.

Layers whose number is in `mlp_only_layers`, and all but every `decoder_sparse_step`-th one, have a
plain MLP; they are the stack `dense`. `norm_topk_prob` says whether the gates of a token sum to 1.
"""

import dataclasses
from typing import Any

from ftjax.models import decoder, experts
from ftjax.models.families import llama, qwen3
from ftjax.models.hf import config as hf_config
from ftjax.ops import moe

make = experts.make
EXAMPLE = qwen3.EXAMPLE | dict(
    model_type="qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24,
    router_aux_loss_coef=0.001, norm_topk_prob=False, decoder_sparse_step=2, mlp_only_layers=[],
)  # fmt: skip
NAMES = experts.names({
    "router": "mlp.gate.weight",
    # Each expert has tensors of its own in files, which are one stack here.
    "gate_up": "mlp.experts.{E}.{C:gate_proj,up_proj}.weight",
    "down": "mlp.experts.{E}.down_proj.weight",
})  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(experts.Config):
    """Which layers have experts."""

    sparse_step: int
    dense_layers: tuple[int, ...]

    def has_experts(self, layer: int) -> bool:
        """Whether a layer has experts."""
        # Counted from one: with a step of two the first layer is dense.
        return layer not in self.dense_layers and (layer + 1) % self.sparse_step == 0

    @property
    def kinds(self) -> tuple[decoder.Kind, ...]:
        """Experts or a plain MLP, by layer."""
        stacks = ["blocks" if self.has_experts(i) else "dense" for i in range(self.layers)]
        return tuple(decoder.Kind(stack, self.window, self.rope) for stack in stacks)


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `qwen3_moe`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    keys.only("attention_bias", [False], False)  # absent: Qwen3MoeConfig says no
    keys.get("output_router_logits", False)  # what is returned beside, not what is computed
    windowed = keys.get("use_sliding_window", False)  # absent: Qwen3MoeConfig says no
    window = keys.get("sliding_window", 4096)  # absent: Qwen3MoeConfig says 4096
    common = llama.read_common(
        keys, qkv_bias=False, qk_norm=True, window=window if windowed else None,
        kv_heads=keys.get("num_key_value_heads", 4),  # absent: Qwen3MoeConfig says 4
    )  # fmt: skip
    count = "num_experts" if "num_experts" in config_json else "num_local_experts"  # older, newer
    config = Config(
        **vars(common), experts=keys.get(count), top=keys.get("num_experts_per_tok"),
        expert_ffw=keys.get("moe_intermediate_size"), shared_ffw=None, dispatch=moe.DROPLESS,
        normalise=keys.get("norm_topk_prob", False),  # absent: Qwen3MoeConfig says no
        router_aux=keys.get("router_aux_loss_coef", 0.001),  # absent: Qwen3MoeConfig says 0.001
        sparse_step=keys.get("decoder_sparse_step", 1),  # absent: Qwen3MoeConfig says 1
        dense_layers=tuple(keys.get("mlp_only_layers", ())),  # absent: Qwen3MoeConfig says none
    )  # fmt: skip
    check_experts(keys, config)
    keys.finish(harmless=["max_window_layers"])  # unlike in Qwen2, all layers have the window
    return config


def check_experts(keys: hf_config.Keys, config: Config) -> None:
    """Check that some layer has experts.

    Raises:
      ValueError: none has.
    """
    if not any(map(config.has_experts, range(config.layers))):
        raise ValueError(
            f"{keys.where}: got mlp_only_layers={list(config.dense_layers)} and "
            f"decoder_sparse_step={config.sparse_step}: no layer has experts; expected some"
        )


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    return llama.write_common(config) | {
        "architectures": ["Qwen3MoeForCausalLM"],
        "attention_bias": False,
        "decoder_sparse_step": config.sparse_step,
        "mlp_only_layers": list(config.dense_layers),
        "model_type": "qwen3_moe",
        "moe_intermediate_size": config.expert_ffw,
        "norm_topk_prob": config.normalise,
        "num_experts": config.experts,
        "num_experts_per_tok": config.top,
        "output_router_logits": False,
        "router_aux_loss_coef": config.router_aux,
        "sliding_window": config.window,
        "use_sliding_window": config.window is not None,
    }
