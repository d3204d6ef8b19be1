"""The text model of Qwen3.5: Qwen3-Next's layers, with separate projections and an MLP."""

import dataclasses
from typing import Any

import jax

from ftjax.models import blocks, decoder, deltanet
from ftjax.models.families import llama, qwen3_next
from ftjax.models.hf import config as hf_config

EXPERTS = ("moe_intermediate_size", "norm_topk_prob", "router_aux_loss_coef")
EXAMPLE = {k: v for k, v in qwen3_next.EXAMPLE.items() if "expert" not in k and k not in EXPERTS}
EXAMPLE |= dict(model_type="qwen3_5_text")
# Read by nothing: what the layers are says it, or it is of the predictor of further tokens.
UNREAD = (
    "attn_output_gate", "full_attention_interval", "mamba_ssm_dtype", "mtp_num_hidden_layers",
    "mtp_use_dedicated_embeddings",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(qwen3_next.Hybrid, llama.Config):
    """Numbers of the recurrent layers, and which they are."""

    delta: deltanet.Numbers
    recurrent: tuple[bool, ...]

    @property
    def spare_tensors(self) -> tuple[str, ...]:
        """The predictor of further tokens."""
        # Beside the model in files; the causal model of the reference has no part for them.
        return (r"mtp\..*",)


class Block(qwen3_next.Block):
    """One decoder layer, with attention or a state."""

    # Four projections in files, where Qwen3-Next has two packed ones.
    PACKED = False

    def declare_mlp(self, config: Config, key: jax.Array) -> None:
        """Make the MLP."""
        self.mlp = blocks.GatedMlp(
            config.sizes, key=key, scale=config.init_scale, activation=jax.nn.silu
        )

    def feed_forward(self, h_BTD, segments_BT, site):
        """Apply it: [B,T,D], and nothing beside it."""
        del segments_BT
        return self.mlp(h_BTD, site.under("mlp")), None


class DeltaBlock(Block):
    """A layer with a state."""

    RECURRENT = True


def make(config: Config, **options) -> decoder.Model:
    """Make the handle of a model; the options are those of `decoder.make`."""
    stacks = {"blocks": Block, "delta": DeltaBlock}
    caches = {"delta": deltanet.CACHE}
    return decoder.make(config, ends=qwen3_next.ends, blocks=stacks, caches=caches, **options)


# -- checkpoints -----------------------------------------------------------------------------------

NAMES = qwen3_next.names(
    {f"mlp/{name}": f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")}, packed=False
)


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `qwen3_5_text`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    config = Config(**vars(qwen3_next.read_common(keys)), **qwen3_next.read_hybrid(keys))
    keys.finish(harmless=UNREAD)
    return config


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    own = {"architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text"}
    return llama.write_common(config) | qwen3_next.write_hybrid(config) | own
