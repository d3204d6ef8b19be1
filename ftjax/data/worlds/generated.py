"""Rows that are computed when they are read: random access, seeded, the same on every machine.

Row i of a domain is a pure function of a key, so nothing is stored and nothing depends on the
order of reading or on the process:

    row_i = draw(i, generator(domain, split, seed, i))
"""

import collections.abc
import difflib
import zlib

import numpy as np

SPLITS = ("train", "validation", "test")
ROWS = {"train": 100_000, "validation": 1_000, "test": 1_000}


def generator(*key: int | str) -> np.random.Generator:
    """Return the NumPy generator that belongs to `key` (integers from 0 on, and strings)."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else int(part) for part in key]
    return np.random.default_rng(np.random.SeedSequence(words))


def bucket(text: str, buckets: int) -> int:
    """Return the bucket of `text` in [0, buckets): the same in every process, unlike `hash`."""
    return zlib.crc32(text.encode()) % buckets


def pick(rng: np.random.Generator, items: collections.abc.Sequence):
    """Return one of `items`, all equally likely."""
    return items[int(rng.integers(len(items)))]


def sample(rng: np.random.Generator, items: collections.abc.Sequence, count: int) -> list:
    """Return `count` different items in random order."""
    return [items[int(i)] for i in rng.permutation(len(items))[:count]]


def between(rng: np.random.Generator, limits: int | tuple[int, int]) -> int:
    """Return an integer from the closed range `limits`; a single integer stands for itself."""
    if isinstance(limits, int):
        return limits
    return int(rng.integers(limits[0], limits[1] + 1))


def legal(value, allowed, where: str):
    """Return `value` if it is one of `allowed`; raise ValueError with the nearest name if not."""
    if value in allowed:
        return value
    near = difflib.get_close_matches(str(value), [str(name) for name in allowed], n=1)
    hint = f"did you mean {near[0]!r}?" if near else "choose one of these"
    raise ValueError(f"{where}: got {value!r}; expected one of {sorted(allowed)}; {hint}")


class Generated(collections.abc.Sequence):
    """A sequence of `count` rows, each computed by `draw(index)` when it is asked for.

    weighted: their `weight` is the weight of the loss.
    """

    # What of them training does not read is for evaluations, and not lost.
    annotated = True

    def __init__(self, draw, *, count: int, name: str, weighted: bool = False):
        if count < 0:
            raise ValueError(f"{name}: got rows={count}; expected 0 or more; leave it out for all")
        self.draw, self.count, self.name = draw, count, name
        self.bad: list = []
        self.weighted = weighted

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.count))]
        if not -self.count <= index < self.count:
            raise IndexError(f"{self.name}: got row {index}; expected less than {self.count}")
        return self.draw(int(index) % self.count)

    def where(self, index: int) -> str:
        """Return the place of row `index` for error messages, such as "skills/train:17"."""
        return f"{self.name}:{index}"


def question(prompt: str, answer: str, **truth) -> dict:
    """Return a prompt/response row: the prompt ends in ":", the response starts with a space.

    A byte-level tokenizer always cuts there, so both halves have the same tokens as the whole.
    """
    return {"prompt": prompt, "response": f" {answer}", "answer": answer, **truth}


def as_text(row: dict) -> dict:
    """Return the row as plain text, its ground truth kept: every token is then a target."""
    truth = {key: value for key, value in row.items() if key not in ("prompt", "response")}
    return {"text": row["prompt"] + row["response"], **truth}
