"""The training loop of members: one program steps them all, each is recorded as a run of its own.

    results = run(step, state, frozen, batches, members, hyper=hyper, until=1000, ended=ended)

Every member has its own journal, evaluations and checkpoints, so its directory reads as that of a
run alone. One whose loss is not finite, or whose evaluation has not improved for long enough, ends;
the others go on. Metrics of all come in one transfer, one step late.
"""

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from ftjax.report.writers import Writer
from ftjax.train import flops
from ftjax.train import members as members_lib
from ftjax.train.ahead import Ahead, Calls
from ftjax.train.checkpoint import Checkpoints
from ftjax.train.early_stop import STOPPED, EarlyStop
from ftjax.train.halving import Halving, Seen
from ftjax.train.journal import PHASES, Journal
from ftjax.train.loop import Result
from ftjax.train.members import Members
from ftjax.train.stop import Stop
from ftjax.train.visits import Evaluations, Hook, Keeper

Tree = Any


class Member(NamedTuple):
    """One member: what it records, and how its part is taken out of the whole.

    own: of a state of all, its own, as it would be alone. frozen: its own, whole.
    early: None where it never stops by itself. seen: what `halving` looks at, None without it.
    ended: it has ended in an earlier process.
    """

    name: str
    own: Callable[[Members], Any]
    frozen: Tree
    every: Sequence[Hook] = ()
    writers: Sequence[Writer] = ()
    checkpoints: Checkpoints | None = None
    progress: dict | None = None
    early: EarlyStop | None = None
    seen: Seen | None = None
    ended: bool = False


Ended = Callable[[int, Result | FloatingPointError], None]


def run(
    step: Callable, state: Members, frozen: Tree, batches: Iterator, members: Sequence[Member], *,
    hyper: Tree, until: int, ended: Ended, log_every_steps: int = 10,
    save_every_steps: int | None = None, flops_per_token: flops.Cost | None = None,
    halving: Halving | None = None, started: float | None = None,
) -> dict[int, Result]:  # fmt: skip
    """Train from `state.step` until step `until`; return how those that did not end before ended.

    step: jitted, see `members.make_step`. batches: of all members; their `state()` is
      {"members": [the position of each]}.
    ended: called at once with the index of a member that ends before the others, and its result,
      or the error that names the batch.
    halving: ends the worse of them at some steps.
    """
    first = int(state.step)
    # One clock for all: the time is that of the program, and no member's alone.
    seconds = dict.fromkeys(PHASES, 0.0)
    clock = Journal(writers=(), log_every_steps=1, seconds=seconds)
    # Of one member, since each has its own row.
    count = lambda batch: batch["tokens"].size // len(members)
    ahead = Ahead(batches, until - first, clock, count)
    call = Calls(lambda state, batch: step(state, hyper, frozen, batch), step, clock)
    options = dict(
        log_every_steps=log_every_steps, flops_per_token=flops_per_token, started=started
    )
    make = functools.partial(_Books, until=until, ahead=ahead, save=save_every_steps)
    journal = lambda one: Journal(
        writers=one.writers if jax.process_index() == 0 else (), progress=one.progress,
        seconds=seconds, **options,
    )  # fmt: skip
    books = [make(i, one, journal(one)) for i, one in enumerate(members) if not one.ended]
    # All catch up at one step: each by itself would stall the devices for every member.
    steps = [hook.steps for one in members for hook in one.every] + [save_every_steps or until]
    is_due = lambda number: any(number % each == 0 for each in steps)
    group = _Group(books, ended, is_due, halving=halving, of=len(members))
    state, number, stopped = _train(state, first, call, ahead, group)
    if stopped is None and number < until and group.books:
        stopped = "data ended"
    return {own.index: own.result(number, own.of(state), stopped or "done") for own in group.books}


def _train(
    state: Members, first: int, call: Calls, ahead: Ahead, group: "_Group"
) -> tuple[Members, int, str | None]:
    """Go from batch to batch as `loop` does; returns the state, its step, why it was stopped."""
    number, stopped = first, None
    state = group.each(state, lambda own, mine: own.begin(first, mine), number=first)
    # A process that ended between a save and what followed from the evaluation before it.
    state = group.halve(first, state)
    with Stop() as stop:
        ahead.fetch()
        for number, batch in enumerate(ahead, first + 1):
            state, metrics = call(number, state, batch)
            group.push(number, metrics, batch, tokens=ahead.tokens)
            ahead.fetch()
            if stop.reached(number):
                stopped = stop.reason
                break
            if ahead.is_over or not group.books:
                break
            state = group.visit(number, state)
    if number > first:
        # One whose last loss was no number must not be evaluated and saved.
        group.catch_up()
        finish = _Books.last if stopped is None else _Books.put_off
        state = group.each(state, lambda own, mine: finish(own, number, mine))
    if stopped is not None:
        sys.stderr.write(
            f"{stopped}: stopped after step {number}; saved {len(group.books)} members\n"
        )
    return state, number, stopped


