"""The text model of Qwen3-VL (arXiv:2511.21631): Qwen3, whose positions have three coordinates.

They are equal where there is text alone, and their sections then are one rotary embedding.
"""

import dataclasses
from typing import Any

from ftjax.models import wrapper
from ftjax.models.families import llama, qwen3

WRAPS = "qwen3"
make = qwen3.make
EXAMPLE = dict(
    model_type="qwen3_vl", text_config=qwen3.EXAMPLE | dict(model_type="qwen3_vl_text")
)  # fmt: skip
# The decoder alone is inside the wrapper; the head lies beside it.
NAMES = wrapper.names(qwen3.NAMES, model="model.language_model.", head="")


@dataclasses.dataclass(frozen=True)
class Config(wrapper.Wrapped, llama.Config):
    """A Llama's, and the wrapper's other keys."""

    SPARE = (r"model\.visual\..*",)


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `qwen3_vl`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    text = qwen3.from_hf(wrapper.text_of(config_json))
    return wrapper.read(config_json, text=text, kind=Config)


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    written = wrapper.write(
        config, family=qwen3, architecture="Qwen3VLForConditionalGeneration",
        model_type="qwen3_vl",
    )  # fmt: skip
    # A Qwen3 by all its numbers, but the reference knows it by a name of its own.
    text = written["text_config"] | {"model_type": "qwen3_vl_text"}
    return written | {"text_config": text}
