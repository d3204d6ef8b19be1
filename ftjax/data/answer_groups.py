"""Answers that belong together, as one example: pairs, rankings, an answer and a mismatched one.

An example is P sequences, each prompt + answer, and a few numbers (its weight, a label, a margin).
Rows of a batch have an axis P, and example s of row b is segment s + 1 of each of its P rows:

    tokens, weights, segments, positions [B,P,T]; examples (weights), label, margin [B,S]

Packing goes by the longest sequence of an example, so that answers stay at the same place of their
rows and no example is parted; what is wasted is the difference in length of its answers alone. S is
the most examples that a row could hold, fixed by the data's shortest one.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ftjax.data import encode
from ftjax.data.encode import Example
from ftjax.data.store import Store, fill

EQUAL = "answers equal after truncation"
EMPTY = Example(np.zeros(0, np.int32), np.zeros(0, np.float32))


class Group(NamedTuple):
    """P answers to one prompt; values: numbers by name, `examples` being the example's weight."""

    answers: tuple[Example, ...]
    values: dict[str, float]


def examples(rows: Sequence[dict], tokenizer, **options) -> list[Group]:
    """Encode checked rows of `preference_rows`; the options are those of `encode.examples`."""
    flat = [
        {"prompt": row["prompt"], "response": answer, "weight": 1.0, "tools": row.get("tools")}
        for row in rows
        for answer in row["answers"]
    ]
    found = iter(encode.examples(flat, tokenizer, **options))
    return [Group(tuple(next(found) for _ in row["answers"]), _values(row)) for row in rows]


def _values(row: dict) -> dict[str, float]:
    own = {name: float(row[name]) for name in ("label", "margin") if name in row}
    return {"examples": row["weight"]} | own


def fit(group: Group, max_tokens: int, *, overlong: str) -> tuple[list[Group], Counter]:
    """Return the group cut to `max_tokens`, or nothing, and what happened to it.

    overlong: "truncate" keeps the beginnings, "drop" leaves the group out, "error" raises
    ValueError. A group that is left with an answer of no target, or with equal answers, goes too.
    """
    if overlong not in ("truncate", "drop", "error"):
        raise ValueError(
            f"data.overlong: got {overlong!r}; expected 'truncate', 'drop' or 'error': answers are "
            "compared whole"
        )
    count, cut = Counter(), []
    for answer in group.answers:
        pieces, happened = encode.fit(answer, max_tokens, overlong=overlong)
        count |= happened  # once a group
        cut += pieces
    if len(cut) < len(group.answers):
        if count[encode.TOO_LONG]:  # one reason a group, so that the counts add up to its rows
            del count[encode.NO_TARGET]
        return [], count
    if len({piece.tokens.tobytes() for piece in cut}) < len(cut):
        return [], count | Counter({EQUAL: 1})
    return [Group(tuple(cut), group.values)], count


def store(groups: Sequence[Group], max_tokens: int) -> "Groups":
    """Keep groups as they are."""
    del max_tokens  # they fit
    return Groups(groups)


def store_mismatched(groups: Sequence[Group], max_tokens: int) -> "Groups":
    """Keep single answers with labels, and a mismatched answer beside each."""
    return Groups(mismatched(groups, max_tokens))


def mismatched(groups: Sequence[Group], max_tokens: int) -> list[Group]:
    """Add to each answer, as P = 1, its prompt with the answer to the nearest other prompt before.

    KTO estimates the policy's distance from the reference on them. Raises ValueError when all
    prompts, or all labels, are the same.
    """
    labels = {group.values["label"] for group in groups}
    if len(labels) == 1:
        kind = "good" if labels.pop() else "bad"
        raise ValueError(
            f"data: got {len(groups)} answers, all of them {kind}; expected some of both labels; "
            "add the others, or fine-tune on the good ones with objective 'sft'"
        )
    parts = [_parts(group.answers[0]) for group in groups]
    names = [prompt.tobytes() for prompt, _ in parts]
    if len(set(names)) == 1:
        raise ValueError(
            "data: got one prompt alone; expected at least two different ones: KTO compares with "
            "answers to other prompts"
        )
    # Twice around, so that the first ones find theirs at the end.
    other, last = {}, [len(names) - 1, None]
    for i in (*range(len(names)), *range(len(names))):
        if names[last[0]] != names[i]:
            last = [i, last[0]]
        else:
            last[0] = i
        other[i] = last[1]
    return [
        Group((group.answers[0], _join(parts[i][0], parts[other[i]][1], max_tokens)), group.values)
        for i, group in enumerate(groups)
    ]


