"""Threads that work when they are due."""

import contextlib
import threading

import pytest

from ftjax.serve.workers import Workers

WAIT_S = 20


class Tasks:
    """Numbers for two threads, of which one takes the even ones and the other the odd ones."""

    def __init__(self):
        self.left, self.done, self.asked, self.is_closed = [], [], [0, 0], False
        self.ended = threading.Semaphore(0)
        self.workers = Workers(self.is_over, self.ended.release)
        for parity, name in enumerate(("even", "odd")):
            do = lambda parity=parity: self.do(parity)
            self.workers.add(name, do, lambda parity=parity: self.is_due(parity))

    def is_over(self):
        return self.is_closed and not self.left

    def is_due(self, parity):
        if threading.current_thread().name == ("even", "odd")[parity]:  # not who tells
            self.asked[parity] += 1
        return any(number % 2 == parity for number in self.left)

    def do(self, parity):
        with self.workers.lock:
            own = next(number for number in self.left if number % 2 == parity)
            self.left.remove(own)
            self.done.append((threading.current_thread().name, own))
            self.workers.tell()

    def put(self, *numbers, is_closed=False):
        with self.workers.lock:
            self.left += numbers
            self.is_closed = is_closed
            self.workers.tell()


def test_every_thread_does_what_is_its_own_until_all_is_over():
    tasks = Tasks()
    assert not tasks.workers.is_alive
    tasks.workers.start(contextlib.nullcontext)
    tasks.put(3, 4, 5)
    tasks.put(6, is_closed=True)
    tasks.workers.join(WAIT_S)
    assert not tasks.workers.is_alive
    assert sorted(tasks.done) == [("even", 4), ("even", 6), ("odd", 3), ("odd", 5)]
    assert [tasks.ended.acquire(timeout=WAIT_S) for _ in range(2)] == [True, True]


def test_a_thread_that_is_not_due_sleeps_on():
    tasks = Tasks()
    tasks.workers.start(contextlib.nullcontext)
    tasks.put(0)
    for number in range(2, 60, 2):
        tasks.put(number)
    tasks.put(is_closed=True)
    tasks.workers.join(WAIT_S)
    assert len(tasks.done) == 30
    assert tasks.asked[1] <= 2  # when it began, and at the end


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_end_of_a_thread_is_told_whatever_ended_it():
    tasks = Tasks()
    tasks.workers.add("broken", lambda: 1 / 0, lambda: True)
    tasks.workers.start(contextlib.nullcontext)
    assert tasks.ended.acquire(timeout=WAIT_S)
    tasks.workers.join(0.01)
    assert not tasks.workers.is_alive
    tasks.put(is_closed=True)
    tasks.workers.join(WAIT_S)


def test_work_is_done_under_the_context():
    inside = []

    @contextlib.contextmanager
    def context():
        inside.append(threading.current_thread().name)
        yield
        inside.remove(threading.current_thread().name)

    tasks = Tasks()
    do = tasks.do
    tasks.do = lambda parity: inside.append(list(inside)) or do(parity)
    tasks.workers.start(context)
    tasks.put(1)
    tasks.put(is_closed=True)
    tasks.workers.join(WAIT_S)
    [seen] = [each for each in inside if isinstance(each, list)]
    assert "odd" in seen
    assert inside == [seen]
