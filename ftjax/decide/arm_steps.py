"""The steps of one arm, and the record that it leaves when it has ended.

validated(own, label, trial, params)                   score of one trial on validation
answers = answered(own, label, trial, params, seed=0)  the test questions, and old abilities
finish(own, label, trial, [answers], validated=[])     DIR/arms/<label>/result.json
finished(own, label)                                   that file, where it is there
"""

import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from ftjax.core import files, tree
from ftjax.decide import answering, arms, citations, contexts, knowledge, training
from ftjax.decide.benchmark import Benchmark
from ftjax.decide.questions import Question
from ftjax.evals import generate
from ftjax.run import config as settings
from ftjax.run import reader
from ftjax.run.artifacts import Artifacts

RESULT = "result.json"


class Answered(NamedTuple):
    """One pass of an arm over the test questions, and over those of old abilities."""

    seed: int
    scores: list[float]
    answers: answering.Answers
    cited: list[tuple[int, ...]]
    old: list[float]
    latency: answering.Latency | None
    answer_s: float
    search_s: float
    left_out: dict[str, int]

    @property
    def mean(self) -> float:
        """Return the mean score."""
        return float(np.mean(self.scores))


def finished(own: Benchmark, label: str) -> dict | None:
    """Return the record of an arm that ended before, None where it did not.

    Raises:
      ValueError: it is of another config or of other data.
    """
    path = own.folder(label) / RESULT
    if not path.is_file():
        return None
    record = files.read_json(path)
    if record["digest"] != _arm_digest(own, label):
        raise ValueError(
            f"{path.parent}: got an arm of another config, of other data or another base; expected "
            "the same; choose another workdir, or remove this folder to run the arm again"
        )
    return record


