"""The model card of an export: README.md, what the files are and how they are loaded.

    write(folder, Card(form="adapter", base="org/name", ...))

It has what a reader without the run needs: base and data, what was learned and forgotten, the whole
config, a sha256 of every file, and the code that opens it in PEFT, transformers and vLLM. Absolute
paths of the machine that trained are shortened to their last part.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ftjax.core import files
from ftjax.core.versions import versions
from ftjax.report import table as tables

NAME = "README.md"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SERVED = ("lora",)  # adapters that vLLM applies by itself
COUNTS = ("rows", "examples", "tokens", "targets", "truncated", "split", "duplicates", "stops")
# As Python's own documentation names the file system's roots.
ABSOLUTE = re.compile(r"^(?:[/\\~]|[A-Za-z]:[/\\])")


class Record(NamedTuple):
    """What a run knows of its weights: step, counts of the data, learned and forgotten."""

    step: int
    data: Mapping[str, Any]
    table: tables.Table | None


@dataclasses.dataclass(frozen=True)
class Card:
    """What a model card says.

    form: "adapter" or "model". method: of the adapter, "" without one; `merged` says that it is
    part of the weights. heads: names of scalar heads in files of their own. trains_rows: the
    adapter has rows of the embedding. resized: to how many rows, where the base has fewer.
    """

    form: str
    base: str
    base_hash: str
    method: str
    merges: bool
    trains_rows: bool
    resized: int | None
    objective: str
    heads: Sequence[str]
    config: Mapping[str, Any]
    record: Record | None


def write(folder: pathlib.Path, card: Card) -> None:
    """Write the card of the files that are in `folder`."""
    hashes = {
        path.relative_to(folder).as_posix(): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != NAME
    }
    files.write_text(folder / NAME, text(card, hashes))


def text(card: Card, hashes: Mapping[str, str]) -> str:
    """Return the card in Markdown, with the front matter that hubs read."""
    parts = [
        _front(card), f"# {_title(card)}", _base(card), _loading(card), _learned(card.record),
        _data(card.record), _files(hashes), _config(card.config),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def public(value):
    """Shorten absolute paths in nested values to their last part."""
    if isinstance(value, Mapping):
        return {key: public(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [public(own) for own in value]
    if isinstance(value, str) and ABSOLUTE.match(value) and "\n" not in value:
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _front(card: Card) -> str:
    """Write the front matter; a base is named there if hubs can find it."""
    lines = [f"library_name: {'peft' if card.form == 'adapter' else 'transformers'}"]
    lines += [f"base_model: {card.base}"] if HUB_ID.fullmatch(card.base) else []
    lines += ["pipeline_tag: text-generation", "tags:", "- ftjax"]
    lines += [f"- {card.method}"] if card.method else []
    return "\n".join(["---", *lines, "---"])


def _title(card: Card) -> str:
    if not card.method:
        return f"{card.base}, fine-tuned"
    kind = f"{card.method} adapter"
    return f"{kind} for {card.base}" if card.form == "adapter" else f"{card.base} with a {kind}"


def _base(card: Card) -> str:
    step = f", {card.record.step:,} steps" if card.record else ""
    lines = [f"- base: `{card.base}` (sha256 `{card.base_hash}`)"]
    lines += [f"- objective: `{card.objective}`{step}"]
    if card.form == "model" and card.method:
        lines += ["- the adapter is merged into the weights, in float32 and rounded once"]
    return "\n".join([*lines, f"- made with {_of_versions()}"])


def _of_versions() -> str:
    found = versions()
    return ", ".join(f"{name} {found[name]}" for name in ("ftjax", "jax") if name in found)


def _loading(card: Card) -> str:
    """Show the code that opens the files; FOLDER stands for where they are."""
    adapter, judges = card.form == "adapter", "reward" in card.heads
    kind = "AutoModelForSequenceClassification" if judges else "AutoModelForCausalLM"
    options = ", num_labels=1" if judges else ""
    code = [
        *(["from peft import PeftModel"] if adapter else []),
        f"from transformers import {kind}, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        f'model = {kind}.from_pretrained("{card.base if adapter else "FOLDER"}"{options})',
        *([f"model.resize_token_embeddings({card.resized})"] if adapter and card.resized else []),
        *(['model = PeftModel.from_pretrained(model, "FOLDER")'] if adapter else []),
    ]
    lines = ["## Loading", "", "`FOLDER` is where these files are.", "", "```python", *code, "```"]
    lines += ["", _serving(card), *map(_head, card.heads)]
    return "\n".join(lines)


def _serving(card: Card) -> str:
    if card.form == "model":
        return "vLLM: `vllm serve FOLDER`"
    if card.method in SERVED and not card.trains_rows:
        return f"vLLM: `vllm serve {card.base} --enable-lora --lora-modules mine=FOLDER`"
    if card.merges:
        return "vLLM applies no such adapter: export the run with `--merge`, and serve the model."
    return "vLLM applies no such adapter, and it cannot be merged into weights."


def _head(name: str) -> str:
    return (
        f"\n`{name}_head.safetensors` has `score.weight`, the scalar head of "
        "`AutoModelForSequenceClassification` with `num_labels=1`: it reads the last hidden state "
        "of the last token."
    )


def _learned(record: Record | None) -> str:
    """Write the table of what was learned and forgotten, changes beside values."""
    if record is None or record.table is None or not record.table.rows:
        return ""
    head = ["", "evaluation", "metric", record.table.columns[0]]
    for name in record.table.columns[1:]:
        head += [name, "change"]
    rows = [head, ["---"] * 3 + ["---:"] * (len(head) - 3)]
    for row in record.table.rows:
        cells = [row.group, row.label, row.metric, tables.number(row.values[0])]
        for column in range(1, len(row.values)):
            change = f"{tables.signed(row.change(column))} ({row.verdict(column)})"
            cells += [tables.number(row.values[column]), change]
        rows.append(cells)
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join(["## Learned (new) and forgotten (old)", "", *lines])


def _data(record: Record | None) -> str:
    known = {} if record is None else {k: record.data[k] for k in COUNTS if k in record.data}
    if not known:
        return ""
    lines = [f"- {name}: {value:,}" if isinstance(value, int) else f"- {name}: {value}"
             for name, value in known.items()]  # fmt: skip
    dropped = {name: n for name, n in record.data.get("dropped", {}).items() if n}
    lines += [f"- dropped, {name}: {count:,}" for name, count in dropped.items()]
    return "\n".join(["## Data", "", *lines])


def _files(hashes: Mapping[str, str]) -> str:
    lines = [f"| `{name}` | `{digest}` |" for name, digest in hashes.items()]
    return "\n".join(["## Files", "", "| file | sha256 |", "|---|---|", *lines])


def _config(config: Mapping[str, Any]) -> str:
    shown = json.dumps(public(files.plain(dict(config))), indent=2, ensure_ascii=False)
    # A fence of four: texts of a config may have one of three.
    return "\n".join(["## Config", "", "````json", shown, "````"])
