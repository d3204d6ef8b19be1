"""The steps of one arm, and the record that it leaves when it has ended.

validated(own, label, trial, params)                   score of one trial on validation
answers = answered(own, label, trial, params, seed=0)  the test questions, and old abilities
finish(own, label, trials, best, [answers], validated=[])   DIR/arms/<label>/result.json
finished(own, label)                                   that file, where it is there

Where the knowledge changes, `updated` asks what changed once more, of what was brought up to it.
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
from ftjax.decide import answer_metric, answering, arms, citations, contexts, knowledge, training
from ftjax.decide.benchmark import Benchmark
from ftjax.decide.questions import Question
from ftjax.evals import generate
from ftjax.run import config as settings
from ftjax.run import reader
from ftjax.run.artifacts import Artifacts

RESULT = "result.json"


class Answered(NamedTuple):
    """One pass of an arm over questions, item by item, and over those of old abilities.

    spans, hit, is_cited: of arms that retrieve, None of others. stale: whether an answer was right
    before the knowledge changed; before: the same of the arm that was not brought up to it.
    """

    seed: int
    scores: list[float]
    texts: list[str]
    prompts: list[list[int]]
    new_tokens: list[int]
    spans: list[list[dict] | None]
    hit: list[bool | None]
    is_cited: list[bool | None]
    stale: list[bool | None]
    before: list[bool | None]
    old: list[float]
    answer_s: float
    left_out: dict[str, int]

    @property
    def mean(self) -> float:
        """Return the mean score."""
        return float(np.mean(self.scores))


PER_ITEM = ("scores", "texts", "prompts", "new_tokens", "spans", "hit", "is_cited", "stale")


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
    sections = [own.decision.arms[each] for each in {label: 0, own.source(label) or label: 0}]
    text = json.dumps(files.plain([own.digest, *sections]), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


# -- weights ---------------------------------------------------------------------------------------


def run_folder(own: Benchmark, label: str, trial: int, *, seed: int) -> pathlib.Path:
    """Return where the run of an arm that is trained lies."""
    stage = "update-" if own.is_later else ""
    return own.folder(label) / f"{stage}trial{trial}-seed{seed}"


def settings_of(own: Benchmark, label: str, trial: int, *, seed: int) -> settings.Settings:
    """Return the settings of an arm's run; its training rows are written.

    After the knowledge has changed the run goes on from the one before.
    """
    arm, chosen, folder = own.arm(label), own.trials(label)[trial], own.folder(label)
    sections, asked = own.training(label)
    left_out = own.decision.gold_left_out
    prompts = contexts.for_training(own.maker(asked), arm, chosen, left_out=left_out, seed=seed)
    config, start = chosen.config, None
    # Rows without passages are the same for every trial and seed, and encoded once.
    stage = "update" if own.is_later else "first"
    rows = run_folder(own, label, trial, seed=seed).name if arm.passages else stage
    if own.is_later:
        config = config | own.decision.changed.config
        start = Artifacts(folder / f"trial{trial}-seed{seed}").export
    return training.settings_of(
        own.decision, arm, config, sections, prompts, asked, seed=seed, start=start,
        folder=folder / f"rows-{rows}",
    )  # fmt: skip


def best_trial(own: Benchmark, label: str) -> int:
    """Return the trial that an arm chose, whose weights another one takes.

    Raises:
      ValueError: it has no result.
    """
    record = finished(own, label)
    if record is None:
        raise ValueError(
            f"weights: got {label!r}, which has no result; expected one; see its error"
        )
    return record["trial"]


def is_trained(folder: pathlib.Path, chosen: settings.Settings) -> bool:
    """Return whether a run of these settings ended in `folder`."""
    artifacts = Artifacts(folder)
    if not artifacts.summary.is_file() or not artifacts.config.is_file():
        return False
    return files.read_json(artifacts.config) == json.loads(json.dumps(files.plain(chosen.plain)))


def trained(folder: pathlib.Path) -> dict:
    """Load what a run has learned."""
    return reader.load(folder).params


# -- answers ---------------------------------------------------------------------------------------


def rewritten(
    own: Benchmark, trial: arms.Trial, before: Sequence[arms.Trial], scores: Sequence[float]
) -> arms.Trial:  # fmt: skip
    """Let the base say the best instruction so far in its own words, where the trial wants that."""
    if not trial.rewrite:
        return trial
    worded = [n for n, each in enumerate(before) if each.instruction]
    best = before[max(worded, key=lambda n: scores[n])]
    asked = own.decision.templates.rewrite.format(instruction=best.instruction)
    text = own.answerer.write(own.base, asked)
    # A base that says nothing leaves the instruction as it is.
    return dataclasses.replace(best, instruction=text.strip() or best.instruction, rewrite=True)


def validated(own: Benchmark, label: str, trial: arms.Trial, params) -> float:
    """Return the mean score of one trial on the validation questions."""
    asked = own.sets.validation
    prompts, _ = contexts.make(own.maker(), own.arm(label), trial, asked)
    return float(np.mean(own.answerer.answer(params, [p.text for p in prompts], asked).scores))


def answered(own: Benchmark, label: str, trial: arms.Trial, params, *, seed: int) -> Answered:
    """Answer the test questions once, and those of old abilities with the same prompt."""
    arm, asked = own.arm(label), own.sets.test
    prompts, left_out = contexts.make(own.maker(), arm, trial, asked)
    start, texts = time.perf_counter(), [each.text for each in prompts]
    found = own.answerer.answer(params, texts, asked)
    ended = time.perf_counter()
    cites = _cites(own, [each.cited for each in prompts], found.texts) if arm.passages else None
    none = [None] * len(asked)
    return Answered(
        seed, found.scores, found.texts, found.prompts, found.new_tokens,
        *(cites or (none, none, none)), _stale(own, found.texts), none,
        _old(own, arm, trial, params), ended - start, dict(left_out),
    )  # fmt: skip


def updated(
    own: Benchmark, label: str, trial: arms.Trial, answers: Answered, params, new
) -> Answered:  # fmt: skip
    """Add the questions on what changed: of the arm as it was, and of `new` weights and index."""
    later, empty = own.later, [None] * len(answers.scores)
    # Before the change nobody has answered questions of what changed: shots are the old ones.
    needs = {each.need for each in later.sets.test}
    shots = [
        each._replace(need=need)
        for need in sorted(needs)
        for each in own.sets.train
        if each.need == own.sets.train[0].need
    ]
    outdated = dataclasses.replace(
        later, knowledge=own.knowledge, sets=later.sets._replace(train=shots)
    )
    stale = answered(outdated, label, trial, params, seed=answers.seed).stale
    after = answered(later, label, trial, new, seed=answers.seed)
    joined = {key: getattr(answers, key) + getattr(after, key) for key in PER_ITEM}
    return answers._replace(**joined, before=[*empty, *stale])


def _stale(own: Benchmark, texts: Sequence[str]) -> list[bool | None]:
    """Return whether each answer is one that was right before; None where none was."""
    score = answer_metric.make("exact_match").score
    return [
        score(each._replace(answers=each.stale), text) == 1 if each.stale else None
        for each, text in zip(own.sets.test, texts, strict=True)
    ]


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
    texts, metric = [each.text for each in prompts], own.answerer.metric.of_old
    return own.answerer.answer(params, texts, asked, metric=metric).scores


def _cites(own: Benchmark, cited: Sequence[tuple[int, ...]], texts: Sequence[str]) -> tuple:
    """Return, of every answer, the spans it cites, whether the gold one is there, and itself."""
    known, asked = own.knowledge, own.sets.test
    golds = [set(known.gold(each)) for each in asked]
    hit = [bool(gold & set(c)) if gold else None for gold, c in zip(golds, cited, strict=True)]
    stands = [
        bool(citations.cited(
            [text], [[known.passages[place].text for place in places]],
            normalize=generate.NORMALIZERS[question.normalize],
        )[0])
        for text, places, question in zip(texts, cited, asked, strict=True)
    ]  # fmt: skip
    return [[_span(known, place) for place in places] for places in cited], hit, stands


def _span(known: knowledge.Knowledge, place: int) -> dict:
    own = known.passages[place]
    return {"id": own.id, "document": own.document, "start": own.start, "end": own.end}


# -- the record ------------------------------------------------------------------------------------


def finish(
    own: Benchmark, label: str, trials: Sequence[arms.Trial], best: int,
    answers: Sequence[Answered], *, validated: Sequence[float],
) -> dict:  # fmt: skip
    """Collect the record of an arm, and write it: the arm has ended."""
    arm, first = own.arm(label), answers[0]
    every = lambda key: [getattr(each, key) for each in answers]
    record = {
        "name": own.decision.arms[label]["name"],
        "digest": _arm_digest(own, label),
        "trials": [dataclasses.asdict(each) for each in trials],
        "validation": list(validated),
        "trial": best,
        "seeds": every("seed"),
        "scores": every("scores"),
        "answers": every("texts"),
        "old": every("old"),
        "stale": every("stale"),
        "stale_before": every("before"),
        "prompt_tokens": [len(each) for each in first.prompts],
        "new_tokens": np.mean(every("new_tokens"), axis=0).tolist(),
        "shared_tokens": _shared(_asked(own), first.prompts),
        "left_out": first.left_out,
        "answer_s": first.answer_s,
        "labels": _labels(own, label, trials[best]),
        "training": None,
        "update": None,
        "bytes": _bytes(own, arm),
        **_citations(arm, answers),
    }
    if source := own.source(label):
        trial = best if source == label else best_trial(own, source)
        _put_training(own, record, source, trial, seed=first.seed)
    if jax.process_index() == 0:
        files.write_json(own.folder(label) / RESULT, record)
    return files.plain(record)


def _citations(arm: arms.Arm, answers: Sequence[Answered]) -> dict:
    if not arm.passages:
        return dict.fromkeys(("cited", "hit", "is_cited"))
    stands = np.mean([each.is_cited for each in answers], axis=0).tolist()
    return {"cited": answers[0].spans, "hit": answers[0].hit, "is_cited": stands}


def _put_training(own: Benchmark, record: dict, source: str, trial: int, *, seed: int) -> None:
    """Record what the run cost whose weights an arm has, and the one that brought it up to date."""
    cost = training.cost_of(run_folder(own, source, trial, seed=seed))
    record["training"] = cost._asdict()
    record["bytes"]["trained"] = cost.trained_bytes
    if own.later and record["cited"] is None:
        folder = run_folder(own.later, source, trial, seed=seed)
        record["update"] = training.cost_of(folder)._asdict()


def _asked(own: Benchmark) -> list[Question]:
    return [*own.sets.test, *(own.later.sets.test if own.later else ())]


def _shared(asked: Sequence[Question], prompts: Sequence[Sequence[int]]) -> dict[str, int]:
    """Count the tokens that all prompts of a need begin with."""
    by_need: dict[str, list] = {}
    for each, ids in zip(asked, prompts, strict=True):
        by_need.setdefault(each.need, []).append(ids)
    return {need: answering.shared_prefix(ids) for need, ids in by_need.items()}


def _labels(own: Benchmark, label: str, trial: arms.Trial) -> int:
    """Count the answered questions that an arm needs."""
    arm, source = own.arm(label), own.source(label)
    trained = own.training(source)[1] if source else []
    if not arm.shots:
        return len(trained)
    needs = {each.need for each in own.sets.train}
    counts = {need: sum(each.need == need for each in own.sets.train) for need in needs}
    shown = sum(n if trial.nearest else min(trial.shots, n) for n in counts.values())
    return max(shown, len(trained))


def _bytes(own: Benchmark, arm: arms.Arm) -> dict[str, int]:
    return {
        "base": tree.bytes_of(own.base),
        "index": own.knowledge.index.nbytes if arm.passages else 0,
        "trained": 0,
    }
