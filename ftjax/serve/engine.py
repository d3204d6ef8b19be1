"""The queue behind an endpoint: a thread that keeps the slots of one set of weights at work.

    engine = Engine(programs, params, stop_ids=(2,), max_queue=256, max_queue_tokens=1 << 18)
    engine.warm_up()
    engine.start(deliver)                  deliver([(job, piece), ...]) after every turn
    engine.submit([Job(prompt, ...)])      from any thread; raises Full
    job.cancel()                           its slot is free after the turn
    engine.close()                         ends what has begun, then the thread

Between two turns of the device the thread fills free slots, the oldest jobs first, and hands out
what was generated. Texts are none of its business: jobs are tokens in, tokens out, so that their
decoding can run beside the next turn.
"""

import collections
import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from ftjax.core import shapes
from ftjax.sampling import slots as slots_lib

GROUP = 8  # prompts that are read in one call
GROWTH = 4  # between the numbers of rows that have a program
TURN_S = 0.05  # a turn, and so the wait of a request for a free slot: too short to be felt


class Full(RuntimeError):
    """There is no place in the queue."""


class Closed(RuntimeError):
    """The queue takes nothing more."""


class Piece(NamedTuple):
    """What a job has generated in a turn.

    end: None while it goes on, then "stop", "length", "cancelled" or "error: why".
    """

    tokens: list[int]
    logps: list[float]
    alternatives: list[list[tuple[int, float]]]  # of each token, the likeliest first; or empty
    end: str | None = None


@dataclasses.dataclass(eq=False)
class Job:
    """A prompt to continue; see `slots.Start`."""

    prompt: Sequence[int]
    limit: int
    seed: int = 0
    number: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    alternatives: int = 0
    member: int = 0
    sink: Callable[[Piece], None] | None = None  # for who delivers: where its pieces go
    is_cancelled: bool = False
    submitted: float = 0.0  # when, in seconds
    has_begun: bool = False

    def cancel(self) -> None:
        """Let it end with the turn."""
        self.is_cancelled = True

    @property
    def tokens(self) -> int:
        """Count the positions that it may need."""
        return len(self.prompt) + self.limit


