"""Speed and MFU in the rows of a journal."""

import time

import jax
import jax.numpy as jnp
import pytest

from ftjax.core import device
from ftjax.core.mean import Mean
from ftjax.train import flops
from ftjax.train.journal import Journal

COST = flops.Cost(full=6e6, causal=5e6)
PEAK = 1e9


class Rows:
    """A writer that keeps rows."""

    def __init__(self):
        self.rows = []

    def write(self, step, row):
        self.rows.append(row)


def rows_of(monkeypatch, tokens, *, peak=PEAK, cost=COST, **keys):
    """Log two steps of 64 positions each, of which some are tokens."""
    monkeypatch.setattr(device, "peak_flops", lambda: peak)
    kept = Rows()
    journal = Journal(writers=(kept,), log_every_steps=1, flops_per_token=cost, **keys)
    for step in (1, 2):
        metrics = {"loss": Mean(jnp.float32(2.0), jnp.float32(1.0)), "tokens": jnp.int32(tokens)}
        journal.push(step, metrics, tokens=64, blame=lambda: "")
    journal.write(2, journal.catch_up())
    return kept.rows


def test_mfu_is_of_tokens_and_of_positions_in_both_conventions(monkeypatch):
    for row in rows_of(monkeypatch, 48):
        of = lambda name, row=row: row[f"time/{name}"]
        share = of("tokens_per_s") / (PEAK * jax.device_count())
        assert of("mfu") == pytest.approx(share * 6e6)
        assert of("mfu_causal") == pytest.approx(share * 5e6)
        # A quarter of the positions is padding: the device computes 4/3 of what was asked for.
        assert of("mfu_padded") == pytest.approx(share * 6e6 * 64 / 48)
        assert of("mfu_padded_causal") == pytest.approx(share * 5e6 * 64 / 48)


def test_without_a_known_peak_or_cost_there_is_none(monkeypatch):
    for keys in (dict(peak=None), dict(cost=None)):
        for row in rows_of(monkeypatch, 48, **keys):
            assert not any("mfu" in name for name in row)


def test_start_up_is_in_the_first_row_alone_and_in_what_was_spent(monkeypatch):
    begun = time.perf_counter() - 5.0
    first, second = rows_of(monkeypatch, 48, started=begun)
    assert 5.0 <= first["time/startup_s"] < 6.0
    assert "time/startup_s" not in second
    journal = Journal(writers=(), log_every_steps=1, started=time.perf_counter() - 2.0)
    with journal.clock("eval"):
        time.sleep(0.05)
    found = journal.spent()
    assert 2.0 <= found["startup"] < 3.0
    assert found["eval"] >= 0.05
    assert 0 <= found["steps"] < 0.05  # what no phase has
