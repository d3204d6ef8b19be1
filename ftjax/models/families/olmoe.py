"""OLMoE (arXiv:2409.02060): experts in every layer, norms of q and k over their whole width."""

import functools
from typing import Any

import jax

from ftjax.models import blocks, experts
from ftjax.models.families import llama, qwen3_moe
from ftjax.models.hf import config as hf_config
from ftjax.ops import moe

Config = experts.Config
EXAMPLE = llama.EXAMPLE | dict(
    model_type="olmoe", num_experts=4, num_experts_per_tok=2, router_aux_loss_coef=0.01,
    norm_topk_prob=False,
)  # fmt: skip
NAMES = qwen3_moe.NAMES


class Block(experts.Block):
    """One decoder layer."""

    def attention(self, config: Config, key: jax.Array) -> blocks.Attention:
        """Make the attention with wide norms."""
        return blocks.Attention(
            config.sizes, key=key, init_scale=config.init_scale, norm=self.norm,
            # Over all heads at once, as in OLMo 2; but rounded as Llama's norm.
            scale=config.head_dim**-0.5, norms=("NH", "KH"),
        )  # fmt: skip


make = functools.partial(experts.make, blocks={"blocks": Block})


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `olmoe`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    keys.only("attention_bias", [False], False)  # absent: OlmoeConfig says no
    keys.get("output_router_logits", False)  # what is returned beside, not what is computed
    common = llama.read_common(
        keys, qkv_bias=False, qk_norm=True, window=None,
        norm_eps=keys.get("rms_norm_eps", 1e-5),  # absent: OlmoeConfig says 1e-5
    )  # fmt: skip
    config = Config(
        **vars(common), experts=keys.get("num_experts"), top=keys.get("num_experts_per_tok"),
        # `intermediate_size` is one expert's width in this family.
        expert_ffw=common.ffw, shared_ffw=None, dispatch=moe.DROPLESS,
        normalise=keys.get("norm_topk_prob", False),  # absent: OlmoeConfig says no
        router_aux=keys.get("router_aux_loss_coef"),
    )  # fmt: skip
    keys.finish()
    return config


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    common = {k: v for k, v in llama.write_common(config).items() if k != "head_dim"}
    return common | {
        "architectures": ["OlmoeForCausalLM"],
        "attention_bias": False,
        "model_type": "olmoe",
        "norm_topk_prob": config.normalise,
        "num_experts": config.experts,
        "num_experts_per_tok": config.top,
        "output_router_logits": False,
        "router_aux_loss_coef": config.router_aux,
    }
