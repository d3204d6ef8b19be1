"""Batches of token ids for training: deterministic, resumable, the same on any number of hosts.

    loader = make(name="jsonl", path="train.jsonl", kind="prompt", tokenizer="llama3/",
                  max_tokens=1024, batch_size=64)
    for batch in loader: ...      # {"tokens", "weights", "segments", "positions"}: numpy [B, T]

Every epoch is drawn by seed, packed by a plan made from the lengths alone, and its rows shuffled.
Where it would fill less than a batch, its examples are spread over one and not repeated in it.
The epochs' rows form one endless sequence, and global batch g is rows [g B, (g + 1) B) of it, of
which each process takes those that lie on its devices. Any batch can be computed at once, so the
whole state is one integer, `next_batch`, beside a fingerprint of what it counts in.

weights[b, t] is the weight of tokens[b, t] as a target, predicted from t - 1. Segment 0 is padding.
The kinds of preference data give batches [B, P, T]; see `groups`.
"""

import bisect
import hashlib
import inspect
import json
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from ftjax.core import config as conf
from ftjax.core.typed import Count
from ftjax.data import (
    answer_groups,
    encode,
    epoch_order,
    packing,
    prepare,
    rows,
    stops,
)
from ftjax.data.prepare import Data

LEFT_OUT = (encode.TOO_LONG, encode.NO_TARGET, answer_groups.EQUAL)  # why a good row is no example

ENDLESS = 2**40  # more batches than anybody trains for
PREFETCH = 4


def make(
    *,
    batch_size: int,
    max_tokens: Count,
    packing: str = "bfd",
    shuffle: bool = True,
    seed: int = 0,
    epochs: Count | None = None,
    local_rows: Sequence[int] | None = None,
    load: Callable = prepare.load,
    **examples,
) -> "Loader":
    """Load, encode and plan a data set; the keywords are a config's `data` section.

    batch_size: rows of a batch, over all processes. max_tokens: its width, and the longest example.
    packing: see `packing`. epochs: None goes on for ever. local_rows: those of a batch that this
    process takes, all when None; see `core.mesh.local_rows`. load: such as one that keeps what it
    loads. examples: its keywords (name, tokenizer, kind, ...), and those of the source `name`.
    Raises ValueError naming the key, or the file, line and field.
    """
    _check_keys(examples)
    data = load(max_tokens=max_tokens, packing=packing, **examples)
    return Loader(
        data,
        batch_size=batch_size,
        max_tokens=max_tokens,
        packing=packing,
        shuffle=shuffle,
        seed=seed,
        epochs=epochs,
        local_rows=local_rows,
    )


def opened(data: Mapping, *, where: str, **given) -> "Loader":
    """Make the loader of a section of a config; `given` are the keywords that the program sets.

    Raises:
      ValueError: the section sets one of them too, or anything that `make` raises.
    """
    # Python would refuse the double keyword too, but with a function's name and not a key's.
    if clash := sorted(data.keys() & given.keys()):
        raise ValueError(f"{where}.{clash[0]}: got a value; expected none, another key sets it")
    return make(**data, **given)


def check_types(data: Mapping, *, where: str) -> None:
    """Raise ValueError for a value that `make` or `prepare.load` do not take, naming its key."""
    for function in (make, prepare.load):
        for name, parameter in inspect.signature(function).parameters.items():
            if name in data and parameter.kind is not parameter.VAR_KEYWORD:
                conf.check(data[name], parameter.annotation, where=f"{where}.{name}")


def _check_keys(given: Mapping) -> None:
    """Raise for a key that neither `make`, `prepare.load` nor the source's `make` names."""
    missing = {"name", "tokenizer"} - set(given)
    if missing:
        raise ValueError(f"data: got no {conf.listed(missing)}; expected it; add it")
    opener = conf.attribute(given["name"], "data.sources", where="data.name")
    if opener is None:
        return  # opening it says so
    known = [make, prepare.load, opener]
    parameters = [p for each in known for p in inspect.signature(each).parameters.values()]
    # The first two end in **keywords for what follows; a source of one's own may do so too.
    if sum(p.kind is p.VAR_KEYWORD for p in parameters) > 2:
        return
    legal = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    for key in given:
        if key not in legal:
            hint = conf.nearest(key, legal)
            raise ValueError(f"data.{key}: unknown key; {hint}expected one of {conf.listed(legal)}")


def _check_seed(seed: int) -> None:
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"data.seed: got {seed!r}; expected a whole number from 0 on; set it")


