"""Laws of preference learning: the first loss, packing, and where gradients do not go."""

import functools
import math

import jax
import numpy as np
import pytest

from ftjax.core.mean import Mean
from ftjax.train import reference_policy
from ftjax.train.policy import Policy
from tests.laws import subjects

FAMILY = subjects.PLAIN
COMPARING = [n for n, m in subjects.OBJECTIVES.items() if m.SPEC.batch.by_example]
REFERRING = [n for n in COMPARING if subjects.OBJECTIVES[n].SPEC.reference]
each = pytest.mark.parametrize("objective", COMPARING)


def total(found):
    terms = found["loss"]
    return sum(t.value() for t in (terms if isinstance(terms, tuple) else (terms,)))


def make(name):
    return subjects.OBJECTIVES[name].make(**subjects.OBJECTIVES[name].EXAMPLE)


@functools.cache
def params_of(name):
    return subjects.params_for(name, {"model": subjects.weights(FAMILY), "adapters": None})


@functools.cache
def program(name, reference=None):
    """Compile `params, batch -> (loss, metrics)` once an objective and reference."""
    refer = reference or subjects.reference_for(name)

    def run(params, batch):
        policy = Policy(subjects.model(FAMILY), params, subjects.CHUNK)
        found = make(name)(policy, refer(policy, batch), batch, jax.random.key(0))
        values = {k: v.value() for k, v in found.items() if isinstance(v, Mean) and k != "loss"}
        return total(found), values

    return jax.jit(run)


def unpacked(batch):
    """Give every example a row of its own."""
    rows = []
    for b, s in zip(*np.nonzero(batch["examples"]), strict=True):
        row = {name: np.zeros_like(batch[name][b]) for name in batch}
        for name in ("examples", "label", "margin", "probability"):
            row[name][0] = batch[name][b, s]
        for p, segments in enumerate(batch["segments"][b]):
            inside = segments == s + 1
            for name in ("tokens", "weights", "positions"):
                row[name][p, : inside.sum()] = batch[name][b, p, inside]
            row["segments"][p, : inside.sum()] = 1
        rows.append(row)
    return {name: np.stack([row[name] for row in rows]) for name in batch}


@pytest.mark.parametrize("adapter", subjects.OF_WEIGHTS)
def test_the_first_loss_of_dpo_is_log_2(adapter):
    """Fresh adapters are the base policy, so no pair is preferred yet."""
    adapters = subjects.adapters(adapter, FAMILY)
    params = {"model": subjects.weights(FAMILY), "adapters": adapters}
    policy = Policy(subjects.model(FAMILY), params, subjects.CHUNK)
    batch = subjects.answers(count=2)
    dpo = subjects.OBJECTIVES["dpo"].make(beta=0.3)
    run = lambda: total(dpo(policy, reference_policy.adapters_off(policy, batch), batch, None))
    assert float(jax.jit(run)()) == pytest.approx(math.log(2), abs=1e-6)


@each
def test_packed_examples_are_separate_ones(objective):
    batch, params = subjects.batch_for(objective), params_of(objective)
    packed, separate = (program(objective)(params, each) for each in (batch, unpacked(batch)))
    subjects.close(packed, separate)


@pytest.mark.parametrize("objective", REFERRING)
def test_a_cached_reference_is_the_computed_one(objective):
    batch, params = subjects.batch_for(objective), params_of(objective)
    base = Policy(subjects.model(FAMILY), params["reference"], subjects.CHUNK)
    logps = jax.jit(base.logps)(batch)
    known = batch | {"reference": np.pad(logps, ((0, 0), (0, 0), (1, 0)))}
    computed = program(objective)(params, batch)
    subjects.close(program(objective, reference_policy.cached)(params, known), computed)


@each
def test_what_is_not_there_does_not_count(objective):
    """Neither the tokens of padding nor the numbers of examples that are not there."""
    batch, params = subjects.batch_for(objective), params_of(objective)
    there = batch["examples"] > 0
    noisy = batch | {
        "tokens": np.where(batch["segments"] > 0, batch["tokens"], 7).astype(np.int32),
        "label": np.where(there, batch["label"], 1).astype(np.float32),
        "margin": np.where(there, batch["margin"], 5).astype(np.float32),
        "probability": np.where(there, batch["probability"], 0.99).astype(np.float32),
    }
    subjects.close(program(objective)(params, noisy), program(objective)(params, batch))