class _Books:
    """The journal, the evaluations and the checkpoints of one member."""

    def __init__(
        self, index: int, member: Member, journal: Journal, *, until: int, ahead: Ahead,
        save: int | None,
    ):  # fmt: skip
        self.index, self.of = index, member.own
        self._journal, self._early, self.seen = journal, member.early, member.seen
        self._evaluations = Evaluations(member.every, until, member.frozen, journal)
        self._keeper = Keeper(
            member.checkpoints, _Place(ahead, index), save, journal, more=self._more
        )
        self.reason = ""  # why it stops by itself

    def begin(self, number: int, state: Any) -> None:
        """Evaluate before the first step, or what a stopped run had no time for."""
        self._evaluations.begin(number, state)
        self._see(self._journal.row)

    def push(self, number: int, metrics: Mapping, batch: Tree, *, tokens: int) -> None:
        """Take its metrics of a step, on the host."""
        blame = self._keeper.blame(batch, of=lambda all_: members_lib.take(all_, self.index))
        self._journal.push(number, metrics, tokens=tokens, blame=blame)

    def visit(self, number: int, state: Any) -> None:
        """Evaluate and save where it is time; one that is to stop is saved at once."""
        row = self._evaluations.visit(number, state)
        self._see(row)
        self._keeper.visit(number, state, row)
        if self.reason:
            self._keeper.must_save(number, state, row)

    def leave(self, number: int, state: Any) -> None:
        """Save where it ends after all, having been visited."""
        if self.reason:
            self._keeper.must_save(number, state, self._journal.row)

    def last(self, number: int, state: Any) -> None:
        """Evaluate and save after the last step."""
        self._keeper.must_save(number, state, self._evaluations.last(number, state))

    def put_off(self, number: int, state: Any) -> None:
        """Save where the run was asked to stop."""
        self._keeper.must_save(number, state, *self._evaluations.put_off(number))

    def result(self, number: int, state: Any, stopped: str) -> Result:
        """Return how it ended."""
        own = self._journal
        return Result(
            state, number, stopped, own.row, own.tokens, own.spent(), padding=own.padding,
            vanished=own.gradient.warn(number), rows=own.rows,
        )  # fmt: skip

    def _see(self, row: Mapping) -> None:
        if self.seen is not None:
            self.seen.see(row)
        if self._early is not None:
            self._early.see(row)
            self.reason = self._early.reason

    def _more(self) -> dict:
        watched = {"early": self._early, "seen": self.seen}
        return {name: own.dump() for name, own in watched.items() if own is not None}


class _Place:
    """Where one member is in its data."""

    def __init__(self, ahead: Ahead, index: int):
        self._ahead, self._index = ahead, index

    def check_positioned(self) -> None:
        """Refuse batches that do not know where they are."""
        self._ahead.check_positioned()

    @property
    def position(self) -> dict:
        """The position of its own batches."""
        return self._ahead.position["members"][self._index]


class _Group:
    """The books of the members that still train."""

    def __init__(
        self, books: Sequence[_Books], ended: Ended, is_due: Callable[[int], bool], *,
        halving: Halving | None, of: int,
    ):  # fmt: skip
        self.books, self._ended, self._is_due = list(books), ended, is_due
        self._halving, self._of = halving, of
        self._pending: tuple | None = None

    def push(self, number: int, metrics: Tree, batch: Tree, *, tokens: int) -> None:
        """Take the metrics [M] of a step just sent to the devices; deal out those before."""
        # One step late, as in a journal: the devices have work while the host waits.
        before, self._pending = self._pending, (number, metrics, batch, tokens)
        self._deal(before)

    def catch_up(self) -> None:
        """Wait for the newest step, and deal its metrics out."""
        before, self._pending = self._pending, None
        self._deal(before)

    def visit(self, number: int, state: Members) -> Members:
        """Evaluate and save where it is time; ends members that are to stop."""
        if not self._is_due(number):
            return state
        self.catch_up()
        state = self.each(state, lambda own, mine: own.visit(number, mine), number=number)
        return self.halve(number, state)

    def halve(self, number: int, state: Members) -> Members:
        """End the worse members where it is time, which all of them have been evaluated for."""
        if self._halving is None:
            return state
        values = {own.index: own.seen.value for own in self.books}
        worse = self._halving.worse(values, step=number, of=self._of)
        for own in self.books:
            if own.index in worse:
                own.reason = self._halving.reason(number, own.seen.value)
        return self.each(state, lambda own, mine: own.leave(number, mine), number=number)

    def each(self, state: Members, act: Callable, *, number: int = 0) -> Members:
        """Call `act(books, own state)` of each; returns the state less those that have ended."""
        for own in list(self.books):
            # Taken first: what it does may end it, and with that change the state of all.
            mine = own.of(state)
            try:
                act(own, mine)
            except FloatingPointError as error:
                # One that diverges ends alone: the program goes on for the others.
                self._end(own, error)
                continue
            # Before the first step nothing has been learned that could be exported.
            if number and own.reason:
                state = members_lib.end(state, own.index)
                self._end(own, own.result(number, mine, f"{STOPPED}: {own.reason}"))
        return state

    def _deal(self, pending: tuple | None) -> None:
        if pending is None:
            return
        number, metrics, batch, tokens = pending
        host = jax.device_get(metrics)  # all of them in one transfer
        for own in list(self.books):
            try:
                own.push(number, members_lib.take(host, own.index), batch, tokens=tokens)
            except FloatingPointError as error:
                self._end(own, error)

    def _end(self, own: _Books, how: Result | FloatingPointError) -> None:
        self.books.remove(own)
        self._ended(own.index, how)
