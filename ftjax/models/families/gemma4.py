"""The text model of a multimodal Gemma 4: `gemma4_text` under its wrapper."""

import dataclasses
from typing import Any

from ftjax.models import wrapper
from ftjax.models.families import gemma4_text

WRAPS = "gemma4_text"
make = gemma4_text.make
EXAMPLE = dict(model_type="gemma4", text_config=gemma4_text.EXAMPLE)
# The decoder alone is inside the wrapper; the head lies beside it.
NAMES = wrapper.names(gemma4_text.NAMES, model="model.language_model.", head="")


@dataclasses.dataclass(frozen=True)
class Config(wrapper.Wrapped, gemma4_text.Config):
    """The text model's, and the wrapper's other keys."""

    SPARE = (r"model\.(vision_tower|embed_vision|audio_tower|embed_audio)\..*",)


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `gemma4`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    text = gemma4_text.from_hf(wrapper.text_of(config_json))
    return wrapper.read(config_json, text=text, kind=Config)


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    architecture = "Gemma4ForConditionalGeneration"
    return wrapper.write(config, family=gemma4_text, architecture=architecture, model_type="gemma4")
