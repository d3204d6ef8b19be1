"""The runs of trained arms: ordinary configs, and what such a run cost.

settings = settings_of(decision, arm, {}, sections, prompts, train, seed=0, folder=DIR)
experiments.train.train(settings, workdir)
cost = cost_of(workdir, labels=len(train))
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ftjax.core import config as conf
from ftjax.core import files, tree
from ftjax.decide.arms import Arm
from ftjax.decide.config import Decision
from ftjax.decide.contexts import Prompt
from ftjax.decide.questions import Question
from ftjax.report import writers
from ftjax.run import config as settings
from ftjax.run import reader
from ftjax.run.artifacts import Artifacts
from ftjax.train import flops
from ftjax.train import state as states

# Of a run's data section; what the decision's own data take the place of.
REPLACED = ("name", "path", "kind", "fields", "parts", "columns")
NOT_TEXT = ("limit", "normalize", "template", "cluster")  # keys of questions


class Training(NamedTuple):
    """What a run cost: FLOPs by formula, seconds of its steps, tokens, and its own weights."""

    flops: float
    seconds: float
    tokens: int
    memory_bytes: int
    trained_bytes: int
    steps: int


def settings_of(
    decision: Decision, arm: Arm, config: Mapping, sections: Mapping[str, Mapping],
    prompts: Sequence[Prompt], train: Sequence[Question], *, seed: int, folder: pathlib.Path,
    start: pathlib.Path | None = None,
) -> settings.Settings:  # fmt: skip
    """Write the training rows of an arm to `folder`, and return the settings of its run.

    Args:
      config: keys of the training config that differ.
      sections: the training data; texts among them are read as they are.
      prompts, train: of every question, and the question.
      start: the export of a run that this one goes on from.

    Raises:
      ValueError: a key of the run that is not legal.
    """
    c = conf.create(**decision.runs[arm.run])
    for key, value in config.items():
        conf.put(c, key.split("."), value)
    kept = {k: v for k, v in conf.to_dict(c)["data"].items() if k not in REPLACED}
    parts = _parts(decision, sections, prompts, train, folder)
    conf.put(c, ["data"], dict(kept, name="mixture", parts=parts))
    conf.put(c, ["model", "base"], decision.base)
    is_adapter = bool(c.adapter.get("name"))
    conf.put(c, ["export", "form"], "adapter" if is_adapter else "model")
    if start is not None and is_adapter:
        conf.put(c, ["adapter_from"], str(start))
    elif start is not None:
        conf.put(c, ["model", "base"], str(start))
        conf.put(c, ["tokenizer"], decision.base)
    for name in ("data", "init", "adapter", "sampling"):
        conf.put(c, ["seed", name], seed)
    return settings.read(c)


def _parts(decision: Decision, sections, prompts, train, folder: pathlib.Path) -> tuple:
    """List the texts of `train` as they are, and write questions and answers of each need."""
    texts = [
        {"weight": 1.0, "label": label} | {k: v for k, v in section.items() if k not in NOT_TEXT}
        for label, section in sections.items()
        if section.get("kind") == "text"
    ]
    by_need: dict[str, list[dict]] = {}
    for prompt, each in zip(prompts, train, strict=True):
        by_need.setdefault(each.need, []).append(_row(decision, prompt.text, each.response))
    written = [
        _written(rows, folder / f"{need}.jsonl", need, sections.get(need, {}))
        for need, rows in by_need.items()
    ]
    # An epoch is one pass over the first part: the questions.
    return (*written, *texts)


def _written(rows: list[dict], path: pathlib.Path, need: str, section: Mapping) -> dict:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    files.write_text(path, lines)
    weight = float(section.get("weight", len(rows)))
    return dict(name="jsonl", path=str(path), kind="prompt", weight=weight, label=need)


def _row(decision: Decision, prompt: str, response: str) -> dict:
    if decision.chat:
        response = response.strip()
        prompt = [{"role": "user", "content": prompt}]
    return {"prompt": prompt, "response": response}


def cost_of(workdir: pathlib.Path) -> Training:
    """Read what the run in `workdir` cost.

    Seconds are the median of its steps times their number: neither compiling nor a pause counts.
    """
    parts, own = reader.parts_of(workdir), Artifacts(workdir)
    summary = files.read_json(own.summary)
    steps = [row["time/step_s"] for row in writers.read(own.metrics) if row.get("time/step_s")]
    trainable, _ = states.split(parts.abstract, parts.patterns)
    sequence = parts.settings.data["max_tokens"]
    a_token = flops.per_token(parts.model, trainable, sequence=sequence).causal
    return Training(
        a_token * summary["tokens"],
        float(np.median(steps)) * summary["step"] if steps else summary["seconds"]["wall"],
        summary["tokens"],
        summary["memory_bytes"],
        tree.bytes_of(trainable),
        summary["step"],
    )