def _arm_digest(own: Benchmark, label: str) -> str:
    text = json.dumps(files.plain([own.digest, own.decision.arms[label]]), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def settings_of(own: Benchmark, label: str, trial: int, *, seed: int) -> settings.Settings:
    """Return the settings of an arm's run; its training rows are written."""
    arm, chosen = own.arm(label), own.trials(label)[trial]
    left_out = own.decision.gold_left_out
    prompts = contexts.for_training(own.maker(), arm, chosen, left_out=left_out, seed=seed)
    return training.settings_of(
        own.decision, arm, chosen, prompts, own.sets.train, seed=seed,
        folder=own.folder(label) / f"rows{trial}-seed{seed}",
    )  # fmt: skip


def is_trained(folder: pathlib.Path, chosen: settings.Settings) -> bool:
    """Return whether a run of these settings ended in `folder`."""
    artifacts = Artifacts(folder)
    if not artifacts.summary.is_file() or not artifacts.config.is_file():
        return False
    return files.read_json(artifacts.config) == json.loads(json.dumps(files.plain(chosen.plain)))


def trained(folder: pathlib.Path) -> dict:
    """Load what a run has learned."""
    return reader.load(folder).params


def validated(own: Benchmark, label: str, trial: int, params) -> float:
    """Return the mean score of one trial on the validation questions."""
    asked = own.sets.validation
    prompts, _ = contexts.make(own.maker(), own.arm(label), own.trials(label)[trial], asked)
    found = own.answerer.answer(params, [each.text for each in prompts])
    return float(np.mean(answering.score(asked, found.texts, metric=own.decision.metric)))


def answered(own: Benchmark, label: str, trial: int, params, *, seed: int) -> Answered:
    """Answer the test questions once, and those of old abilities with the same prompt."""
    arm, chosen, asked = own.arm(label), own.trials(label)[trial], own.sets.test
    metric = own.decision.metric
    start = time.perf_counter()
    prompts, left_out = contexts.make(own.maker(), arm, chosen, asked)
    searched = time.perf_counter()
    texts = [each.text for each in prompts]
    found = own.answerer.answer(params, texts)
    ended = time.perf_counter()
    old = _old(own, arm, chosen, params)
    is_first = seed == own.seeds(label)[0]
    return Answered(
        seed, answering.score(asked, found.texts, metric=metric), found,
        [each.cited for each in prompts], old,
        own.answerer.timed(params, texts) if is_first else None,
        ended - searched, (searched - start) / len(asked), dict(left_out),
    )  # fmt: skip


def _old(own: Benchmark, arm: arms.Arm, trial: arms.Trial, params) -> list[float]:
    if not own.sets.old:
        return []
    # An old question is none of the new needs: it is given the shots of the first of them.
    first = own.sets.train[0].need
    shots = [each._replace(need="") for each in own.sets.train if each.need == first]
    asked = [each._replace(need="") for each in own.sets.old]
    if arm.is_ceiling:  # no passage answers it: those of the index stand there
        arm = arm._replace(passages="index")
    prompts, _ = contexts.make(own.maker(shots), arm, trial, asked)
    found = own.answerer.answer(params, [each.text for each in prompts])
    return answering.score(own.sets.old, found.texts, metric=own.decision.metric)


def finish(
    own: Benchmark, label: str, trial: int, answers: Sequence[Answered], *,
    validated: Sequence[float],
) -> dict:  # fmt: skip
    """Collect the record of an arm, and write it: the arm has ended."""
    arm, first = own.arm(label), answers[0]
    record = {
        "name": own.decision.arms[label]["name"],
        "digest": _arm_digest(own, label),
        "trials": [dataclasses.asdict(each) for each in own.trials(label)],
        "validation": list(validated),
        "trial": trial,
        "seeds": [each.seed for each in answers],
        "scores": [each.scores for each in answers],
        "answers": [each.answers.texts for each in answers],
        "old": [each.old for each in answers],
        "prompt_tokens": [len(each) for each in first.answers.prompts],
        "new_tokens": np.mean([each.answers.new_tokens for each in answers], axis=0).tolist(),
        "shared_tokens": _shared(own.sets.test, first.answers.prompts),
        "left_out": first.left_out,
        "answer_s": first.answer_s,
        "search_s": first.search_s if arm.passages else None,
        "latency": first.latency and first.latency._asdict(),
        "labels": _labels(own, arm, trial, label),
        "training": None,
        "bytes": _bytes(own, arm),
        **_citations(own, arm, first, answers),
    }
    if arm.run:
        folder = own.folder(label) / f"trial{trial}-seed{answers[0].seed}"
        cost = training.cost_of(folder)
        record["training"] = cost._asdict()
        record["bytes"]["trained"] = cost.trained_bytes
    if jax.process_index() == 0:
        files.write_json(own.folder(label) / RESULT, record)
    return files.plain(record)


def _shared(asked: Sequence[Question], prompts: Sequence[Sequence[int]]) -> dict[str, int]:
    """Count the tokens that all prompts of a need begin with."""
    by_need: dict[str, list] = {}
    for each, ids in zip(asked, prompts, strict=True):
        by_need.setdefault(each.need, []).append(ids)
    return {need: answering.shared_prefix(ids) for need, ids in by_need.items()}


def _labels(own: Benchmark, arm: arms.Arm, trial: int, label: str) -> int:
    """Count the answered questions that an arm needs."""
    if arm.run:
        return len(own.sets.train)
    chosen = own.trials(label)[trial]
    if not arm.shots:
        return 0
    needs = {each.need for each in own.sets.train}
    counts = {need: sum(each.need == need for each in own.sets.train) for need in needs}
    return sum(n if chosen.nearest else min(chosen.shots, n) for n in counts.values())


def _bytes(own: Benchmark, arm: arms.Arm) -> dict[str, int]:
    return {
        "base": tree.bytes_of(own.base),
        "index": own.knowledge.index.nbytes if arm.passages else 0,
        "trained": 0,
    }


def _citations(own: Benchmark, arm: arms.Arm, first: Answered, answers: Sequence[Answered]) -> dict:
    """Return which passages were cited, whether the gold one was, and which answers occur there."""
    if not arm.passages:
        return {"cited": None, "hit": None, "is_cited": None}
    known, asked = own.knowledge, own.sets.test
    golds = [set(known.gold(each)) for each in asked]
    hit = [
        bool(gold & set(c)) if gold else None for gold, c in zip(golds, first.cited, strict=True)
    ]
    stands = []
    for each in answers:
        stands.append([
            bool(citations.cited(
                [text], [[known.passages[place].text for place in cited]],
                normalize=generate.NORMALIZERS[question.normalize],
            )[0])
            for text, cited, question in zip(each.answers.texts, first.cited, asked, strict=True)
        ])  # fmt: skip
    spans = [[_span(known, place) for place in cited] for cited in first.cited]
    return {"cited": spans, "hit": hit, "is_cited": np.mean(stands, axis=0).tolist()}


def _span(known: knowledge.Knowledge, place: int) -> dict:
    own = known.passages[place]
    return {"id": own.id, "document": own.document, "start": own.start, "end": own.end}
