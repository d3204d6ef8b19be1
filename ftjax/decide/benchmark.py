"""A decision under way: questions, base and index, read and checked once for all arms.

own = open_benchmark(decision, workdir)
own.arms                             labels of the arms that can run
own.later                            the same after the knowledge has changed, or None
"""

import dataclasses
import hashlib
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ftjax.core import files
from ftjax.decide import answer_metric, answering, arms, contexts, knowledge, leakage, questions
from ftjax.decide.config import Decision
from ftjax.decide.questions import Question
from ftjax.evals.lib import mean_states
from ftjax.run import named_adapters, reader, saved_state
from ftjax.run.shared import Shared

VERSION = 3  # of what is written
# Keys that may change when a finished arm is read back.
FREE = ("arms", "gates", "latency_rounds", "prices", "shown")


class Sets(NamedTuple):
    """The questions of a decision."""

    train: list[Question]
    validation: list[Question]
    test: list[Question]
    old: list[Question]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What all arms share; `arms` are the labels that can run."""

    decision: Decision
    workdir: pathlib.Path
    parts: Any
    base: dict
    answerer: answering.Answerer
    sections: Mapping[str, Mapping]  # of the training data
    sets: Sets
    knowledge: knowledge.Knowledge | None
    arms: tuple[str, ...]
    digest: str  # of data, base and settings
    shared: Shared  # what the runs of trained arms have in common: encoded rows, compiled steps
    later: "Benchmark | None" = None
    is_later: bool = False

    def arm(self, label: str) -> arms.Arm:
        """Return what an arm does."""
        return arms.of(self.decision.arms[label])

    def trials(self, label: str) -> list[arms.Trial]:
        """Return the trials of an arm."""
        return arms.trials(self.decision.arms[label])

    def source(self, label: str) -> str:
        """Return the label of the arm that trains an arm's weights, "" for those of the base."""
        return label if self.arm(label).run else self.decision.arms[label].get("weights") or ""

    def seeds(self, label: str) -> list[int]:
        """Return the seeds of an arm: without training nothing is random."""
        return list(self.decision.seeds) if self.source(label) else [0]

    def training(self, label: str) -> tuple[dict[str, Mapping], list[Question]]:
        """Return the sections that an arm is trained on, and their questions."""
        chosen = self.decision.arms[label].get("train") or list(self.sections)
        kept = {key: own for key, own in self.sections.items() if key in chosen}
        return kept, [each for each in self.sets.train if each.section in kept]

    def folder(self, label: str) -> pathlib.Path:
        """Return where an arm keeps what it made."""
        return self.workdir / "arms" / label

    def maker(self, train: Sequence[Question] | None = None) -> contexts.Maker:
        """Return what prompts are made of."""
        return contexts.Maker(
            self.decision.templates, self.sets.train if train is None else train, self.knowledge,
            self.answerer.count, self.answerer.room,
        )  # fmt: skip


def open_benchmark(decision: Decision, workdir: pathlib.Path) -> Benchmark:
    """Read and check all data, load the base, and index the passages.

    Raises:
      ValueError: naming the key; test rows that training has are refused.
    """
    sets, later = _read(decision)
    parts = named_adapters.parts_over(decision.base)
    base = reader.base_of(parts)
    answerer = answering.make(decision, parts)
    known = _knowledge(decision, decision.passages, workdir, parts, base)
    new = _knowledge(decision, decision.changed.passages, workdir, parts, base) if later else None
    for each, own in ((known, sets), (new, later)):
        if each is not None:
            knowledge.check(each, [*own.train, *own.validation, *own.test])
    # The simple ones first, which of equals are taken; what takes another's weights after it.
    order = lambda label: (
        bool(decision.arms[label].get("weights")),
        list(arms.ARMS).index(decision.arms[label]["name"]),
    )
    labels = tuple(
        label
        for label in sorted(decision.arms, key=order)
        if _can_run(decision, sets, known, label)
    )
    own = Benchmark(
        decision, pathlib.Path(workdir), parts, base, answerer, decision.train, sets, known,
        labels, _digest(decision, parts, (sets, later), (known, new)), Shared(),
    )  # fmt: skip
    if later is None:
        return own
    changed = dict(sections=decision.changed.train, sets=later, knowledge=new, is_later=True)
    return dataclasses.replace(own, later=dataclasses.replace(own, **changed))


def _read(decision: Decision) -> tuple[Sets, Sets | None]:
    """Read all questions, those after the knowledge has changed apart, and check them."""
    after = decision.changed
    groups = (
        ("train", decision.train), ("validation", decision.validation), ("test", decision.test),
        ("old", decision.old), ("changed.train", after.train), ("changed.test", after.test),
    )  # fmt: skip
    train, validation, test, old, new, asked = (
        questions.read(sections, where=where) for where, sections in groups
    )
    sets = Sets(train, validation, test, old)
    _check_sets(decision, sets._replace(train=[*train, *new], test=[*test, *asked]))
    return sets, Sets(new, [], asked, []) if asked else None


def _check_sets(decision: Decision, sets: Sets) -> None:
    for name in ("train", "test"):
        if not sets._asdict()[name]:
            raise ValueError(f"{name}: got texts alone; expected questions with answers; add some")
    questions.needs(sets.test)
    if answer_metric.make(decision.metric).name == answer_metric.CHOICE:
        questions.check_choices([*sets.validation, *sets.test])
    train = [each.item for each in sets.train]
    test = [each.item for each in sets.test]
    find = lambda seen, own: leakage.find(seen, own, share=decision.overlap)
    leakage.refuse(find(train, test), train="train", test="test")
    validation = [each.item for each in sets.validation]
    leakage.refuse(find(validation, test), train="validation", test="test")


def _knowledge(
    decision: Decision, section: Mapping, workdir, parts, base
) -> knowledge.Knowledge | None:  # fmt: skip
    if not section:
        return None
    embed = mean_states.make(
        parts.model, parts.tokenizer, batch_size=decision.batch_size, mesh=None
    )
    return knowledge.build(
        section, tokens=decision.passage_tokens, spec=decision.index,
        folder=pathlib.Path(workdir) / "indexes",
        count=lambda text: len(parts.tokenizer.encode(text)),
        embed=lambda texts: embed(base, texts), identity=saved_state.identity(parts)["hash"],
    )  # fmt: skip


def _can_run(decision: Decision, sets: Sets, known, label: str) -> bool:
    """Return whether there is what an arm needs; what is left out is said."""
    arm, lacks = arms.of(decision.arms[label]), ""
    if arm.passages and known is None:
        lacks = "passages: set passages, and it runs"
    elif arm.passages == "gold" and not any(each.gold for each in sets.test):
        lacks = "passage_id in the test rows"
    if lacks:
        sys.stdout.write(f"{label}: left out, for want of {lacks}\n")
    return not lacks


def _digest(decision: Decision, parts, sets: Sets, known) -> str:
    """Return the sha256 of everything that an arm's result depends on, its own section apart."""
    own = {key: value for key, value in decision.plain.items() if key not in FREE}
    passages = [each and each.passages for each in known]
    content = [VERSION, own, saved_state.identity(parts), sets, passages]
    return hashlib.sha256(json.dumps(files.plain(content), sort_keys=True).encode()).hexdigest()
