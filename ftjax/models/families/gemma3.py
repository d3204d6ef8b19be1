"""The text model of a multimodal Gemma 3 (arXiv:2503.19786): `gemma3_text` under its wrapper."""

import dataclasses
from typing import Any

from ftjax.models import wrapper
from ftjax.models.families import gemma, gemma3_text

WRAPS = "gemma3_text"
make = gemma3_text.make
EXAMPLE = dict(model_type="gemma3", text_config=gemma3_text.EXAMPLE, mm_tokens_per_image=4)
# The whole causal model is inside the wrapper, its head too.
NAMES = wrapper.names(
    gemma3_text.NAMES, model="language_model.model.", head="language_model."
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(wrapper.Wrapped, gemma.Config):
    """A Gemma's, and the wrapper's other keys."""

    # On the Hub "vision_tower.vision_model.", saved again "vision_tower.": one pattern has both.
    SPARE = (r"(vision_tower|multi_modal_projector)\..*",)


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `gemma3`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    text = gemma3_text.from_hf(wrapper.text_of(config_json))
    return wrapper.read(config_json, text=text, kind=Config)


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    architecture = "Gemma3ForConditionalGeneration"
    return wrapper.write(config, family=gemma3_text, architecture=architecture, model_type="gemma3")
