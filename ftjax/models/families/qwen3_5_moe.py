"""The text model of a multimodal Qwen3.5 with experts: `qwen3_5_moe_text` under its wrapper."""

import dataclasses
from typing import Any

from ftjax.models import wrapper
from ftjax.models.families import qwen3_5_moe_text

WRAPS = "qwen3_5_moe_text"
make = qwen3_5_moe_text.make
EXAMPLE = dict(model_type="qwen3_5_moe", text_config=qwen3_5_moe_text.EXAMPLE)
# The decoder alone is inside the wrapper; the head lies beside it.
NAMES = wrapper.names(qwen3_5_moe_text.NAMES, model="model.language_model.", head="")


@dataclasses.dataclass(frozen=True)
class Config(wrapper.Wrapped, qwen3_5_moe_text.Config):
    """The text model's, and the wrapper's other keys."""

    SPARE = (r"model\.visual\..*",)


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `qwen3_5_moe`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    text = qwen3_5_moe_text.from_hf(wrapper.text_of(config_json))
    return wrapper.read(config_json, text=text, kind=Config)


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    return wrapper.write(
        config, family=qwen3_5_moe_text, model_type="qwen3_5_moe",
        architecture="Qwen3_5MoeForConditionalGeneration",
    )  # fmt: skip
