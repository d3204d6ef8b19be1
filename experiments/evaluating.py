"""The evaluations of a run: what `evals` in a config says, built once and run before and after.

    c.evals.medical = dict(name="nll", group="new", data=dict(name="jsonl", path="test.jsonl"))
    c.evals.facts = dict(name="generate", group="new", data=dict(name="embedded", domain="facts"))

`group` sorts the labels of the learned/forgotten table: "new" is what the run teaches, "old" what
it must not forget. Scores of every example are kept in DIR/evals/<step>.npz, so that a change
between two steps has a paired confidence interval.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from experiments import setup
from ftjax.core import conf, files
from ftjax.data import loader as loaders
from ftjax.sampling import text

GROUPS = ("new", "old")
BATCH = 16


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Evaluators by label, the group of each, and a function that continues the sample prompts."""

    evaluators: Mapping[str, Any]
    groups: Mapping[str, str]
    sample: Callable | None

    def run(self, params, *, step: int, workdir: pathlib.Path) -> dict[str, float]:
        """Evaluate, keep the scores of every example and the samples, and return the metrics."""
        numbers, arrays = {}, {}
        for label, evaluator in self.evaluators.items():
            found = evaluator.examples(params)
            arrays |= {f"{label}/{name}": np.asarray(value) for name, value in found.items()}
            for name, value in evaluator.summary(found).items():
                numbers[f"eval/{label}/{name}"] = value
        samples = self.sample(params) if self.sample else []
        if jax.process_index() == 0:
            _save(workdir, step, arrays, samples)
        return numbers


def _save(workdir: pathlib.Path, step: int, arrays: dict, samples: list) -> None:
    (workdir / "evals").mkdir(parents=True, exist_ok=True)
    np.savez(workdir / "evals" / f"{step}.npz", **arrays)
    files.write_json(workdir / "samples" / f"{step}.json", samples)


def build(parts: setup.Parts) -> Evaluation:
    """Build the evaluators of a config.

    Raises:
      ValueError: naming evals.<label> and its key.
    """
    evaluators, groups = {}, {}
    for label, spec in parts.settings.evals.items():
        own = dict(spec)
        groups[label] = own.pop("group", "old")
        if groups[label] not in GROUPS:
            raise ValueError(
                f"evals.{label}.group: got {groups[label]!r}; expected one of {', '.join(GROUPS)}"
            )
        evaluators[label] = _evaluator(own, parts, where=f"evals.{label}")
    return Evaluation(evaluators, groups, _sampler(parts))


def _evaluator(spec: dict, parts: setup.Parts, *, where: str):
    if "data" not in spec:
        raise ValueError(f"{where}: got no data; expected a section like the one of training")
    data, limit = dict(spec.pop("data")), spec.pop("rows", None)
    respond = {key: spec.pop(key) for key in ("max_new_tokens", "until") if key in spec}
    offered = dict(model=parts.model, tokenizer=parts.tokenizer, mesh=parts.mesh)
    if spec["name"] == "nll":
        offered["examples"] = _examples(data, parts, limit, where=f"{where}.data")
    else:
        offered["rows"] = _rows(data, limit, where=f"{where}.data")
    if spec["name"] == "generate":
        batch_size = spec.pop("batch_size", _batch(parts))
        offered["respond"] = text.make(
            parts.model, parts.tokenizer, batch_size=batch_size, mesh=parts.mesh,
            max_new_tokens=respond.get("max_new_tokens", 16), until=respond.get("until", ("\n",)),
        )  # fmt: skip
    else:
        spec.setdefault("batch_size", _batch(parts))
    return conf.build(spec, "evals", where=where, **offered)


def _batch(parts: setup.Parts) -> int:
    """At least `BATCH` rows, and a multiple of the replicas."""
    replicas = parts.mesh.shape["data"] * parts.mesh.shape["fsdp"]
    return -(-BATCH // replicas) * replicas


def _examples(data: dict, parts: setup.Parts, limit: int | None, *, where: str) -> list:
    """Encode a data section; the longest example is the training's, unless it says otherwise."""
    data.setdefault("max_tokens", parts.settings.data["max_tokens"])
    given = dict(tokenizer=parts.tokenizer, batch_size=1)
    store = loaders.make(**data, **given).data.store
    return [store[i] for i in _spread(len(store), limit)]


def _rows(data: dict, limit: int | None, *, where: str) -> list[dict]:
    source = conf.build(data, "data", where=where)
    return [source[i] for i in _spread(len(source), limit)]


def _spread(count: int, limit: int | None) -> list[int]:
    """Choose at most `limit` of `count` indices, evenly spread: the same ones every time."""
    if limit is None or limit >= count:
        return list(range(count))
    return [i * count // limit for i in range(limit)]


def _sampler(parts: setup.Parts) -> Callable | None:
    spec = parts.settings.samples
    prompts = list(spec.prompts)
    if not prompts:
        return None
    respond = text.make(
        parts.model, parts.tokenizer, max_new_tokens=spec.max_new_tokens,
        temperature=spec.temperature, batch_size=_batch(parts), mesh=parts.mesh,
    )  # fmt: skip
    key = jax.random.key(parts.settings.seed.sampling)

    def sample(params) -> list[dict]:
        texts = respond(params, prompts, key)
        return [{"prompt": p, "text": t} for p, t in zip(prompts, texts, strict=True)]

    return sample