def _parts(answer: Example) -> tuple[np.ndarray, np.ndarray]:
    """Split tokens where the targets begin."""
    start = int(np.argmax(answer.weights > 0))
    return answer.tokens[:start], answer.tokens[start:]


def _join(prompt: np.ndarray, answer: np.ndarray, max_tokens: int) -> Example:
    tokens = np.concatenate([prompt, answer])[:max_tokens]
    return Example(tokens, (np.arange(len(tokens)) >= len(prompt)).astype(np.float32))


class Groups:
    """Groups laid end to end: a `Store` of all sequences, `width` of them an example.

    lengths: int64 [examples], the longest sequence of each. values: float32 [examples] by name.
    """

    def __init__(self, groups: Sequence[Group]):
        self.width = max(len(group.answers) for group in groups)
        full = ((*group.answers, *[EMPTY] * (self.width - len(group.answers))) for group in groups)
        names = groups[0].values
        self._set(
            Store(answer for answers in full for answer in answers),
            {name: np.array([g.values[name] for g in groups], np.float32) for name in names},
        )

    @classmethod
    def of_arrays(
        cls, arrays: Mapping[str, np.ndarray], *, width: int, names: Sequence[str], **numbers
    ) -> "Groups":
        """Return the groups that gave `arrays()` and `numbers()`; arrays may be mapped files."""
        made = cls.__new__(cls)
        made.width = width
        made._set(Store.of_arrays(arrays, **numbers), {n: arrays[f"value-{n}"] for n in names})
        return made

    def _set(self, sequences: Store, values: dict[str, np.ndarray]) -> None:
        self.sequences, self.values = sequences, values
        self.lengths = sequences.lengths.reshape(-1, self.width).max(1)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what it is made of, for the disk."""
        return self.sequences.arrays() | {f"value-{n}": each for n, each in self.values.items()}

    def numbers(self) -> dict[str, Any]:
        """Return what else it is made of."""
        return self.sequences.numbers() | {"width": self.width, "names": list(self.values)}

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> Group:
        if not 0 <= i < len(self):
            raise IndexError(i)
        found = (self.sequences[i * self.width + p] for p in range(self.width))
        values = {name: float(array[i]) for name, array in self.values.items()}
        return Group(tuple(each for each in found if len(each.tokens)), values)

    @property
    def tokens(self) -> np.ndarray:
        """Tokens of all sequences."""
        return self.sequences.tokens

    def targets(self) -> int:
        """Return the number of tokens with a weight, first tokens of sequences aside."""
        return self.sequences.targets()

    def digest(self) -> str:
        """Return a short hash of everything in it."""
        found = hashlib.sha256(f"{self.width} {self.sequences.digest()}".encode())
        for name, array in self.values.items():
            found.update(name.encode() + array.tobytes())
        return found.hexdigest()[:16]

    def inside(self, plan) -> int:
        """Count the tokens in the rows of a plan."""
        return int(self.sequences.lengths.reshape(-1, self.width)[plan.example].sum())

    def batch(self, wanted: list, *, max_tokens: int, pad_id: int) -> dict[str, np.ndarray]:
        """Return a batch of the wanted rows, each a (plan, row) or None for an empty one."""
        sizes = dict(max_tokens=max_tokens, pad_id=pad_id)
        ranks = [
            fill(self.sequences, [self._rank(place, p) for place in wanted], **sizes)
            for p in range(self.width)
        ]
        arrays = {name: np.stack([rank[name] for rank in ranks], 1) for name in ranks[0]}
        return arrays | self._numbers(wanted, max_tokens)

    def _rank(self, place, p: int):
        """Turn a plan of examples into one of their sequences `p`, whole."""
        if place is None:
            return None
        plan, row = place
        own = plan.example[plan.bounds[row] : plan.bounds[row + 1]] * self.width + p
        lengths = self.sequences.lengths[own]
        bounds = np.array([0, len(own)])
        return plan._replace(example=own, start=0 * own, length=lengths, bounds=bounds), 0

    def _numbers(self, wanted: list, max_tokens: int) -> dict[str, np.ndarray]:
        most = max(int(max_tokens // self.lengths.min()), 1)
        found = {name: np.zeros((len(wanted), most), np.float32) for name in self.values}
        for b, place in enumerate(wanted):
            if place is None:
                continue
            plan, row = place
            own = plan.example[plan.bounds[row] : plan.bounds[row + 1]]
            for name, array in found.items():
                array[b, : len(own)] = self.values[name][own]
        return found