@dataclasses.dataclass
class Counts:
    """What the engine has done so far; written by its thread alone."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    ended: int = 0
    cancelled: int = 0
    failed: int = 0
    turns: int = 0
    first_tokens: int = 0
    first_token_s: float = 0.0  # the sum over all jobs


class Engine:
    """See the module."""

    def __init__(
        self, programs: slots_lib.Slots, params, *, count: int, stop_ids: Sequence[int],
        max_queue: int, max_queue_tokens: int, context: Callable = contextlib.nullcontext,
    ):  # fmt: skip
        self.count, self.counts = count, Counts()
        self._programs, self._params, self._stop_ids = programs, params, frozenset(stop_ids)
        self._max_queue, self._max_queue_tokens = max_queue, max_queue_tokens
        self._context = context  # under which the device works, such as a mesh's
        self._changed = threading.Condition()
        self._waiting: collections.deque[Job] = collections.deque()
        self._at: list[Job | None] = [None] * count
        self._closing = False
        # A turn costs what its rows cost: as many as are at work, rounded up to one of these.
        self._sizes = sorted({min(GROWTH**i, count) for i in range(count.bit_length())})
        self._step_s = TURN_S  # of a token of every row, as measured
        self._thread: threading.Thread | None = None

    # -- for any thread ----------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Compile every program, over rows that end with their first token; before `start`."""
        with self._context():
            self._state = self._programs.empty()
            for size in sorted({1, min(GROUP, self.count)}):
                self._state = self._start([(slot, Job([0, 0], 1)) for slot in range(size)])
            for rows in self._sizes:
                # No row goes on, so that any state will do.
                self._state, turn = self._programs.advance(
                    self._params, self._state, np.zeros(rows, bool), np.int32(1), np.int32(1)
                )
            jax.block_until_ready(turn)

    def start(self, deliver: Callable[[list[tuple[Job, Piece]]], None]) -> None:
        """Start the thread, which calls `deliver` after every turn."""
        self._deliver = deliver
        with self._context():
            self._state = self._programs.empty()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Put jobs at the end of the queue, all or none.

        Raises:
          Full: they would wait, and the queue has no room. Closed: it takes no more.
        """
        with self._changed:
            if self._closing or not self.is_alive:
                raise Closed("the queue is closed")
            waits = [*self._waiting, *jobs][self.count - self.busy :]
            if len(waits) > self._max_queue:
                raise Full(f"{len(waits)} answers would wait; at most {self._max_queue} may")
            tokens = sum(job.tokens for job in waits)
            if tokens > self._max_queue_tokens:
                raise Full(f"{tokens} tokens would wait; at most {self._max_queue_tokens} may")
            for job in jobs:
                job.submitted = time.perf_counter()
            self._waiting.extend(jobs)
            self._changed.notify()

    def close(self, *, timeout_s: float | None = None) -> None:
        """End the thread once all jobs have ended; after `timeout_s` they are cancelled."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is None:
            return
        self._thread.join(timeout_s)
        with self._changed:
            for job in (*self._waiting, *filter(None, self._at)):
                job.cancel()
        self._thread.join()

    @property
    def busy(self) -> int:
        """Count the slots at work."""
        return sum(job is not None for job in self._at)

    @property
    def waiting(self) -> int:
        """Count the jobs that no slot has taken yet."""
        return len(self._waiting)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    # -- for its own -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with self._context():
                while self._wait():
                    self._turn()
        finally:  # whatever ended the thread: nobody waits for ever
            self._end_all("error: the engine has ended")

    def _wait(self) -> bool:
        """Wait for work; False when there will be none."""
        with self._changed:
            while not (self._waiting or self.busy or self._closing):
                self._changed.wait()
            return bool(self._waiting or self.busy)

    def _turn(self) -> None:
        gone, new = self._take()
        if gone:
            self._deliver([(job, Piece([], [], [], "cancelled")) for job in gone])
        if not self.busy:
            return
        try:
            for group in _groups(new):
                self._state = self._start(group)
            found = self._advance(steps=1 if new else self._steps())
        except RuntimeError as error:  # of the device, such as no memory
            self.counts.failed += self.busy
            self._end_all(f"error: {error}", waiting=False)
            self._state = self._programs.empty()
            return
        self._deliver(found)

    def _take(self) -> tuple[list[Job], list[tuple[int, Job]]]:
        """Free the slots of cancelled jobs and fill them: jobs that are gone, (slot, job) begun."""
        with self._changed:
            gone = [job for job in (*self._waiting, *self._at) if job and job.is_cancelled]
            self._waiting = collections.deque(j for j in self._waiting if not j.is_cancelled)
            self._at = [None if job and job.is_cancelled else job for job in self._at]
            free = [slot for slot, job in enumerate(self._at) if job is None]
            new = [(slot, self._waiting.popleft()) for slot in free[: len(self._waiting)]]
            for slot, job in new:
                self._at[slot] = job
        self.counts.cancelled += len(gone)
        self.counts.prompt_tokens += sum(len(job.prompt) for _, job in new)
        return gone, new

    def _steps(self) -> int:
        return int(np.clip(TURN_S / self._step_s, 1, slots_lib.TURN))

    def _start(self, group: list[tuple[int, Job]]) -> slots_lib.State:
        size = 1 if len(group) == 1 else GROUP
        rows = group + [(self.count, Job([0], 1))] * (size - len(group))
        prompts = shapes.pad_rows([job.prompt for _, job in rows], self._programs.width, fill=0)
        return self._programs.start(self._params, self._state, prompts, _start_of(rows))

    def _advance(self, *, steps: int) -> list[tuple[Job, Piece]]:
        begin = time.perf_counter()
        last = max(slot for slot, job in enumerate(self._at) if job is not None)
        rows = next(size for size in self._sizes if size > last)
        keep = np.array([job is not None for job in self._at[:rows]])
        # Jobs that wait begin in groups, so that prompts are read together.
        least = int(np.clip(len(self._waiting), 1, max(1, self.count // 8)))
        due = least + int((~keep).sum()) if self._waiting else self.count + 1
        self._state, turn = self._programs.advance(
            self._params, self._state, keep, np.int32(steps), np.int32(due)
        )
        wants = any(job and job.alternatives for job in self._at)
        best = jax.device_get((turn.ids_RNK, turn.best_RNK)) if wants else None
        own = jax.device_get((turn.tokens_RN, turn.logps_RN, turn.count_R, turn.open_R))
        now = time.perf_counter()
        done = max(1, int(own[2].max()))
        # A mean of what was and what is, since other processes make turns uneven.
        self._step_s = (self._step_s + (now - begin) / done) / 2
        self.counts.turns += 1
        return list(self._pieces(own, best, now))

    def _pieces(self, own, best, now: float) -> Iterator[tuple[Job, Piece]]:
        tokens_RN, logps_RN, count_R, open_R = own
        for slot, job in enumerate(self._at):
            if job is None:  # and all behind the rows of the turn
                continue
            count = int(count_R[slot])
            tokens, logps = tokens_RN[slot, :count].tolist(), logps_RN[slot, :count].tolist()
            alternatives = _alternatives(best, slot, count, job.alternatives)
            self.counts.generated_tokens += count
            if not job.has_begun and count:
                job.has_begun = True
                self.counts.first_tokens += 1
                self.counts.first_token_s += now - job.submitted
            end = None
            if not open_R[slot]:
                end = "stop" if tokens and tokens[-1] in self._stop_ids else "length"
                self._at[slot] = None
                self.counts.ended += 1
            yield job, Piece(tokens, logps, alternatives, end)

    def _end_all(self, end: str, *, waiting: bool = True) -> None:
        with self._changed:
            jobs = [job for job in self._at if job is not None]
            self._at = [None] * self.count
            if waiting:
                jobs += self._waiting
                self._waiting.clear()
        self._deliver([(job, Piece([], [], [], end)) for job in jobs])


def _groups(new: list[tuple[int, Job]]) -> Iterator[list[tuple[int, Job]]]:
    """Part jobs into those that are read together, and those that are better read alone.

    A group reads its longest prompt's chunks for every row; that pays when half of it is prompts.
    """
    chunks = lambda job: -(-len(job.prompt) // slots_lib.CHUNK)
    order = sorted(new, key=lambda row: len(row[1].prompt))
    for at in range(0, len(order), GROUP):
        group = order[at : at + GROUP]
        used, read = sum(chunks(job) for _, job in group), GROUP * chunks(group[-1][1])
        if len(group) > 1 and 2 * used >= read:
            yield group
        else:
            yield from ([row] for row in group)


def _start_of(rows: list[tuple[int, Job]]) -> slots_lib.Start:
    fields = (
        (slot, len(job.prompt), job.limit, job.seed, job.number, job.temperature, job.top_p,
         job.alternatives > 0, job.member)
        for slot, job in rows
    )  # fmt: skip
    kinds = (*[np.int32] * 5, np.float32, np.float32, np.bool_, np.int32)
    return slots_lib.Start(*map(np.array, zip(*fields, strict=True), kinds))


def _alternatives(best, slot: int, count: int, wanted: int) -> list[list[tuple[int, float]]]:
    if not wanted:
        return []
    ids, logps = (x[slot, :count, :wanted].tolist() for x in best)
    return [list(zip(*row, strict=True)) for row in zip(ids, logps, strict=True)]
