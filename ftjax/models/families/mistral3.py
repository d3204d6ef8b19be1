"""The text model of a multimodal Mistral: `mistral` or `ministral3` under their wrapper."""

import dataclasses
from typing import Any

from ftjax.models import wrapper
from ftjax.models.families import llama, ministral3, mistral

WRAPS = "mistral"
# Releases of one wrapper have different text models in it.
FAMILIES = {"mistral": mistral, "ministral3": ministral3}
make = llama.make
EXAMPLE = dict(model_type="mistral3", text_config=mistral.EXAMPLE, spatial_merge_size=2)
# The whole causal model is inside the wrapper, its head too.
NAMES = wrapper.names(llama.NAMES, model="language_model.model.", head="language_model.")


@dataclasses.dataclass(frozen=True)
class Config(wrapper.Wrapped, llama.Config):
    """A Llama's, which family it is of, and the wrapper's other keys."""

    # For export: the wrapper's own model type does not say which of them it holds.
    text_type: str

    SPARE = (r"(vision_tower|multi_modal_projector)\..*",)


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `mistral3`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    text = wrapper.text_of(config_json)
    kind = text.get("model_type", "mistral")  # absent: Mistral3Config says mistral
    if kind not in FAMILIES:
        raise ValueError(
            f"config.json of a 'mistral3' model: got a text_config of model_type={kind!r}; "
            f"expected one of {list(FAMILIES)}"
        )
    return wrapper.read(config_json, text=FAMILIES[kind].from_hf(text), kind=Config, text_type=kind)


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    return wrapper.write(
        config, family=FAMILIES[config.text_type], model_type="mistral3",
        architecture="Mistral3ForConditionalGeneration",
    )  # fmt: skip
