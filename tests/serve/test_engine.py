"""The queue's thread, over slots that count instead of a model."""

import threading
import time
from typing import NamedTuple

import numpy as np
import pytest

from ftjax.sampling import slots
from ftjax.serve import engine as engines
from ftjax.serve.engine import Closed, Engine, Full, Job

STOP, WAIT_S = 99, 20


class Row(NamedTuple):
    left: int
    next: int  # the token to come


class Counting:
    """Programs whose rows say seed, seed + 1, ... one token a turn; `gate` lets turns pass."""

    width = slots.CHUNK

    def __init__(self, count):
        self.count, self.gate, self.fails, self.rows = count, threading.Semaphore(0), False, []
        self.reading, self.fails_to_read = threading.Semaphore(1000), False  # lets reads pass
        self.groups, self.readers = [], []

    def empty(self):
        return [Row(0, 0)] * self.count

    def read(self, params, prompts, start):
        self.readers.append(threading.current_thread().name)
        assert self.reading.acquire(timeout=WAIT_S)
        if self.fails_to_read:
            self.fails_to_read = False
            raise RuntimeError("no memory for prompts")
        self.groups.append(start.length_G.tolist())
        return list(map(Row, start.limit_G.tolist(), start.seed_G.tolist()))

    def begin(self, state, rows, slots):
        state = list(state)
        for slot, row in zip(slots, rows, strict=True):
            if slot < self.count:
                state[slot] = row
        return state

    def advance(self, params, state, keep, steps, due):
        assert self.gate.acquire(timeout=WAIT_S)
        if self.fails:
            self.fails = False
            raise RuntimeError("out of memory")
        self.rows.append(len(keep))
        rest, state = state[len(keep) :], state[: len(keep)]
        is_open = np.array([row.left > 0 for row in state]) & keep
        tokens = np.array([[row.next] * slots.TURN for row in state])
        state = [
            Row(r.left - 1, r.next + 1) if o else Row(0, 0)
            for r, o in zip(state, is_open, strict=True)
        ]
        go_on = np.array([row.left > 0 for row in state]) & (tokens[:, 0] != STOP)
        best = np.zeros((len(keep), slots.TURN, 3))
        return state + rest, slots.Turn(
            tokens, tokens * -0.5, best.astype(int), best, is_open.astype(int), go_on
        )


class Running(NamedTuple):
    engine: Engine
    programs: Counting
    found: dict
    ended: threading.Semaphore
    pieces: threading.Semaphore  # released by every piece
    is_beside: bool


@pytest.fixture(params=[True, False], ids=["beside", "between"])
def running(request):
    """An engine of two slots, and what its jobs were given; how prompts are read: see `Engine`."""
    programs, found = Counting(2), {}
    ended, each = threading.Semaphore(0), threading.Semaphore(0)
    engine = Engine(
        programs, None, count=2, stop_ids=(STOP,), max_queue=3, max_queue_tokens=40,
        reads_beside=request.param,
    )  # fmt: skip

    def deliver(pieces):
        for job, piece in pieces:
            tokens, _ = found.get(job, ([], None))
            found[job] = tokens + piece.tokens, piece.end
            each.release()
            if piece.end:
                ended.release()

    engine.start(deliver)
    yield Running(engine, programs, found, ended, each, request.param)
    programs.gate.release(1000)
    engine.close()


def wait(running, jobs):
    for _ in range(jobs):
        assert running.ended.acquire(timeout=WAIT_S)


def until(is_so):
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_jobs_end_by_their_limit_or_a_stop_token(running):
    jobs = [Job([1], 3, seed=10), Job([1], 9, seed=97), Job([1], 2, seed=50)]
    running.engine.submit(jobs)
    running.programs.gate.release(20)
    wait(running, 3)
    assert [running.found[job] for job in jobs] == [
        ([10, 11, 12], "length"), ([97, 98, 99], "stop"), ([50, 51], "length")
    ]  # fmt: skip
    counts = running.engine.counts
    assert (counts.generated_tokens, counts.prompt_tokens, counts.ended) == (8, 3, 3)
    assert (counts.first_tokens, running.engine.busy, running.engine.waiting) == (3, 0, 0)


