import contextlib
import os
import signal
import threading
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.core.mean import Mean
from ftjax.report import writers
from ftjax.train import loop
from ftjax.train.checkpoint import CheckpointError, Checkpoints


class State(NamedTuple):
    step: jax.Array
    params: dict
    opt_state: tuple
    ema: dict | None
    key: jax.Array


def fresh():
    return State(jnp.int32(0), {"w": jnp.zeros(4)}, (), None, jax.random.key(0))


def toy_step(state, hyper, frozen, batch):
    """A noisy regression: the loss is a mean over tokens, the rate a plain scalar."""
    key, noise = jax.random.split(state.key)
    target = batch["tokens"].astype(jnp.float32).mean(0) + frozen
    gap = state.params["w"] - target
    w = state.params["w"] - 0.1 * gap + 0.01 * jax.random.normal(noise, (4,))
    state = State(state.step + 1, {"w": w}, (), None, key)
    return state, {"loss": Mean.of(gap**2, batch["weights"].sum(0)), "learning_rate": 0.1 * w[0]}


def make_step():
    # jax shares programs between jits of one function: a new one counts its own.
    return jax.jit(lambda *arguments: toy_step(*arguments), donate_argnums=0)


@pytest.fixture(scope="module")
def step():
    return make_step()


class Batches:
    """Batches by position; `bad` poisons one, `wide` changes the shape of one, `at` runs calls."""

    def __init__(self, *, count=1000, bad=None, wide=None, at=None):
        self.next_batch, self.count, self.bad, self.wide, self.at = 0, count, bad, wide, at or {}

    def __iter__(self):
        return self

    def __next__(self):
        if self.next_batch >= self.count:
            raise StopIteration
        self.next_batch += 1
        self.at.get(self.next_batch, lambda: None)()
        rng = np.random.default_rng(self.next_batch)
        rows = 3 if self.next_batch == self.wide else 2
        weights = rng.random((rows, 4), dtype=np.float32)
        weights[:] = np.nan if self.next_batch == self.bad else weights
        return {"tokens": rng.integers(0, 9, (rows, 4), dtype=np.int32), "weights": weights}

    def state(self):
        return {"next_batch": self.next_batch, "plan": {"seed": 0}}

    def restore(self, position):
        self.next_batch = position["next_batch"]


class Rows:
    """A writer that remembers."""

    def __init__(self):
        self.rows, self.rewound = [], []

    def write(self, step, row):
        self.rows.append((step, row))

    def rewind(self, step):
        self.rewound.append(step)

    def close(self):
        pass


FROZEN = jnp.float32(1.0)


def train(step, folder, *, until=12, batches=None, save=4, log=3, more=(), **kw):
    """One start of a run as a main does it: open, resume, run, close."""
    batches = batches or Batches()
    evaluate = lambda now: {"eval/w": float(now.state.params["w"].sum())}
    with (
        contextlib.closing(writers.Jsonl(folder / "metrics.jsonl")) as writer,
        Checkpoints(folder / "checkpoints", keep=3, best="eval/w") as checkpoints,
    ):
        state, progress = loop.resume(checkpoints, fresh(), batches, writers=[writer])
        options = dict(writers=[writer], checkpoints=checkpoints, progress=progress, **kw)
        every = [loop.Hook(5, evaluate, at_start=True), *more]
        return loop.run(
            step, state, FROZEN, batches, until=until, log_every_steps=log, every=every,
            save_every_steps=save, **options,
        )  # fmt: skip


def rows_of(folder):
    """Rows less everything that depends on the clock."""
    drop = lambda row: {k: v for k, v in row.items() if not k.startswith(writers.CLOCK)}
    return [drop(row) for row in writers.read(folder / "metrics.jsonl")]