def _check_sizes(**sizes: int) -> None:
    for key, value in sizes.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"data.{key}: got {value!r}; expected a whole number above 0; set it")


class Epoch(NamedTuple):
    """The packed rows of one pass, and the order in which they are shown."""

    plan: packing.Plan
    order: np.ndarray


class Loader:
    """An iterator over batches that can say where it is and go there.

    `state()` after batch g says g + 1, however far the prefetch has read.
    """

    def __init__(
        self,
        data: Data,
        *,
        batch_size: int,
        max_tokens: int,
        packing: str,
        shuffle: bool = True,
        seed: int = 0,
        epochs: int | None = None,
        local_rows: Sequence[int] | None = None,
    ):
        _check_sizes(batch_size=batch_size, max_tokens=max_tokens)
        _check_seed(seed)
        self._local = list(range(batch_size) if local_rows is None else local_rows)
        if not set(self._local) <= set(range(batch_size)):
            raise ValueError(
                f"data.batch_size: got {batch_size} with the rows {self._local} of this process; "
                "expected rows of the batch; change batch_size"
            )
        self.data, self.max_tokens, self.batch_size = data, max_tokens, batch_size
        self._packing, self._shuffle, self._seed = packing, shuffle, seed
        self._epochs = epochs
        self._next = 0
        self._reading = None
        self._ends: list[int] = []  # rows of all epochs up to and with the i-th
        self._cached: dict[int, Epoch] = {}
        # The reading thread and the caller both plan epochs.
        self._lock = threading.RLock()
        self._identity = self._describe()

    def _describe(self) -> dict:
        """Return what makes batch g be batch g, as a small dict of plain values."""
        return {
            "data": self.data.store.digest(),
            "parts": [list(self.data.counts), list(self.data.shares)],
            "packing": self._packing,
            "max_tokens": self.max_tokens,
            "batch_size": self.batch_size,
            "shuffle": self._shuffle,
            "seed": self._seed,
        }

    # Iterating

    def __iter__(self) -> Iterator[dict]:
        return self

    def __next__(self) -> dict:
        if self._reading is None:
            self._reading = self._prefetched()
        batch = next(self._reading)
        self._next += 1
        return batch

    def _prefetched(self) -> Iterator[dict]:
        """Yield the batches from the next one on, read ahead in a thread."""
        stop = ENDLESS if self._epochs is None else self.batches()
        reader, ahead = ThreadPoolExecutor(1, "batches"), deque()
        try:
            for g in range(self._next, stop):
                ahead.append(reader.submit(self.batch, g))
                if len(ahead) > PREFETCH:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            reader.shutdown(wait=False, cancel_futures=True)

    def batches(self) -> int:
        """Return the number of batches in all epochs; the last is padded with empty rows."""
        if self._epochs is None:
            raise ValueError("data.epochs: got None, which goes on for ever; expected a number")
        self._extend(epochs=self._epochs)
        return -(-self._ends[self._epochs - 1] // self.batch_size)

    def batches_in(self, epochs: float) -> int:
        """Return how many batches show the data so often: rounded up, none of them padded."""
        whole = int(epochs)
        self._extend(epochs=whole + 1)
        before = self._ends[whole - 1] if whole else 0
        rows = before + (epochs - whole) * (self._ends[whole] - before)
        return max(1, math.ceil(rows / self.batch_size - 1e-9))

    @property
    def ends(self) -> bool:
        """Return whether the data end, after so many epochs."""
        return self._epochs is not None

    def batches_per_epoch(self) -> float:
        """Return the length of the first epoch in batches."""
        self._extend(epochs=1)
        return self._ends[0] / self.batch_size

    def batch(self, g: int) -> dict[str, np.ndarray]:
        """Return this process's rows of global batch `g`: arrays [its rows, T]."""
        with self._lock:
            wanted = [self._find(g * self.batch_size + n) for n in self._local]
        return self._fill(wanted)

    def _fill(self, wanted: list) -> dict[str, np.ndarray]:
        sizes = dict(max_tokens=self.max_tokens, pad_id=self.data.pad_id)
        return self.data.store.batch(wanted, **sizes)

    def batches_once(self) -> Iterator[dict]:
        """Yield one pass over every example, in order, for evaluation.

        The last batch is filled up with rows of weight 0, so every process sees as many batches.
        """
        everything = np.arange(len(self.data.store))
        plan = self._plan(everything)
        for start in range(0, plan.rows, self.batch_size):
            wanted = [start + n for n in self._local]
            wanted = [(plan, r) if r < plan.rows else None for r in wanted]
            yield self._fill(wanted)

    # Epochs

    def epoch(self, e: int) -> Epoch:
        """Return the plan of epoch `e`; the last two are kept."""
        with self._lock:
            if e not in self._cached:
                newest = list(self._cached.items())[-1:]
                self._cached = dict([*newest, (e, self._make_epoch(e))])
            return self._cached[e]

    def _make_epoch(self, e: int) -> Epoch:
        when = {"seed": self._seed, "epoch": e}
        counts, shares = self.data.counts, self.data.shares
        drawn = epoch_order.order(counts, shares, shuffle=self._shuffle, **when)
        plan = self._plan(drawn, rows=self.batch_size)
        order = epoch_order.permutation(plan.rows, **when) if self._shuffle else range(plan.rows)
        return Epoch(plan, np.asarray(order))

    def _plan(self, drawn: np.ndarray, *, rows: int = 1) -> packing.Plan:
        lengths = self.data.store.lengths[drawn]
        plan = packing.make(self._packing, lengths, max_tokens=self.max_tokens, rows=rows)
        return plan._replace(example=drawn[plan.example])

    def _extend(self, *, epochs: int) -> None:
        with self._lock:
            while len(self._ends) < epochs:
                before = self._ends[-1] if self._ends else 0
                self._ends.append(before + self.epoch(len(self._ends)).plan.rows)

    def _find(self, row: int) -> tuple[packing.Plan, int] | None:
        """Return (plan, row of it) of a row of the endless sequence; None after the last epoch."""
        while not self._ends or self._ends[-1] <= row:
            if self._epochs is not None and len(self._ends) >= self._epochs:
                return None
            self._extend(epochs=len(self._ends) + 1)
        e = bisect.bisect_right(self._ends, row)
        plan, order = self.epoch(e)
        return plan, int(order[row - (self._ends[e - 1] if e else 0)])

    # State

    def state(self) -> dict:
        """Return where the iteration is, as a small JSON-able dict."""
        return {
            "next_batch": self._next,
            "plan_hash": _digest(self._identity),
            "plan": self._identity,
        }

    def restore(self, state: Mapping) -> None:
        """Go on from `state`, on any number of processes.

        Raises ValueError, naming what differs, if the batches would not be those that were saved.
        """
        if state["plan_hash"] != _digest(self._identity):
            saved = state.get("plan", {})
            differs = [
                f"{key} (saved {saved.get(key)}, now {value})"
                for key, value in self._identity.items()
                if saved.get(key) != value
            ]
            raise ValueError(
                f"data: got a saved position in another sequence of batches: {', '.join(differs)}; "
                "expected the same data and settings; undo the change, or start the data afresh "
                "with --restart_data"
            )
        self._next = int(state["next_batch"])
        self.close()

    def close(self) -> None:
        """Stop reading ahead; iterating again starts it anew from `state()`."""
        if self._reading is not None:
            self._reading.close()
        self._reading = None

    def summary(self) -> dict:
        """Return rows, their forms and ends, tokens, targets, what was cut or left out."""
        data, count = self.data, self.data.count
        plan = self.epoch(0).plan
        parts = Counter()
        for name, examples in zip(data.names, data.counts, strict=True):
            parts[name] += examples  # several parts may carry one label
        return {
            "rows": data.rows,
            "examples": len(data.store),
            "parts": dict(parts),
            "tokens": len(data.store.tokens),
            "targets": data.store.targets(),
            "forms": dict(data.forms),
            "unread_columns": dict(data.unread),
            "stops": stops.describe(data.turns),
            "duplicates": data.duplicates,
            "held_out": data.held_out,
            "near_duplicates": data.copies.near,
            "overlap": {label: list(own) for label, own in (data.copies.overlap or {}).items()},
            "copies": list(data.copies.examples),
            "bad": rows.count_bad(data.bad),
            "truncated": count["truncated"],
            "split": count["split"],
            "unpredicted": count[encode.UNPREDICTED],
            "straddling": count[encode.STRADDLES],
            "touching": count[encode.TOUCHES],
            "dropped": {key: count[key] for key in LEFT_OUT} | self._skipped(),
            "epoch_rows": plan.rows,
            "fill": data.store.inside(plan) / (plan.rows * self.max_tokens * data.store.width),
        }

    def _skipped(self) -> dict[str, int]:
        """Return how many rows were left out as copies, where that was asked for."""
        skipped = self.data.copies.skipped
        return {"copies": skipped} if skipped else {}


def _digest(identity: Mapping) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