def test_a_cancelled_job_frees_its_slot_for_one_that_waits(running):
    long, other = Job([1], 10**9, seed=100), Job([1], 10**9, seed=100)
    third = Job([1], 1, seed=30)
    running.engine.submit([long, other, third])
    running.programs.gate.release(3)
    long.cancel()

    def has_ended():  # turns go on while the third prompt is read
        running.programs.gate.release(5)
        return all(running.found.get(job, ([], None))[1] for job in (long, third))

    until(has_ended)
    wait(running, 2)
    assert running.found[long][1] == "cancelled"
    assert running.found[third] == ([30], "length")
    other.cancel()
    running.programs.gate.release(200)
    wait(running, 1)
    assert running.engine.busy == running.engine.waiting == 0
    assert running.engine.counts.cancelled == 2


def test_a_turn_has_as_few_rows_as_there_are_jobs(running):
    running.engine.submit([Job([1], 2)])
    running.programs.gate.release(20)
    wait(running, 1)
    running.engine.submit([Job([1], 2), Job([1], 4)])
    wait(running, 2)
    assert running.programs.rows[:2] == [1, 1]
    assert set(running.programs.rows[2:]) == {2}


def test_a_job_is_cancelled_while_it_waits(running):
    jobs = [Job([1], 5), Job([1], 5), Job([1], 5)]
    jobs[2].cancel()
    running.engine.submit(jobs)
    running.programs.gate.release(20)
    wait(running, 3)
    assert running.found[jobs[2]] == ([], "cancelled")


def test_a_full_queue_takes_no_more(running):
    fill = [Job([1], 4) for _ in range(5)]
    running.engine.submit(fill)
    with pytest.raises(Full, match="4 answers would wait; at most 3 may"):
        running.engine.submit([Job([1], 4)])
    running.programs.gate.release(50)
    wait(running, 5)
    running.engine.submit([Job([1], 4)])  # there is room again
    wait(running, 1)


def test_tokens_that_wait_are_limited_and_those_in_slots_are_not(running):
    running.engine.submit([Job([1], 300), Job([1], 300), Job([1], 29)])
    with pytest.raises(Full, match="41 tokens would wait; at most 40 may"):
        running.engine.submit([Job([1], 10)])
    running.engine.submit([Job([1], 9)])


def test_an_error_of_the_device_ends_what_runs_and_nothing_else(running):
    jobs = [Job([1], 2) for _ in range(3)]
    running.programs.fails = True
    running.engine.submit(jobs)
    running.programs.gate.release(20)
    wait(running, 3)
    assert [running.found[job][1] for job in jobs] == ["error: out of memory"] * 2 + ["length"]
    assert running.engine.is_alive
    assert running.engine.counts.failed == 2


def test_an_error_while_prompts_are_read_ends_these_and_nothing_else(running):
    jobs = [Job([1], 2), Job([1], 2), Job([1], 2)]
    running.programs.fails_to_read = True
    running.engine.submit(jobs)
    running.programs.gate.release(20)
    wait(running, 3)
    ends = ["error: no memory for prompts"] * 2 + ["length"]
    assert [running.found[job][1] for job in jobs] == ends
    assert running.engine.is_alive
    assert (running.engine.counts.failed, running.engine.busy) == (2, 0)


def test_rows_go_on_while_prompts_are_read():
    programs, found = Counting(2), threading.Semaphore(0)
    engine = Engine(programs, None, count=2, stop_ids=(), max_queue=3, max_queue_tokens=40)
    pieces = []

    def deliver(more):
        pieces.extend(more)
        for _ in more:
            found.release()

    engine.start(deliver)
    first, second = Job([1], 30), Job([1], 1, seed=70)
    engine.submit([first])
    programs.gate.release(1)
    assert found.acquire(timeout=WAIT_S)
    programs.reading = threading.Semaphore(0)  # the second prompt takes as long as it likes
    engine.submit([second])
    programs.gate.release(5)
    for _ in range(5):
        assert found.acquire(timeout=WAIT_S)
    assert [job for job, _ in pieces] == [first] * 6
    second.cancel()
    programs.reading.release()
    programs.gate.release(100)
    engine.close()
    mine = [piece for job, piece in pieces if job is second]
    assert [(piece.tokens, piece.end) for piece in mine] == [([], "cancelled")]
    assert sum(len(piece.tokens) for job, piece in pieces if job is first) == 30


def test_the_thread_of_turns_reads_a_prompt_when_no_row_is_at_work(running):
    programs, first, second = running.programs, Job([1], 3), Job([1], 2, seed=70)
    running.engine.submit([first])
    programs.gate.release(1)
    assert running.pieces.acquire(timeout=WAIT_S)
    running.engine.submit([second])
    until(lambda: len(programs.readers) == 2 or not running.is_beside)
    programs.gate.release(20)
    wait(running, 2)
    running.engine.submit([Job([1], 1)])
    wait(running, 1)
    beside = "reader" if running.is_beside else "engine"
    assert programs.readers == ["engine", beside, "engine"]