@pytest.fixture(scope="module")
def whole(step, tmp_path_factory):
    """A run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(step, folder)


def test_a_hook_is_called_before_the_first_step_where_it_says_so(step, tmp_path):
    seen = []
    hook = loop.Hook(2, lambda now: seen.append(now.step) or {})
    train(step, tmp_path / "later", until=4, more=[hook])
    train(step, tmp_path / "first", until=4, more=[hook._replace(at_start=True)])
    assert seen == [2, 4, 0, 2, 4]


def test_rows_hold_exact_window_means_tokens_and_evaluations(whole, step):
    folder, result = whole
    rows = rows_of(folder)
    assert [row["step"] for row in rows] == [0, 3, 5, 6, 9, 10, 12]
    assert [row["step"] for row in rows if "eval/w" in row] == [0, 5, 10, 12]
    assert [row["tokens"] for row in rows if "tokens" in row] == [24, 48, 72, 96]
    state, sums, rates = fresh(), [], []
    for _, batch in zip(range(6), Batches(), strict=False):
        state, out = step(state, None, FROZEN, batch)
        sums.append((float(out["loss"].total), float(out["loss"].weight)))
        rates.append(float(out["learning_rate"]))
    totals, weights = zip(*sums[:3], strict=True)
    later = [sum(each) for each in zip(*sums[3:6], strict=True)]
    assert rows[1]["loss"] == pytest.approx(sum(totals) / sum(weights), rel=1e-12)
    assert rows[3]["loss"] == pytest.approx(later[0] / later[1], rel=1e-12)  # of its own window
    assert rows[1]["learning_rate"] == pytest.approx(rates[2], rel=1e-6)
    assert result.stopped == "done"
    assert (result.step, result.tokens) == (12, 96)
    assert result.row["loss"] == rows[-1]["loss"]


def test_times_are_measured_by_phase(whole):
    folder, result = whole
    rows = [row for row in writers.read(folder / "metrics.jsonl") if "loss" in row]
    clocks = [{name for name in row if name.startswith(writers.CLOCK)} for row in rows]
    expected = (
        "step_s", "data_s", "compile_s", "eval_s", "checkpoint_s", "tokens_per_s", "memory_gib"
    )  # fmt: skip
    every = {writers.CLOCK + name for name in expected}
    assert clocks[0] == every | {writers.CLOCK + "startup_s"}
    assert clocks[-1] == every
    assert rows[0]["time/compile_s"] > 0
    assert rows[-1]["time/compile_s"] == 0
    assert all(result.seconds[name] > 0 for name in ("steps", "checkpoint", "eval", "compile"))


def stopping(cut):
    """Batches that bring SIGTERM while step `cut` runs."""
    terminate = lambda: signal.raise_signal(signal.SIGTERM)
    return Batches(at={cut + 1: terminate})


@pytest.mark.parametrize("cut", [2, 4, 7, 10, 11])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(whole, step, tmp_path, cut):
    folder, result = whole
    stopped = train(step, tmp_path, batches=stopping(cut))
    assert (stopped.stopped, stopped.step) == ("SIGTERM", cut)
    again = train(step, tmp_path)
    assert again.stopped == "done"
    assert rows_of(tmp_path) == rows_of(folder)
    for a, b in zip(jax.tree.leaves(again.state), jax.tree.leaves(result.state), strict=True):
        assert jnp.array_equal(a, b)
    train(step, tmp_path)  # a finished run stays as it is
    assert rows_of(tmp_path) == rows_of(folder)


def test_a_stop_in_the_last_step_still_gets_its_evaluation_and_report(whole, tmp_path):
    def last(state, hyper, frozen, batch):
        if int(state.step) == 11:
            signal.raise_signal(signal.SIGTERM)
        return plain(state, hyper, frozen, batch)

    plain = make_step()
    assert train(last, tmp_path).stopped == "SIGTERM"
    assert train(plain, tmp_path).stopped == "done"
    assert rows_of(tmp_path) == rows_of(whole[0])


def test_a_crash_replays_from_the_checkpoint_and_drops_its_rows(whole, step, tmp_path):
    def crash():
        raise OSError("the data went away")

    with pytest.raises(OSError, match="went away"):
        train(step, tmp_path, batches=Batches(at={8: crash}))
    assert rows_of(tmp_path)[-1]["step"] == 6
    train(step, tmp_path)
    assert rows_of(tmp_path) == rows_of(whole[0])


def test_a_crash_after_an_evaluation_that_was_put_off_writes_its_row_once(whole, step, tmp_path):
    def crash():
        raise OSError("the data went away")

    assert train(step, tmp_path, batches=stopping(5)).step == 5  # its evaluation is still to come
    with pytest.raises(OSError, match="went away"):
        train(step, tmp_path, batches=Batches(at={8: crash}))
    assert [row["step"] for row in rows_of(tmp_path)][-1] == 6  # and so it was written, unsaved
    train(step, tmp_path)
    assert rows_of(tmp_path) == rows_of(whole[0])


def test_control_c_saves_and_a_second_one_interrupts(step, tmp_path):
    before = signal.getsignal(signal.SIGINT)  # a shell's background job ignores it
    press = lambda: signal.raise_signal(signal.SIGINT)
    result = train(step, tmp_path / "one", batches=Batches(at={4: press}))
    assert (result.stopped, result.step) == ("SIGINT", 3)
    assert (tmp_path / "one/checkpoints/3").is_dir()
    with pytest.raises(KeyboardInterrupt):
        train(step, tmp_path / "two", batches=Batches(at={4: lambda: (press(), press())}))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_loss_that_is_not_finite_names_step_batch_and_last_good_checkpoint(step, tmp_path):
    with pytest.raises(FloatingPointError) as error:
        train(step, tmp_path, batches=Batches(bad=7))
    text = str(error.value)
    assert "step 7: got a loss of nan" in text
    assert 'data position {"next_batch": 6}' in text
    assert "tokens [2, 4] with sha256" in text
    assert f"last good checkpoint: {tmp_path}/checkpoints/5" in text


def test_no_checkpoint_of_a_loss_that_is_not_finite(step, tmp_path):
    with pytest.raises(FloatingPointError, match="step 8"):
        train(step, tmp_path, batches=Batches(bad=8))
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["4", "5"]


def test_metrics_are_read_one_step_late():
    """When step k is called, step k-1 is still unread, and step k-2 has been read."""
    log = []

    class Loss:
        def __init__(self, number):
            self.number = number

        def __array__(self, dtype=None, copy=None):
            log.append(f"read {self.number}")
            return np.float32(1.0)

    def step(state, hyper, frozen, batch):
        log.append(f"step {int(state.step) + 1}")
        return state._replace(step=state.step + 1), {"loss": Loss(int(state.step) + 1)}

    # device_get leaves what is no array alone, so __array__ tells when the value is looked at.
    loop.run(step, fresh(), None, Batches(), until=3, count_tokens=lambda batch: 1)
    first = lambda text: log.index(text)
    assert first("step 2") < first("read 1") < first("step 3") < first("read 2") < first("read 3")


def test_another_shape_is_reported_as_a_second_compilation():
    with pytest.warns(RuntimeWarning, match=r"step 3 compiled .* again .*'int32\[3, 4\]'"):
        loop.run(make_step(), fresh(), FROZEN, Batches(wide=3), until=4)


def test_the_step_compiles_once(whole):
    step = make_step()
    loop.run(step, fresh(), FROZEN, Batches(), until=4)
    assert step._cache_size() == 1


def test_data_that_ends_ends_the_run_well(step, tmp_path):
    result = train(step, tmp_path, batches=Batches(count=5))
    assert (result.stopped, result.step) == ("data ended", 5)
    assert (tmp_path / "checkpoints/5").is_dir()
    assert rows_of(tmp_path)[-1].keys() == {"step", "loss", "learning_rate", "tokens", "eval/w"}


def test_checkpoints_need_batches_that_can_be_resumed(step, tmp_path):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="without state"):
        loop.run(step, fresh(), FROZEN, iter([]), until=1, checkpoints=checkpoints)


class Failing(Checkpoints):
    """Fails at the steps in `broken`."""

    broken = ()

    def save(self, step, state, **kw):
        if step in self.broken:
            raise CheckpointError(f"{self.directory}/{step}: no space")
        super().save(step, state, **kw)


def test_a_failed_save_is_a_warning_on_the_way_and_an_error_at_the_end(step, tmp_path):
    def go(until):
        with Failing(tmp_path) as checkpoints:
            checkpoints.broken = (2, 6)
            kw = {"checkpoints": checkpoints, "save_every_steps": 2, "until": until}
            return loop.run(step, fresh(), FROZEN, Batches(), **kw)

    with pytest.warns(RuntimeWarning, match="2: no space; training goes on"):
        assert go(5).stopped == "done"
    with (
        pytest.warns(RuntimeWarning, match="training goes on"),
        pytest.raises(CheckpointError, match="6: no space"),
    ):
        go(6)


def test_runs_in_a_thread_without_signal_handlers(step):
    results = []
    work = lambda: results.append(loop.run(step, fresh(), FROZEN, Batches(), until=2))
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results[0].stopped == "done"
