"""The text model of Qwen3.5 with experts: Qwen3-Next's layers, with separate projections."""

import dataclasses
import functools
from typing import Any

from ftjax.models import deltanet, experts
from ftjax.models.families import llama, qwen2_moe, qwen3_5_text, qwen3_next
from ftjax.models.hf import config as hf_config

EXAMPLE = {k: v for k, v in qwen3_next.EXAMPLE.items() if k != "norm_topk_prob"}
EXAMPLE |= dict(model_type="qwen3_5_moe_text")


@dataclasses.dataclass(frozen=True)
class Config(qwen3_next.Config):
    """A Qwen3-Next's."""

    @property
    def spare_tensors(self) -> tuple[str, ...]:
        """The predictor of further tokens."""
        return (r"mtp\..*",)


class Block(qwen3_next.Block):
    """One decoder layer, with attention or a state."""

    # Four projections in files, where Qwen3-Next has two packed ones.
    PACKED = False


class DeltaBlock(Block):
    """A layer with a state."""

    RECURRENT = True


make = functools.partial(
    experts.make, ends=qwen3_next.ends, blocks={"blocks": Block, "delta": DeltaBlock},
    caches={"delta": deltanet.CACHE},
)  # fmt: skip
NAMES = qwen3_next.names(
    {f"moe/{path}": name for path, name in qwen2_moe.SHARED.items()}, packed=False
)


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `qwen3_5_moe_text`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    # The experts' width is all that there is; llama's keys are read as those of a dense model.
    given = {"intermediate_size": config_json.get("moe_intermediate_size")} | config_json
    keys = hf_config.Keys(given)
    config = Config(
        **vars(qwen3_next.read_common(keys)), **qwen3_next.read_experts(keys),
        **qwen3_next.read_hybrid(keys),
    )  # fmt: skip
    keys.only("norm_topk_prob", [True], True)  # the reference reads no such key, and normalises
    keys.finish(harmless=qwen3_5_text.UNREAD)
    return config


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    own = {"architectures": ["Qwen3_5MoeForCausalLM"], "model_type": "qwen3_5_moe_text"}
    written = llama.write_common(config) | qwen3_next.write_hybrid(config)
    # It was one expert's width again: these configs have no dense layers.
    written.pop("intermediate_size")
    return written | qwen3_next.write_experts(config) | own
