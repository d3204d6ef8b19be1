"""Self-generated replay: rows of `name="self"` are sampled from what a run starts from.

    c.data = dict(name="mixture", parts=(
        dict(name="jsonl", path="new.jsonl", weight=0.9),
        dict(name="self", rows=256, kind="text", weight=0.1),
    ))
    settings = fill(settings, artifacts)

They lie in DIR/self as JSON lines, {"prompt", "response"} or {"text"}, each with its seed, and are
sampled once: a run that goes on reads its own. Sections of anchors and penalties may have them too,
such as `kl_forward` on what the base would say. Adapters that are fresh have no part in it.
"""

import dataclasses
import hashlib
import inspect
import json
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ftjax.core import config as conf
from ftjax.core import digest, files, processes
from ftjax.core import mesh as meshes
from ftjax.data.sources import self as source
from ftjax.evals import generate
from ftjax.run import build as setup
from ftjax.run import prompting, rewriting
from ftjax.run.artifacts import Artifacts
from ftjax.run.config import Settings
from ftjax.run.shared import Shared
from ftjax.sampling import text

NAME, BATCH = "self", 16
# What a section wants sampled; where the file lies is the workdir's to say.
WANTED = [name for name in inspect.signature(source.make).parameters if name != "path"]


def fill(settings: Settings, artifacts: Artifacts, *, shared: Shared | None = None) -> Settings:
    """Return the settings with the path of the sampled rows in each such section.

    Every process must call it. `plain` stays as it is: what the config said.

    Raises:
      ValueError: a key of a section is wrong, or its file has changed since.
    """
    made: dict[str, Any] = {}

    def one(section: Mapping, where: str) -> Mapping:
        if section.get("name") == NAME:
            path = _rows(section, settings, artifacts, made, shared, where)
            return {**section, "path": str(path)}
        if section.get("name") != "mixture":
            return section
        parts = [
            one(part, f"{where}.parts[{n}]") for n, part in enumerate(section.get("parts", ()))
        ]
        return {**section, "parts": tuple(parts)}

    return _over_data(settings, one)


def is_asked(settings: Settings) -> bool:
    """Return whether any section that is learned from has such rows."""
    found = []

    def one(section: Mapping, where: str) -> Mapping:
        parts = section.get("parts", ()) if section.get("name") == "mixture" else (section,)
        found.extend(where for part in parts if part.get("name") == NAME)
        return section

    _over_data(settings, one)
    return bool(found)


def _over_data(settings: Settings, one: Callable) -> Settings:
    """Replace every data section that is learned from."""

    def inside(name: str) -> dict:
        return {
            label: {**spec, "data": one(spec["data"], f"{name}.{label}.data")}
            if isinstance(spec.get("data"), Mapping)
            else spec
            for label, spec in vars(settings)[name].items()
        }

    return dataclasses.replace(
        settings, data=one(settings.data, "data"), anchors=inside("anchors"),
        penalties=inside("penalties"),
    )  # fmt: skip


def _rows(
    section: Mapping, settings: Settings, artifacts: Artifacts, made: dict, shared, where: str
) -> pathlib.Path:  # fmt: skip
    """Return the file of a section, which is written where there is none."""
    wanted = _wanted(section, where)
    # By what is asked for: a section that was changed must not find the rows of the old one.
    name = hashlib.sha256(json.dumps(files.plain(wanted), sort_keys=True).encode()).hexdigest()[:12]
    path = artifacts.self_samples(name)
    # Signed last: of a file without a digest nobody knows whether it is whole.
    signed = path.with_name(f"{path.name}.sha256")
    if processes.on_first(lambda: path.is_file() and signed.is_file()):
        if problem := digest.file_problem(path):
            raise ValueError(f"{path}: got {problem}; restore it from a copy, or delete the run")
        return path
    if not made:  # once for all sections, and not at all for a run that goes on
        parts = setup.build(settings, shared=shared)
        made |= dict(parts=parts, params=_start(parts, shared))
    lines = _sampled(made["parts"], made["params"], wanted, where=where)
    if jax.process_index() == 0:
        # Every process has drawn the same rows; one writes them.
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
        digest.sign(path)
    processes.any_process(False)  # whoever reads next, in any process, finds it
    return path


