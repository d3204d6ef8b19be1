"""The passages of a decision, their index, and which of them answer which question.

knowledge = build(section, tokens=128, index=dict(name="bm25"), folder=DIR, ...)
hits = knowledge.search(["Who wrote Emma?"], k=4)     places, -1 where there are no more
knowledge.gold(question)                              places of the passages that answer it
"""

import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ftjax.decide import citations, questions
from ftjax.decide.questions import Question
from ftjax.evals import generate
from ftjax.retrieval import chunks, index, measure, passages


class Knowledge(NamedTuple):
    """Passages and their index; by_document: id of a document -> places of its passages."""

    passages: list[passages.Passage]
    index: index.Index
    by_document: dict[str, list[int]]
    index_s: float
    cut: int = 0  # documents that were longer than a passage may be

    def search(self, queries: Sequence[str], *, k: int) -> np.ndarray:
        """Return places [n, k] of the best passages."""
        return self.index.search(queries, k=k).places

    def gold(self, question: Question) -> tuple[int, ...]:
        """Return the places of the passages that answer a question; of a long document those that
        have the answer, all where none does.
        """
        places = [place for name in question.gold for place in self.by_document.get(name, ())]
        if len(places) <= len(question.gold):
            return tuple(places)
        texts = [[self.passages[place].text] for place in places]
        holds = np.zeros(len(places), bool)
        for answer in question.answers:
            change = generate.NORMALIZERS[question.normalize]
            holds |= citations.cited([answer] * len(places), texts, normalize=change)
        return tuple(p for p, is_held in zip(places, holds, strict=True) if is_held) or tuple(
            places
        )


def build(
    section: Mapping, *, tokens: int, spec: Mapping, folder: pathlib.Path, count: Callable,
    embed: Callable | None = None, identity: str = "",
) -> Knowledge:  # fmt: skip
    """Read passages, cut what is longer than `tokens`, and index them, or load the index.

    count: text -> tokens. embed, identity: of a dense index without a table.

    Raises:
      ValueError: see `passages.of_rows`, `chunks.cut` and `index.build`.
    """
    rows = questions.source(section, where="passages")
    fields = section.get("fields")
    named = [questions.renamed(rows[i], fields, where=rows.where(i)) for i in range(len(rows))]
    documents = passages.of_rows(named, where="passages", place=rows.where)
    found = chunks.cut(documents, count=count, budget=tokens)
    places: dict[str, list[int]] = {}
    for place, each in enumerate(found.passages):
        places.setdefault(each.document, []).append(place)
    if cut := sum(len(own) > 1 for own in places.values()):
        sys.stderr.write(
            f"passages: {cut} of {len(documents)} documents have more than {tokens} tokens and are "
            f"cut: {len(found.passages)} passages in all; {found.long_sentences} sentences were "
            "longer than one\n"
        )
    start = time.perf_counter()
    made = index.opened(
        spec, found.passages, folder=folder, where="index", embed=embed, identity=identity
    )
    return Knowledge(found.passages, made, places, time.perf_counter() - start, cut)


def check(knowledge: Knowledge, asked: Sequence[Question]) -> None:
    """Check that every passage which a question names is there.

    Raises:
      ValueError: one is not.
    """
    for each in asked:
        for name in each.gold:
            if name not in knowledge.by_document:
                raise ValueError(
                    f"{each.where}: passage_id: got {name!r}; expected the id of one of the "
                    f"{len(knowledge.by_document)} documents of passages; correct or drop it"
                )


def measured(knowledge: Knowledge, asked: Sequence[Question], *, at: Sequence[int]) -> dict:
    """Measure retrieval by itself over the questions whose passages are known; {} without any."""
    known = [each for each in asked if each.gold]
    if not known:
        return {}
    places = knowledge.search([each.prompt for each in known], k=max(at))
    golds = [set(knowledge.gold(each)) for each in known]
    return {"questions": len(known), **measure.summary(places, golds, at=at)}
