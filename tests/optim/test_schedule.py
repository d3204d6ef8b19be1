import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.optim import schedule

TOTAL, WARMUP = 40, 8


def curve(name, *, learning_rate=2e-3, total_steps=TOTAL, upto=TOTAL + 5, **keywords):
    keywords.setdefault("warmup_steps", WARMUP)
    fn = schedule.make(
        {"name": name, **keywords}, learning_rate=learning_rate, total_steps=total_steps, where="s"
    )
    return np.array([fn(jnp.int32(n)) for n in range(upto)]) / learning_rate


def warm(n):
    return n / WARMUP


FORMULAS = {
    "constant": ({}, lambda n: 1.0),
    "linear": ({}, lambda n: max(0.0, (TOTAL - n) / (TOTAL - WARMUP))),
    "cosine": (
        {"final_fraction": 0.1},
        lambda n: 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1, (n - WARMUP) / 32))),
    ),
    "wsd": ({"decay_steps": 10}, lambda n: 1.0 if n < 30 else max(0.0, (40 - n) / 10)),
    "inverse_sqrt": ({}, lambda n: math.sqrt(WARMUP / n)),
}


def test_every_schedule_has_a_formula_here():
    assert set(FORMULAS) == set(schedule.SCHEDULES)


@pytest.mark.parametrize("name", FORMULAS)
def test_closed_form(name):
    keywords, formula = FORMULAS[name]
    want = [warm(n) if n < WARMUP else formula(n) for n in range(TOTAL + 5)]
    np.testing.assert_allclose(curve(name, **keywords), want, atol=2e-6)


@pytest.mark.parametrize(
    ("decay", "halfway"), [("linear", 0.5), ("cosine", 0.5), ("sqrt", 1 - math.sqrt(0.5))]
)
def test_wsd_decays(decay, halfway):
    got = curve("wsd", decay=decay, decay_steps=10, final_fraction=0.2)
    np.testing.assert_allclose(got[[29, 30, 35, 40]], [1, 1, 0.2 + 0.8 * halfway, 0.2], atol=1e-6)


@pytest.mark.parametrize("name", FORMULAS)
def test_without_warmup_the_first_step_has_the_peak(name):
    keywords, _ = FORMULAS[name]
    assert curve(name, warmup_steps=0, upto=1, **keywords)[0] == pytest.approx(1.0)


def test_inverse_sqrt_without_warmup_has_a_timescale():
    got = curve("inverse_sqrt", warmup_steps=0, timescale=4, upto=13)
    np.testing.assert_allclose(got[[0, 12]], [1.0, 0.5], rtol=1e-6)


@pytest.mark.parametrize(("total", "ratio", "steps"), [(40, 0.2, 8), (100, 0.29, 29), (2, 0.05, 0)])
def test_a_ratio_follows_the_length(total, ratio, steps):
    same = dict(total_steps=total, upto=total)
    by_ratio = curve("linear", warmup_steps=None, warmup_ratio=ratio, **same)
    np.testing.assert_array_equal(by_ratio, curve("linear", warmup_steps=steps, **same))
    falls = dict(warmup_steps=0, total_steps=100, upto=100)
    half = curve("wsd", decay_ratio=0.5, **falls)
    np.testing.assert_array_equal(half, curve("wsd", decay_steps=50, **falls))


def test_float32_under_jit_and_vmap_over_rates():
    def rate(peak):
        return schedule.make("cosine", learning_rate=peak, total_steps=10, where="s")(5)

    got = jax.jit(jax.vmap(rate))(jnp.array([1.0, 3.0]))
    assert got.dtype == jnp.float32
    assert not got.weak_type
    np.testing.assert_allclose(got, [0.5, 1.5], rtol=1e-6)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cosin", "did you mean 'cosine'"),
        ({"warmup_steps": 3}, "got None"),
        ({"name": ["cosine"]}, r"s\.name: got \['cosine'\]; .*expected one of constant"),
        ({"name": "cosine", "warmup": 3}, r"s\.warmup: unknown key; did you mean 'warmup_steps'"),
        ({"name": "linear", "warmup_steps": 50}, "warmup_steps: got 50; expected 0 to .* 40"),
        ({"name": "linear", "warmup_steps": -1}, "warmup_steps: got -1"),
        ({"name": "constant", "warmup_steps": 41}, "warmup_steps: got 41; expected 0 to .* 40, or"),
        ({"name": "inverse_sqrt", "warmup_steps": 41}, r"s\.warmup_steps: got 41; expected 0 to"),
        ({"name": "cosine", "warmup_ratio": 1.5}, r"s\.warmup_ratio: got 1.5; expected at least 0"),
        ({"name": "cosine", "warmup_ratio": 0.1, "warmup_steps": 3}, "warmup_ratio: got .* beside"),
        ({"name": "cosine", "final_fraction": -1.0}, r"s\.final_fraction: got -1.0; expected at"),
        ({"name": "cosine", "warmup_steps": 0.5}, r"s\.warmup_steps: got 0.5; expected int"),
        ({"name": "wsd"}, "expected also decay_steps"),
        ({"name": "wsd", "decay_steps": 41}, "decay_steps: got 41; expected at most 40"),
        ({"name": "wsd", "decay_steps": 4, "decay": "exp"}, "decay: got 'exp'"),
    ],
)
def test_rejects(spec, message):
    with pytest.raises(ValueError, match=message):
        schedule.make(spec, learning_rate=1.0, total_steps=TOTAL, where="s")


def test_rates_of_real_runs(golden):
    """Every reference run logs the rate that each of its steps used."""
    curves = sorted(golden.glob("training/*/curve.json"))
    assert curves
    for path in curves:
        curve = json.loads(path.read_text())
        args = curve["args"]
        spec = {"name": args["lr_scheduler_type"], "warmup_steps": args["warmup_steps"]}
        rate = schedule.make(
            spec, learning_rate=args["learning_rate"], total_steps=args["max_steps"], where="s"
        )
        want = [step["learning_rate"] for step in curve["steps"]]
        np.testing.assert_allclose([rate(n) for n in range(len(want))], want, rtol=1e-6)
