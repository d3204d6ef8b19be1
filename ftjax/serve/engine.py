"""The queue behind an endpoint: threads that keep the slots of one set of weights at work.

    engine = Engine(programs, params, stop_ids=(2,), max_queue=256, max_queue_tokens=1 << 18)
    engine.warm_up()
    engine.start(deliver)                  deliver([(job, piece), ...]) after every turn
    engine.submit([Job(prompt, ...)])      from any thread; raises Full
    job.cancel()                           its slot is free after the turn
    engine.close()                         ends what has begun, then the threads

One thread gives free slots to the oldest jobs and reads their prompts; the other lets begin what
was read, takes turns of the device, and hands out what was generated. So rows at work do not stand
still while prompts are read, and cores that the small steps of a turn leave free are used. A prompt
that finds no row at work is read by the thread that takes turns, which has nothing else to do: to
hand it over takes time. Texts are none of its business: jobs are tokens in, tokens out, so that
their decoding can run beside.
"""

import collections
import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from ftjax.core import shapes
from ftjax.sampling import slots as slots_lib
from ftjax.serve.workers import Workers

GROUPS = (8, 4, 2, 1)  # prompts that are read in one call; each has a program
GROWTH = 4  # between the numbers of rows that have a program
TURN_S = 0.05  # a turn, and so the wait of a request for a free slot: too short to be felt
STEPS = 8  # of a turn, since rows that have ended stand still until it is over
SHORT_S = 0.01  # a turn may have more steps than these where it is no longer than this
SHORT_STEPS = 16  # and up to so many


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
    """What the engine has done so far."""

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
        reads_beside: bool = True,
    ):  # fmt: skip
        """Set it up.

        context: under which the device works, such as a mesh's. reads_beside: read prompts while
        rows go on. Programs over several devices must not run so: what they exchange would wait for
        each other.
        """
        self.count, self.counts = count, Counts()
        self._programs, self._params, self._stop_ids = programs, params, frozenset(stop_ids)
        self._max_queue, self._max_queue_tokens = max_queue, max_queue_tokens
        self._context, self._reads_beside = context, reads_beside
        self._workers = Workers(self._is_over, self._end_all)
        self._lock, self._tell = self._workers.lock, self._workers.tell
        self._workers.add("engine", self._read_and_turn, self._has_turn)
        if reads_beside:
            self._workers.add("reader", self._read, self._has_prompts)
        self._waiting: collections.deque[Job] = collections.deque()
        self._at: list[Job | None] = [None] * count  # a slot's job, from when it is read
        self._ready: list[tuple[list[tuple[int, Job]], slots_lib.State]] = []  # read, not begun
        self._is_open = np.zeros(count, bool)  # slots whose jobs have begun
        self._closing = False
        # A turn costs what its rows cost: as many as are at work, rounded up to one of these.
        self._sizes = sorted({min(GROWTH**i, count) for i in range(count.bit_length())})
        self._step_s = TURN_S  # of a token of every row, as measured

    # -- for any thread ----------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Compile every program, over rows that end with their first token; before `start`."""
        with self._context():
            self._state = self._programs.empty()
            for size in (size for size in GROUPS if size <= self.count):
                rows = self._rows_of([(slot, Job([0, 0], 1)) for slot in range(size)])
                slots = np.arange(size, dtype=np.int32)
                self._state = self._programs.begin(self._state, rows, slots)
            for rows in self._sizes:
                # No row goes on, so that any state will do.
                self._state, turn = self._programs.advance(
                    self._params, self._state, np.zeros(rows, bool), np.int32(1), np.int32(1)
                )
            jax.block_until_ready(turn)

    def start(self, deliver: Callable[[list[tuple[Job, Piece]]], None]) -> None:
        """Start the threads, which call `deliver` after every turn."""
        self._deliver = deliver
        with self._context():
            self._state = self._programs.empty()
        self._workers.start(self._context)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Put jobs at the end of the queue, all or none.

        Raises:
          Full: they would wait, and the queue has no room. Closed: it takes no more.
        """
        with self._lock:
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
            self._tell()

    def close(self, *, timeout_s: float | None = None) -> None:
        """End the threads once all jobs have ended; after `timeout_s` they are cancelled."""
        with self._lock:
            self._closing = True
            self._tell()
        self._workers.join(timeout_s)
        with self._lock:
            for job in (*self._waiting, *filter(None, self._at)):
                job.cancel()
        self._workers.join()

    @property
    def busy(self) -> int:
        """Count the slots that jobs have."""
        return sum(job is not None for job in self._at)

    @property
    def waiting(self) -> int:
        """Count the jobs that no slot has taken yet."""
        return len(self._waiting)

    @property
    def is_alive(self) -> bool:
        """Whether the threads run."""
        return self._workers.is_alive

    # -- for its own -------------------------------------------------------------------------------

    def _is_over(self):
        return self._closing and not (self._waiting or self.busy)

    def _has_turn(self):
        return self._ready or self._is_open.any() or (self._waiting and not self.busy)

    def _has_prompts(self):
        return self._has_room() and self.busy

    def _has_room(self):
        return self._waiting and self.busy < self.count

    def _read_and_turn(self) -> None:
        # Rows at work do not wait for prompts, where these can be read beside them.
        while self._has_room() and not (self.busy and self._reads_beside):
            self._read()
        self._turn()

    def _read(self) -> None:
        """Give slots to jobs and read their prompts."""
        with self._lock:
            if not self._has_room():  # jobs that waited were cancelled meanwhile
                return
            free = [slot for slot, job in enumerate(self._at) if job is None]
            group = _group(self._waiting, free)
            begun = {id(job) for _, job in group}
            self._waiting = collections.deque(j for j in self._waiting if id(j) not in begun)
            for slot, job in group:
                self._at[slot] = job
            self._tell()
        self.counts.prompt_tokens += sum(len(job.prompt) for _, job in group)
        try:
            rows = jax.block_until_ready(self._rows_of(group))
        except RuntimeError as error:  # of the device, such as no memory
            self._fail(group, error)
            return
        with self._lock:
            self._ready.append((group, rows))
            self._tell()

    def _rows_of(self, group: list[tuple[int, Job]]) -> slots_lib.State:
        prompts = shapes.pad_rows([job.prompt for _, job in group], self._programs.width, fill=0)
        return self._programs.read(self._params, prompts, _start_of(group))

    def _turn(self) -> None:
        gone = self._drop()
        if gone:
            self._deliver([(job, Piece([], [], [], "cancelled")) for job in gone])
        try:
            self._begin_ready()
            found = self._advance(steps=self._steps())
        except RuntimeError as error:
            self._fail([row for row in enumerate(self._at) if self._is_open[row[0]]], error)
            self._is_open[:] = False
            self._state = self._programs.empty()
            return
        self._deliver(found)

    def _drop(self) -> list[Job]:
        """Take slots and places in the queue from jobs that are cancelled."""
        with self._lock:
            gone = [job for job in (*self._waiting, *self._at) if job and job.is_cancelled]
            if not gone:
                return []
            self._waiting = collections.deque(j for j in self._waiting if not j.is_cancelled)
            for slot, job in enumerate(self._at):
                if job and job.is_cancelled:
                    self._at[slot], self._is_open[slot] = None, False
            self.counts.cancelled += len(gone)
            self._tell()
        return gone

    def _begin_ready(self) -> None:
        """Let begin what was read."""
        with self._lock:
            ready, self._ready = self._ready, []
            for group, _ in ready:
                for slot, job in group:
                    self._is_open[slot] |= self._at[slot] is job
        for group, rows in ready:
            # One that was cancelled meanwhile has no slot any more.
            slots = [slot if self._at[slot] is job else self.count for slot, job in group]
            self._state = self._programs.begin(self._state, rows, np.array(slots, np.int32))

    def _steps(self) -> int:
        most = min(max(STEPS, SHORT_S / self._step_s), SHORT_STEPS)
        alone = self.busy == 1 and not self._waiting
        # What a client that is alone waits for is its first token, and then the whole answer.
        if alone and all(job.has_begun for job in self._at if job):
            most = slots_lib.TURN
        return int(np.clip(min(most, TURN_S / self._step_s), 1, slots_lib.TURN))

    def _advance(self, *, steps: int) -> list[tuple[Job, Piece]]:
        begin = time.perf_counter()
        if not self._is_open.any():
            return []
        jobs = [job if own else None for job, own in zip(self._at, self._is_open, strict=True)]
        last = int(np.flatnonzero(self._is_open)[-1])
        rows = next(size for size in self._sizes if size > last)
        keep = self._is_open[:rows].copy()
        # Jobs that wait begin in groups, so that prompts are read together.
        least = int(np.clip(len(self._waiting), 1, max(1, self.count // 8)))
        due = least + int((~keep).sum()) if self._waiting else self.count + 1
        self._state, turn = self._programs.advance(
            self._params, self._state, keep, np.int32(steps), np.int32(due)
        )
        wants = any(job and job.alternatives for job in jobs)
        best = jax.device_get((turn.ids_RNK, turn.best_RNK)) if wants else None
        # One by one: to ask for several at a time costs what a fifth of a small step does.
        own = [np.asarray(x) for x in (turn.tokens_RN, turn.logps_RN, turn.count_R, turn.open_R)]
        now = time.perf_counter()
        done = max(1, int(own[2].max()))
        # A mean of what was and what is, since other processes make turns uneven.
        self._step_s = (self._step_s + (now - begin) / done) / 2
        self.counts.turns += 1
        with self._lock:
            found = list(self._pieces(jobs, own, best, now))
            self._tell()  # slots may be free
        return found

    def _pieces(self, jobs, own, best, now: float) -> Iterator[tuple[Job, Piece]]:
        tokens_RN, logps_RN, count_R, open_R = own
        for slot, job in enumerate(jobs):
            if job is None or self._at[slot] is not job:  # the second: all was ended meanwhile
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
                self._at[slot], self._is_open[slot] = None, False
                self.counts.ended += 1
            yield job, Piece(tokens, logps, alternatives, end)

    def _fail(self, rows: list[tuple[int, Job]], error: RuntimeError) -> None:
        """End jobs by an error of the device."""
        with self._lock:
            rows = [(slot, job) for slot, job in rows if self._at[slot] is job]
            for slot, _ in rows:
                self._at[slot] = None
            self.counts.failed += len(rows)
            self._tell()
        self._deliver([(job, Piece([], [], [], f"error: {error}")) for _, job in rows])

    def _end_all(self) -> None:
        with self._lock:
            jobs = [job for job in (*self._at, *self._waiting) if job is not None]
            self._at = [None] * self.count
            self._is_open[:] = False
            self._waiting.clear()
            self._ready.clear()
            self._tell()
        self._deliver([(job, Piece([], [], [], "error: the engine has ended")) for job in jobs])


def _group(waiting: Sequence[Job], free: list[int]) -> list[tuple[int, Job]]:
    """Choose slots, and jobs that are read together: the oldest, and others of as many chunks."""
    chunks = lambda job: max(1, -(-(len(job.prompt) - 1) // slots_lib.CHUNK))
    room = itertools.islice(waiting, len(free))
    alike = [job for job in room if chunks(job) == chunks(waiting[0])]
    size = next(size for size in GROUPS if size <= len(alike))
    return list(zip(free, alike[:size], strict=False))


def _start_of(rows: list[tuple[int, Job]]) -> slots_lib.Start:
    fields = (
        (len(job.prompt), job.limit, job.seed, job.number, job.temperature, job.top_p,
         job.alternatives > 0, job.member)
        for _, job in rows
    )  # fmt: skip
    kinds = (*[np.int32] * 4, np.float32, np.float32, np.bool_, np.int32)
    return slots_lib.Start(*map(np.array, zip(*fields, strict=True), kinds))


def _alternatives(best, slot: int, count: int, wanted: int) -> list[list[tuple[int, float]]]:
    if not wanted:
        return []
    ids, logps = (x[slot, :count, :wanted].tolist() for x in best)
    return [list(zip(*row, strict=True)) for row in zip(ids, logps, strict=True)]
