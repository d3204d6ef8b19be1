"""Mixtral (arXiv:2401.04088): the Llama block with a mixture of experts in place of the MLP.

Every token goes to the two likeliest of eight experts, whose probabilities are normalised. Training
adds `router_aux_loss_coef` times the load-balancing loss (arXiv:2101.03961), as the reference
implementation does where `output_router_logits` is set; here with every objective, unless
model.router_aux=0.
"""

from typing import Any

from ftjax.models import experts
from ftjax.models.families import llama
from ftjax.models.hf import config as hf_config
from ftjax.ops import moe

Config, make = experts.Config, experts.make
EXAMPLE = llama.EXAMPLE | dict(
    model_type="mixtral", num_local_experts=4, num_experts_per_tok=2, router_aux_loss_coef=0.02,
    sliding_window=None,
)  # fmt: skip
NAMES = experts.names({
    "router": "block_sparse_moe.gate.weight",
    # w1 is the gate, w3 the input beside it, w2 the map back.
    "gate_up": "block_sparse_moe.experts.{E}.{C:w1,w3}.weight",
    "down": "block_sparse_moe.experts.{E}.w2.weight",
})  # fmt: skip


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `mixtral`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    # Noise of training, which is not made here.
    keys.only("router_jitter_noise", [0.0], 0.0)  # absent: MixtralConfig says none
    keys.get("output_router_logits", False)  # what is returned beside, not what is computed
    common = llama.read_common(
        keys, qkv_bias=False, qk_norm=False,
        window=keys.get("sliding_window", None),  # absent: MixtralConfig says none
        rope=keys.rope(default_theta=1e6),  # absent: MixtralConfig says a million
        norm_eps=keys.get("rms_norm_eps", 1e-5),  # absent: MixtralConfig says 1e-5
        kv_heads=keys.get("num_key_value_heads", 8),  # absent: MixtralConfig says 8
    )  # fmt: skip
    config = Config(
        **vars(common), experts=keys.get("num_local_experts"), top=keys.get("num_experts_per_tok"),
        # Gates are always divided by their sum, without a key; the width is one expert's.
        expert_ffw=common.ffw, normalise=True, shared_ffw=None, dispatch=moe.DROPLESS,
        router_aux=keys.get("router_aux_loss_coef", 0.001),  # absent: MixtralConfig says 0.001
    )  # fmt: skip
    keys.finish()
    return config


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    return llama.write_common(config) | {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_experts_per_tok": config.top,
        "num_local_experts": config.experts,
        # The loss follows its coefficient here, so this stays at the library's default.
        "output_router_logits": False,
        "router_aux_loss_coef": config.router_aux,
        "router_jitter_noise": 0.0,
        "sliding_window": config.window,
    }
