"""The kinds of data in one table: what their rows hold, and what batches an objective gets.

    data.kind    fields of a row                      SPEC.data    tokens      arrays [B, S]
    text         text                                 tokens       [B, T]
    prompt       prompt, response                     tokens       [B, T]
    chat         messages                             tokens       [B, T]
    preference   prompt, chosen, rejected, (margin)   preference   [B, 2, T]   examples, margin
    unpaired     prompt, completion, label            unpaired     [B, 2, T]   examples, label
    ranking      prompt, answers                      ranking      [B, P, T]   examples

`KINDS` are the rows by the name that a config's `data.kind` gives them, `BATCHES` the batches by
the name that an objective states as `SPEC.data`; two of these exist only as samples of a run. A new
kind is an entry here, with what parses its rows. S is the most examples that a row may hold.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from ftjax.data import answer_groups, encode, forms, packing, plain_rows, preference_rows
from ftjax.data.store import Store

BY_TOKEN = {
    "tokens": np.int32, "weights": np.float32, "segments": np.int32, "positions": np.int32,
}  # fmt: skip


class BatchKind(NamedTuple):
    """What an objective learns from.

    Attributes:
      name: as in `SPEC.data`.
      answers: P, the sequences of an example. 1: their arrays have no axis P. None: as many as the
        longest example of the data has.
      by_example: names of the float32 arrays [B, S]; `examples` are the examples' weights.
      by_prediction: names of the float32 arrays [B, T - 1].
      judged: whether something says how good an answer is, such as a label, a rank or a reward; if
        nothing does, every sequence is one to imitate.
      has_rival: whether one of the answers is sampled from a rival of the policy.
      encode: (checked rows, tokenizer, **options) -> examples; None: the run samples them itself.
      fit: (example, max_tokens, overlong=) -> (examples that fit, Counter of what happened).
      store: (examples, max_tokens) -> what holds them and makes batches of them.
      packings: legal values of `data.packing`. losses: those of `data.loss`.
    """

    name: str
    answers: int | None = 1
    by_example: tuple[str, ...] = ()
    by_prediction: tuple[str, ...] = ()
    judged: bool = True
    has_rival: bool = False
    encode: Callable | None = None
    fit: Callable | None = None
    store: Callable | None = None
    packings: tuple[str, ...] = ()
    losses: tuple[str, ...] = ()

    @property
    def sampled(self) -> bool:
        """Whether it exists only as samples of a run."""
        return self.encode is None

    def shapes(
        self, rows: int, max_tokens: int, *, examples: int = 1, answers: int | None = None
    ) -> dict[str, tuple[tuple[int, ...], type]]:
        """Return the (shape, type) of the arrays of a batch by name.

        examples: S. answers: P of a kind that leaves it to the data.
        """
        P = () if self.answers == 1 else (self.answers or answers,)
        found = {name: ((rows, *P, max_tokens), dtype) for name, dtype in BY_TOKEN.items()}
        found |= {name: ((rows, max_tokens - 1), np.float32) for name in self.by_prediction}
        return found | {name: ((rows, examples), np.float32) for name in self.by_example}


# Answers are compared whole: no packing may part them, and no other token is a target.
_COMPARED = dict(
    encode=answer_groups.examples, fit=answer_groups.fit, packings=("bfd", "none"),
    losses=("completion",),
)  # fmt: skip
TOKENS = BatchKind(
    "tokens", judged=False, encode=encode.examples, fit=encode.fit,
    store=lambda examples, max_tokens: Store(examples),
    packings=packing.STRATEGIES, losses=encode.LOSSES,
)  # fmt: skip
PREFERENCE = BatchKind(
    "preference", 2, ("examples", "margin"), store=answer_groups.store, **_COMPARED
)
# The second answer is a mismatched one, of which the row says nothing.
UNPAIRED = BatchKind(
    "unpaired", 2, ("examples", "label"), store=answer_groups.store_mismatched, **_COMPARED
)
RANKING = BatchKind("ranking", None, ("examples",), store=answer_groups.store, **_COMPARED)
# An objective's `make_advantages` adds arrays of its own to these.
EXPERIENCE = BatchKind("experience", by_prediction=("old_logps", "ref_logps"))
DUEL = BatchKind("duel", 2, ("examples", "probability"), has_rival=True)
BATCHES: Mapping[str, BatchKind] = {
    each.name: each for each in (TOKENS, PREFERENCE, UNPAIRED, RANKING, EXPERIENCE, DUEL)
}


class DataKind(NamedTuple):
    """What a row of a source has to be.

    Attributes:
      fields: that a field map may name. Which of them a row needs, `parse` knows.
      parse: `row.Row` -> the checked fields, as `batch.encode` reads them; raises RowError.
      batch: what such rows are learned from as.
      forms: forms of rows that can become this kind, the likeliest first -> what converts a row.
      refused: columns that such a row may not have -> what to do about them.
      overlong: what is done about examples that are too long, where `data.overlong` is None.
    """

    fields: tuple[str, ...]
    parse: Callable[..., dict]
    batch: BatchKind
    forms: Mapping[str, Callable] = {}
    refused: Mapping[str, str] = {}
    overlong: str = "truncate"


KINDS: Mapping[str, DataKind] = {
    "text": DataKind(("text",), plain_rows.text, TOKENS, forms.TO_TEXT, overlong="split"),
    "prompt": DataKind(
        ("prompt", "response"), plain_rows.prompt, TOKENS, forms.TO_PROMPT, forms.REFUSED
    ),
    "chat": DataKind(("messages",), plain_rows.chat, TOKENS, forms.TO_CHAT, forms.REFUSED),
    "preference": DataKind(
        ("prompt", "chosen", "rejected", "margin"), preference_rows.preference, PREFERENCE
    ),
    "unpaired": DataKind(("prompt", "completion", "label"), preference_rows.unpaired, UNPAIRED),
    "ranking": DataKind(("prompt", "answers"), preference_rows.ranking, RANKING),
}


def names_of(batch: BatchKind) -> str:
    """Return the values of `data.kind` that give such batches, for an error message."""
    names = [name for name, kind in KINDS.items() if kind.batch is batch]
    return repr(names[0]) if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