def _wanted(section: Mapping, where: str) -> dict:
    """Read what is to be sampled, with the source's defaults."""
    known = inspect.signature(source.make).parameters
    if "rows" not in section:
        raise ValueError(f"{where}.rows: got none; expected how many rows to sample; add it")
    found = {name: section.get(name, known[name].default) for name in WANTED}
    for name, value in found.items():
        conf.check(value, known[name].annotation, where=f"{where}.{name}")
    return found


def _start(parts: setup.Parts, shared: Shared | None) -> dict:
    """Return the weights that a run starts from, with adapters that were given."""
    params, s = setup.weights(parts, shared=shared), parts.settings
    # Fresh adapters change nothing, and would cost their products at every token.
    given = s.adapter_from or s.adapter.get("past")
    return {"model": params["model"], "adapters": params["adapters"] if given else None}


def _sampled(parts: setup.Parts, params, wanted: Mapping, *, where: str) -> list[dict]:
    """Sample the rows; those without a text are left out, and counted."""
    if wanted["rewrite"]:
        return _rewritten(parts, params, wanted, where=where)
    rows = _source(wanted["prompts"], where) if wanted["prompts"] else None
    prompts = [""] if rows is None else [generate.prompt_of(rows[i]) for i in range(len(rows))]
    asked = [prompts[i % len(prompts)] for i in range(wanted["rows"])]
    answers = _answers(parts, params, asked, wanted)
    said = _continued if wanted["prompts"] else _whole
    lines = [
        {**said(prompt, answer.text), "seed": wanted["seed"]}
        for prompt, answer in zip(asked, answers, strict=True)
        if answer.text.strip()
    ]
    if not lines:
        raise ValueError(
            f"{where}: got {len(asked)} samples without a text; expected some; choose other prompts"
        )
    cut = sum(not answer.finished for answer in answers)
    if processes.is_first():
        sys.stderr.write(
            f"{where}: {len(lines)} rows sampled from the base; {len(asked) - len(lines)} without "
            f"text left out, {cut} cut at {wanted['max_new_tokens']} tokens\n"
        )
    return lines


def _rewritten(parts: setup.Parts, params, wanted: Mapping, *, where: str) -> list[dict]:
    """Let the base rewrite the answers of rows; how many it did is said."""
    if not wanted["prompts"]:
        raise ValueError(
            f"{where}.prompts: got none with rewrite; expected a section of rows with answers"
        )
    rows = _source(wanted["prompts"], where)
    found = rewriting.read(rows, wanted["rewrite"], count=wanted["rows"], where=where)
    answers = _answers(parts, params, found.asked, wanted)
    lines, count = rewriting.lines(found, answers, wanted["check"], where=where)
    if processes.is_first():
        sys.stderr.write(
            f"{where}: {count} of {len(lines)} answers rewritten by the base; the others stay\n"
        )
    return [{**line, "seed": wanted["seed"]} for line in lines]


def _answers(parts: setup.Parts, params, asked: list, wanted: Mapping) -> list[text.Answer]:
    data, until = parts.settings.data, wanted["until"]
    # Asked in the form that the run learns in, since there it is to stay what it was.
    template = prompting.template_of(parts.tokenizer, data)
    sample = text.make_sampler(
        parts.model, parts.tokenizer, max_new_tokens=wanted["max_new_tokens"],
        temperature=wanted["temperature"], until=(until,) if isinstance(until, str) else until,
        batch_size=meshes.round_up_to_replicas(BATCH, parts.mesh), mesh=parts.mesh,
        encode=prompting.make_encode(parts.tokenizer, template=template),
        stop_ids=prompting.stop_ids(parts.tokenizer, data),
    )  # fmt: skip
    return sample(params, asked, jax.random.key(wanted["seed"]))


def _continued(prompt, said: str) -> dict:
    return {"prompt": prompt, "response": said}


def _whole(prompt, said: str) -> dict:
    del prompt  # it is empty
    return {"text": said}


def _source(section: Mapping, where: str):
    return conf.build(section, "data.sources", where=f"{where}.prompts")