def test_prompts_that_come_together_when_no_row_is_at_work_are_read_beside_each_other():
    programs = Counting(3)
    programs.reading = threading.Semaphore(0)
    engine = Engine(programs, None, count=3, stop_ids=(), max_queue=3, max_queue_tokens=40)
    ended = threading.Semaphore(0)
    engine.start(lambda pieces: [ended.release() for _, piece in pieces if piece.end])
    engine.submit([Job([1], 1) for _ in range(3)])
    until(lambda: len(programs.readers) == 2)
    assert sorted(programs.readers) == ["engine", "reader"]
    programs.reading.release(2)
    programs.gate.release(20)
    for _ in range(3):
        assert ended.acquire(timeout=WAIT_S)
    assert sorted(map(len, programs.groups)) == [1, 2]
    engine.close()


def test_a_slot_is_not_given_back_to_a_job_that_was_cancelled_while_it_was_read():
    programs = Counting(1)
    engine = Engine(programs, None, count=1, stop_ids=(), max_queue=3, max_queue_tokens=40)
    gone, other = Job([1], 3, seed=10), Job([1], 2, seed=50)
    read = lambda group: (group, programs.read(None, None, engines._start_of(group)))
    engine._deliver, engine._state = lambda pieces: None, programs.empty()
    programs.gate.release(5)
    engine._at, engine._ready = [other], [read([(0, gone)]), read([(0, other)])]
    engine._begin_ready()
    [(job, piece)] = engine._advance(steps=1)
    assert (job, piece.tokens) == (other, [50])


def test_closing_drains_first(running):
    jobs = [Job([1], 3) for _ in range(4)]
    running.engine.submit(jobs)
    closing = threading.Thread(target=running.engine.close)
    closing.start()
    running.programs.gate.release(50)
    closing.join(WAIT_S)
    assert [running.found[job][1] for job in jobs] == ["length"] * 4
    with pytest.raises(Closed):
        running.engine.submit([Job([1], 3)])


def test_closing_in_haste_cancels(running):
    job = Job([1], 1000)
    running.engine.submit([job])
    running.programs.gate.release(1000)
    running.engine.close(timeout_s=0)
    assert running.found[job][1] == "cancelled"
    assert not running.engine.is_alive


def test_a_turn_has_eight_steps_unless_they_are_slow_or_fast():
    engine = Engine(Counting(1), None, count=1, stop_ids=(), max_queue=1, max_queue_tokens=1)

    def steps(step_s):
        engine._step_s = step_s
        return engine._steps()

    assert [steps(s) for s in (1.0, 0.0201, 0.0125, 0.005, 0.002)] == [1, 2, 4, 8, 8]
    assert [steps(s) for s in (0.001, 0.0001)] == [10, 16]


def test_a_row_that_is_alone_has_long_turns_once_its_first_token_is_out():
    engine = Engine(Counting(3), None, count=3, stop_ids=(), max_queue=1, max_queue_tokens=1)

    def steps(*at, waiting=(), step_s=0.001):
        engine._at, engine._waiting, engine._step_s = list(at), waiting, step_s
        return engine._steps()

    old, new = Job([1], 9, has_begun=True), Job([1], 9)
    assert steps(None, old, None) == slots.TURN > 16
    assert steps(None, new, None) == steps(None, None, None) == 10
    assert steps(old, old, None) == steps(old, new, None) == 10
    assert steps(old, None, None, waiting=[new]) == 10
    # It is short all the same, since another may come.
    assert steps(old, None, None, step_s=0.005) == 10
    assert steps(old, None, None, step_s=1.0) == 1


def test_prompts_of_as_many_chunks_as_the_oldest_are_read_with_it():
    def sizes(*lengths, free=8):
        jobs = [Job([1] * length, 1) for length in lengths]
        group = engines._group(jobs, list(range(10, 10 + free)))
        assert group[0] == (10, jobs[0])
        assert [slot for slot, _ in group] == list(range(10, 10 + len(group)))
        return [len(job.prompt) for _, job in group]

    assert sizes(5) == [5]
    assert sizes(5, 65, 6) == [5, 65]  # the last token of a prompt is not read with it
    assert sizes(700, 5, 701, 6) == [700, 701]
    assert sizes(5, 66, 5) == [5, 5]
    assert sizes(*[5] * 7) == [5] * 4
    assert sizes(*[5] * 30, free=9) == [5] * 8
    assert sizes(5, 5, 5, free=1) == [5]
