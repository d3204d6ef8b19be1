"""Prompts: a question with what its arm puts in front of it, cut to the room there is.

    instruction, shots (answered questions), passages, question

What does not fit is left out, the worst passage first, then shots, and counted. A question that
alone leaves no room for an answer is an error.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ftjax.decide.arms import Arm, Trial
from ftjax.decide.config import Templates
from ftjax.decide.knowledge import Knowledge
from ftjax.decide.questions import Question
from ftjax.retrieval import bm25, passages


class Prompt(NamedTuple):
    """A prompt and the places of the passages in it, the best first."""

    text: str
    cited: tuple[int, ...]


class Maker(NamedTuple):
    """What prompts are made of. count: text -> tokens; room: tokens that a prompt may have."""

    templates: Templates
    train: Sequence[Question]  # shots come from it
    knowledge: Knowledge | None
    count: Callable[[str], int]
    room: int


def make(
    maker: Maker, arm: Arm, trial: Trial, asked: Sequence[Question]
) -> tuple[list[Prompt], Counter]:  # fmt: skip
    """Make the prompt of every question; counts what was left out for want of room.

    Raises:
      ValueError: a question leaves no room for an answer.
    """
    shots = _shots(maker, arm, trial, asked)
    places = _places(maker, arm, trial, asked)
    counted: Counter = Counter()
    made = [
        fit(maker, trial, each, own, cited, counted)
        for each, own, cited in zip(asked, shots, places, strict=True)
    ]
    return made, counted


def fit(
    maker: Maker, trial: Trial, question: Question, shots: list[Question], cited: list[int],
    counted: Counter,
) -> Prompt:  # fmt: skip
    """Put one prompt together, with as many passages and shots as there is room for."""
    shots, cited = list(shots), list(cited)
    texts = lambda: maker.templates.separator.join(
        maker.knowledge.passages[place].text for place in cited
    )
    while trial.budget is not None and cited and maker.count(texts()) > trial.budget:
        cited.pop()
        counted["passages beyond the budget"] += 1
    while maker.count(text := _join(maker, trial, question, shots, texts())) > maker.room:
        if not cited and not shots:
            raise ValueError(
                f"{question.where}: got a prompt of {maker.count(text)} tokens; expected at most "
                f"{maker.room}, or there is no room for an answer; shorten or delete it"
            )
        counted["passages without room" if cited else "shots without room"] += 1
        (cited or shots).pop()
    return Prompt(text, tuple(cited))


def _join(maker: Maker, trial: Trial, question: Question, shots, texts: str) -> str:
    templates = maker.templates
    asked = trial.template.replace("{prompt}", question.prompt)
    if texts:
        asked = templates.passages.format(passages=texts, prompt=asked)
    before = "".join(templates.shot.format(prompt=s.prompt, response=s.response) for s in shots)
    start = templates.system.format(instruction=trial.instruction) if trial.instruction else ""
    return start + before + asked


def _shots(maker: Maker, arm: Arm, trial: Trial, asked) -> list[list[Question]]:
    """Choose answered questions of the same need: the first ones, or those nearest to each."""
    if not arm.shots:
        return [[] for _ in asked]
    by_need: dict[str, list[Question]] = {}
    for each in maker.train:
        by_need.setdefault(each.need, []).append(each)
    if not trial.nearest:
        return [by_need.get(each.need, [])[: trial.shots] for each in asked]
    found = {need: _nearest(own) for need, own in by_need.items()}
    # The nearest stands next to the question.
    return [
        found[each.need](each, trial.shots)[::-1] if each.need in found else [] for each in asked
    ]


def _nearest(train: list[Question]) -> Callable:
    rows = [{"text": each.prompt} for each in train]
    made = bm25.make(passages=passages.of_rows(rows, where="train"))

    def search(question: Question, k: int) -> list[Question]:
        [places] = made.search([question.prompt], k=k).places
        return [train[place] for place in places if place >= 0]

    return search


def _places(maker: Maker, arm: Arm, trial: Trial, asked) -> list[list[int]]:
    if arm.passages == "gold":
        return [list(maker.knowledge.gold(each)) for each in asked]
    if not arm.passages:
        return [[] for _ in asked]
    hits = maker.knowledge.search([each.prompt for each in asked], k=trial.k)
    return [[int(place) for place in row if place >= 0] for row in hits]


def for_training(
    maker: Maker, arm: Arm, trial: Trial, *, left_out: float, seed: int
) -> list[Prompt]:  # fmt: skip
    """Make the training prompts of an arm; those with passages as RAFT has them.

    The gold passage stands among those that were found, at a random place; from a share `left_out`
    of prompts it is taken, so that the model also learns to answer without it.
    """
    rng, counted, made = np.random.default_rng(seed), Counter(), []
    places = _places(maker, arm, trial, maker.train)
    for question, own in zip(maker.train, places, strict=True):
        gold = set(maker.knowledge.gold(question)) if arm.passages else set()
        if gold:
            own = [place for place in own if place not in gold]
            if rng.random() >= left_out:
                own = own[: trial.k - 1]
                own.insert(int(rng.integers(len(own) + 1)), min(gold))
        made.append(fit(maker, trial, question, [], own, counted))
    return made
