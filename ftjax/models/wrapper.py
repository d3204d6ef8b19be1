"""Multimodal checkpoints as their text models: `text_config` is read, the rest stays as it is.

A wrapper's config.json holds a text model's; its files hold that model's tensors under a longer
prefix, beside a vision tower. Text goes through as in the text model alone. The keys of the
wrapper are kept for export, and the tensors that no text meets are copied then (see `hf.save`).
"""

import dataclasses
import json
from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar

# Of one file and not of the model; or written anew.
FLEETING = frozenset({
    "_name_or_path", "architectures", "dtype", "model_type", "text_config", "tie_word_embeddings",
    "torch_dtype", "transformers_version",
})  # fmt: skip
TIED = "tie_word_embeddings"


@dataclasses.dataclass(frozen=True)
class Wrapped:
    """What the config of a wrapper adds to the text model's: its other keys, as JSON.

    Two dialects of these say the same in other words, so they do not count in comparisons.
    """

    rest: str = dataclasses.field(compare=False)

    SPARE: ClassVar[tuple[str, ...]] = ()

    @property
    def spare_tensors(self) -> tuple[str, ...]:
        """Patterns of the tensors that no text meets."""
        return (*super().spare_tensors, *self.SPARE)


def text_of(config_json: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config.json of the text model.

    Raises:
      ValueError: there is none.
    """
    text = config_json.get("text_config")
    if not isinstance(text, Mapping):
        raise ValueError(
            f"config.json of a {config_json.get('model_type')!r} model: got text_config={text!r}; "
            "expected the text model's config"
        )
    tied = config_json.get(TIED)  # the wrapper is what ties them; absent: the text model's
    return dict(text) | ({} if tied is None else {TIED: tied})


def read(config_json: Mapping[str, Any], *, text, kind: type, **more):
    """Add to the config of a text model what its wrapper says."""
    rest = {key: value for key, value in config_json.items() if key not in FLEETING}
    return kind(**vars(text), rest=json.dumps(rest), **more)


def write(config, *, family: ModuleType, architecture: str, model_type: str) -> dict[str, Any]:
    """Write the config.json of a wrapper; `read` is its inverse."""
    # The file as a whole is the wrapper's class, so the text names none.
    text = {k: v for k, v in family.to_hf(config).items() if k != "architectures"}
    return json.loads(config.rest) | {
        "architectures": [architecture], "model_type": model_type, "text_config": text,
        TIED: config.tied,
    }  # fmt: skip


def names(table: Mapping[str, str], *, model: str, head: str) -> dict[str, str]:
    """Put the wrapper's prefixes before the names of a text model's tensors."""
    prefix = lambda name: (
        # Some wrappers keep the head inside the language model, others beside it.
        head + name if name.startswith("lm_head") else model + name[len("model.") :]
    )
    return {path: prefix(name) for path, name in table.items()}
