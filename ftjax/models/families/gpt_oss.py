"""gpt-oss (arXiv:2508.10925): sinks in the attention, windows in turn, clamped experts with biases.

    expert(x) = W_down ((up + 1) * gate * sigmoid(alpha * gate)) + b

with the gate clamped from above, `up` on both sides. Checkpoints keep an expert's gate and `up`
interleaved, and may have experts in four bits (MXFP4), which are read as what they mean.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from ftjax.models import base, blocks, decoder, experts
from ftjax.models.families import gemma, llama
from ftjax.models.hf import config as hf_config
from ftjax.ops import moe, remat

EXAMPLE = llama.EXAMPLE | dict(
    # The limit is so low that even small random weights meet it.
    model_type="gpt_oss", num_local_experts=4, num_experts_per_tok=2, router_aux_loss_coef=0.9,
    attention_bias=True, sliding_window=4, swiglu_limit=0.05, swiglu_alpha=1.702,
)  # fmt: skip
LAYER = "model.layers.{L}."
NAMES = {path: name for path, name in llama.NAMES.items() if not path.startswith("blocks/mlp/")} | {
    "blocks/attn/sinks": LAYER + "self_attn.sinks",
    "blocks/moe/router": LAYER + "mlp.router.weight",
    "blocks/moe/router_bias": LAYER + "mlp.router.bias",
    "blocks/moe/gate_up": LAYER + "mlp.experts.gate_up_proj",
    "blocks/moe/gate_up_bias": LAYER + "mlp.experts.gate_up_proj_bias",
    "blocks/moe/down": LAYER + "mlp.experts.down_proj",
    "blocks/moe/down_bias": LAYER + "mlp.experts.down_proj_bias",
}


@dataclasses.dataclass(frozen=True)
class Config(experts.Config):
    """Layer i has the window if `local[i % len(local)]`; the numbers of the activation."""

    local: tuple[bool, ...]
    limit: float
    alpha: float

    @property
    def kinds(self) -> tuple[decoder.Kind, ...]:
        """Local and global layers in turn."""
        near, far = (decoder.Kind("blocks", window, self.rope) for window in (self.window, None))
        return tuple(near if local else far for local in self.locals)

    @property
    def locals(self) -> tuple[bool, ...]:
        """Which layers are local."""
        return tuple(self.local[i % len(self.local)] for i in range(self.layers))


class Attention(blocks.Attention):
    """Attention whose heads may attend to nothing: a sink."""

    def __init__(self, sizes, **options):
        super().__init__(sizes, **options)
        self.sinks = base.vector("N", sizes, fill=0.0)

    def __call__(self, x_BTD, context: base.Context, site: base.Site, cache=None):
        """Attend; returns the output [B,T,D] and these tokens' keys and values."""
        q, k, v = self.project(x_BTD, site)
        options = dict(scale=self.scale, sink=self.sinks[...])
        # The sink joins the softmax and brings no value, so a head's weights sum to less than one.
        mixed, new = blocks.attend(q, k, v, context, cache, **options)
        return self.out(mixed, site), new


class Experts(experts.Experts):
    """Clamped experts with biases, and a router with one."""

    def __init__(self, config: Config, *, key: jax.Array):
        # Inputs first, and the columns of gate and `up` in turn, unlike in other fused experts.
        layout = dict(fused=("E,D,IC", "E,I,D"), biases=("E,IC", "E,D"))
        super().__init__(config, key=key, **layout)
        self.router_bias = base.vector("E", config.sizes, fill=0.0)

    def route(self, x_BTD, site: base.Site) -> tuple[jax.Array, moe.Choice]:
        """Choose the likeliest experts, whose probabilities then sum to 1."""
        logits = blocks.add(site("router", x_BTD, self.router), self.router_bias)
        logits = logits.astype(jnp.float32)
        # The reference takes a softmax of the chosen logits alone, which is the same numbers.
        return logits, moe.route(logits, top=self.config.top, normalise=True)

    def gated(self, gate_up):
        """Clamp, then join an expert's gate and input."""
        gate_up, limit = remat.keep(gate_up), self.config.limit
        gate = jnp.minimum(gate_up[..., 0, :], limit)
        up = jnp.clip(gate_up[..., 1, :], -limit, limit)
        return (up + 1) * gate * jax.nn.sigmoid(self.config.alpha * gate)


class Block(experts.Block):
    """One decoder layer."""

    def attention(self, config: Config, key: jax.Array) -> Attention:
        """Make the attention with sinks."""
        return Attention(
            config.sizes, key=key, init_scale=config.init_scale, norm=self.norm,
            scale=config.head_dim**-0.5, bias=config.qkv_bias, o_bias=config.o_bias,
        )  # fmt: skip

    def mixture(self, config: Config, key: jax.Array) -> Experts:
        """Make the experts."""
        return Experts(config, key=key)


make = functools.partial(experts.make, blocks={"blocks": Block})


# -- checkpoints -----------------------------------------------------------------------------------


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `gpt_oss`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    keys.get("output_router_logits", False)  # what is returned beside, not what is computed
    # MXFP4 is read as the bfloat16 that it means (see `hf.fused`); the model has no trace of it.
    quantised = keys.get("quantization_config", {})
    if quantised.get("quant_method", "mxfp4") != "mxfp4":
        raise ValueError(
            f"{keys.where}: got quantization_config={quantised}; expected mxfp4 or none"
        )
    bias = keys.get("attention_bias", True)  # absent: GptOssConfig says yes
    common = llama.read_common(
        keys, qkv_bias=bias, o_bias=bias, qk_norm=False,
        # Absent: GptOssConfig says 128, 64, 8, 1e-5 and 150000.
        window=keys.get("sliding_window", 128), head_dim=keys.get("head_dim", 64),
        kv_heads=keys.get("num_key_value_heads", 8), norm_eps=keys.get("rms_norm_eps", 1e-5),
        rope=keys.rope(default_theta=150000.0),
    )  # fmt: skip
    config = Config(
        **vars(common), experts=keys.get("num_local_experts"), top=keys.get("num_experts_per_tok"),
        # `intermediate_size` is one expert's width in this family.
        expert_ffw=common.ffw, shared_ffw=None, normalise=True, dispatch=moe.DROPLESS,
        local=gemma.read_local(keys, every=2),  # absent: GptOssConfig alternates
        # Absent: GptOssConfig says 0.9, 7 and 1.702.
        router_aux=keys.get("router_aux_loss_coef", 0.9), limit=keys.get("swiglu_limit", 7.0),
        alpha=keys.get("swiglu_alpha", 1.702),
    )  # fmt: skip
    # The names that the first releases have for what other keys say.
    keys.finish(harmless=["experts_per_token", "initial_context_length"])
    return config


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    return llama.write_common(config) | {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": config.qkv_bias,
        "layer_types": [gemma.LOCAL[local] for local in config.locals],
        "model_type": "gpt_oss",
        "num_experts_per_tok": config.top,
        "num_local_experts": config.experts,
        "output_router_logits": False,
        "router_aux_loss_coef": config.router_aux,
        "sliding_window": config.window,
        "swiglu_alpha": config.alpha,
        "swiglu_limit": config.limit,
    }
