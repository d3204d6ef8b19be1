"""What goes out beside the weights of an export: tokenizer, chat template, ends of answers, card.

    for name, content in extra_files(parts).items(): ...       files by name
    token_ids(parts)                                      bos, eos and pad for config.json

The template is the one that the run trained with, and the ends are all at which generation stops
here: whoever loads the export prompts and stops in the same way.
"""

import json
import pathlib
import re
import sys
from typing import Any

from ftjax.data import chat, stops
from ftjax.models.hf import checkpoint, digests
from ftjax.report import card as cards
from ftjax.run import build as setup
from ftjax.run import prompting

TEMPLATE, GENERATION = "chat_template.jinja", "generation_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
# What goes along with a model of a tokenizer's directory.
COPIED = (
    "added_tokens.json", TEMPLATE, "chat_template.json", GENERATION, "merges.txt",
    "special_tokens_map.json", TOKENIZER, "tokenizer.model", TOKENIZER_CONFIG, "vocab.json",
)  # fmt: skip
# In the cache of a hub: models--ORG--NAME/snapshots/REVISION
CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)")


def base_name(parts: setup.Parts) -> str | None:
    """Return the name by which others find the base; None for random weights.

    That is `export.base_name`, or else the id in the path of a hub's cache, or the directory's name
    alone: a path of this machine would mean nothing on another.
    """
    if given := parts.settings.export.base_name:
        return given
    if parts.source is None:
        return None
    # A link to a hub's cache counts as what it points to.
    source = parts.source.resolve()
    if found := next(filter(None, map(CACHED.fullmatch, source.parts)), None):
        return "/".join(found.groups())
    return source.name


def extra_files(parts: setup.Parts) -> dict[str, bytes]:
    """Collect the tokenizer's files, the chat template and generation's settings, by name."""
    found = _of_tokenizer(parts)
    config = json.loads(found.get(TOKENIZER_CONFIG, b"{}"))
    choice = parts.settings.data.get("chat_template")
    if template := _template(parts) if choice else None:
        found.pop("chat_template.json", None)  # of a processor: the base's own
        found[TEMPLATE] = template.source.encode()
        # In both places: older versions of transformers know only the config's.
        config["chat_template"] = template.source
    if TOKENIZER in found and TOKENIZER_CONFIG not in found:
        config = _usual_config(parts.tokenizer) | config
    if choice or (config and TOKENIZER_CONFIG not in found):
        found[TOKENIZER_CONFIG] = _json(config)
    given = json.loads(found.get(GENERATION, b"{}"))
    # Over the base's own: generation must stop at every end that the run has taught.
    return found | {GENERATION: _json(given | token_ids(parts))}


def token_ids(parts: setup.Parts) -> dict[str, Any]:
    """Return bos, pad and every end of an answer, as config.json has them."""
    known = checkpoint.config_json_of(parts.source or parts.settings.model.preset)
    # Configs of multimodal models keep those of their text part inside.
    known |= known.get("text_config") or {}
    tokenizer = parts.tokenizer
    ids = {key: known[key] for key in ("bos_token_id", "pad_token_id") if key in known}
    # The tokenizer's over the config's: it is what the rows were encoded with.
    for key, token in ("bos_token_id", tokenizer.bos_token), ("pad_token_id", tokenizer.pad_token):
        if token is not None:
            ids[key] = tokenizer.token_id(token)
    ends = stops.ids(tokenizer, _template(parts))
    return ids | ({"eos_token_id": ends[0] if len(ends) == 1 else list(ends)} if ends else {})


def card(parts: setup.Parts, *, form: str, record: cards.Record | None) -> cards.Card:
    """Collect what a model card says of a run."""
    settings = parts.settings
    return cards.Card(
        form=form, base=base_name(parts) or f"random {settings.model.preset}",
        base_hash=digests.fingerprint(parts.source) if parts.source else "none",
        method=settings.adapter.get("name", "") if parts.method else "",
        # Virtual tokens have no weight to be merged into.
        merges=settings.adapter.get("name") not in ("prompt", "prefix"),
        objective=settings.objective["name"], heads=parts.heads, config=settings.plain,
        record=record,
    )  # fmt: skip


def _template(parts: setup.Parts) -> chat.Template | None:
    """Return the chat template of a run; a base's own that cannot be used is said and left out."""
    data = parts.settings.data
    try:
        return prompting.template_of(parts.tokenizer, data)
    except ValueError as error:
        if data.get("chat_template"):
            raise
        sys.stderr.write(f"export: no end of an answer is taken from the chat template: {error}\n")
        return None


def _of_tokenizer(parts: setup.Parts) -> dict[str, bytes]:
    """Read a tokenizer's files; one under a name of its own stands alone."""
    source = pathlib.Path(parts.tokenizer_source)
    if source.is_file() and source.name not in (TOKENIZER, "tokenizer.model"):
        return {f"tokenizer{source.suffix}": source.read_bytes()}
    folder = source.parent if source.is_file() else source
    paths = (folder / name for name in COPIED)
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def _usual_config(tokenizer) -> dict[str, Any]:
    """Write the tokenizer_config.json of a tokenizer that has none."""
    names = dict(
        bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token, pad_token=tokenizer.pad_token
    )
    own = {role: token for role, token in names.items() if token}
    # The class that takes any tokenizer.json as it is.
    return {"tokenizer_class": "PreTrainedTokenizerFast", **own}


def _json(content) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
