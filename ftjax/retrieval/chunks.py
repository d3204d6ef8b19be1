"""Documents to passages of whole sentences, each within a budget of tokens.

    cut(documents, count=lambda text: len(tokenizer.encode(text)), budget=128)

Sentences are added while the passage stays within the budget, counted on the passage as a whole,
since tokens span the borders of sentences. A sentence that alone is longer is cut between words, a
word that alone is longer inside, and both are counted. A document that fits stays one passage under
its own id; the n-th passage of another is `id#n`, from 0.
"""

import bisect
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ftjax.retrieval.passages import Passage

# A sentence ends at . ! or ? with what closes behind it, where the next begins with a capital, a
# digit or an opening mark; at full-width marks, which no space follows; and at an empty line.
END = re.compile(r"[.!?][\"'”’)\]]*\s+(?=[\"'“‘(\[]*[^\W_a-z])|[。！？]\s*|\n\s*\n\s*")  # noqa: RUF001
WORD = re.compile(r"\S+\s*")


class Cut(NamedTuple):
    """Passages, and how many sentences were longer than the budget and had to be cut."""

    passages: list[Passage]
    long_sentences: int


def cut(documents: Sequence[Passage], *, count: Callable[[str], int], budget: int) -> Cut:
    """Cut documents into passages of at most `budget` tokens; ids and characters are kept.

    count: text -> tokens; it must not fall when a text grows.

    Raises:
      ValueError: a budget below 1, or a single character that is longer than it.
    """
    if budget < 1:
        raise ValueError(f"budget: got {budget} tokens; expected at least 1; raise it")
    found, long_sentences = [], 0
    for document in documents:
        spans, cuts = _spans(document, count=count, budget=budget)
        long_sentences += cuts
        found += _passages(document, spans)
    return Cut(found, long_sentences)


def sentences(text: str) -> list[tuple[int, int]]:
    """Return the characters [start, end) of every sentence, with the white space behind it."""
    ends = [match.end() for match in END.finditer(text)]
    ends += [] if ends and ends[-1] == len(text) else [len(text)]
    return list(zip([0, *ends], ends, strict=False))


def _passages(document: Passage, spans: list[tuple[int, int]]) -> list[Passage]:
    if spans == [(0, len(document.text))]:
        return [document]
    found = []
    for n, (start, end) in enumerate(spans):
        text = document.text[start:end].rstrip()
        start += len(text) - len(text.lstrip())
        place = dict(start=document.start + start, end=document.start + start + len(text.lstrip()))
        found.append(document._replace(id=f"{document.id}#{n}", text=text.lstrip(), **place))
    return found


def _spans(document: Passage, *, count: Callable, budget: int) -> tuple[list, int]:
    """Join sentences, and pieces of those that are too long, into spans within the budget."""
    text, spans, long_sentences = document.text, [], 0
    fits = lambda start, end: count(text[start:end].strip()) <= budget
    for start, end in sentences(text):
        if spans and fits(spans[-1][0], end):
            spans[-1] = (spans[-1][0], end)
        elif fits(start, end):
            spans.append((start, end))
        else:
            long_sentences += 1
            spans += _pieces(text, start, end, fits=fits)
    return [each for each in spans if text[slice(*each)].strip()], long_sentences


def _pieces(text: str, start: int, end: int, *, fits: Callable) -> list[tuple[int, int]]:
    """Cut one sentence into the longest runs of words that fit."""
    found = []
    while start < end:
        words = [match.end() for match in WORD.finditer(text, start, end)] or [end]
        stop = _longest(words, start, fits=fits) or _longest(
            range(start + 1, words[0] + 1), start, fits=fits
        )
        if not stop:
            raise ValueError(
                f"budget: got less than the tokens of the character {text[start]!r}; raise it"
            )
        found.append((start, stop))
        start = stop
    return found


def _longest(stops: Sequence[int], start: int, *, fits: Callable) -> int:
    """Return the last of the ascending stops that fits, 0 where none does, by halving."""
    count = bisect.bisect_left(stops, True, key=lambda stop: not fits(start, stop))
    return stops[count - 1] if count else 0
