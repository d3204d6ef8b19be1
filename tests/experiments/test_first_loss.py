"""Before the first update the policy is its reference, whatever the run starts from."""

import math

import jax
import numpy as np
import pytest

from experiments import online
from ftjax.core import tree
from ftjax.run import plan as running
from ftjax.train.policy import Policy
from tests import lab as lab_lib

PAIRS = dict(name="judged", domain="skills", skills="count", rows=24)
LORA = dict(name="lora", where="blocks/attn/*", rank=2, alpha=4.0)
PROMPT = dict(name="prompt", where="", tokens=2)
QUANTIZED = {"model.quantize.name": "nf4"}
STARTS = {
    init: {"adapter": LORA | dict(init=init)}
    for init in ("kaiming", "orthogonal", "pissa", "milora", "olora", "eva", "lora_ga")
} | {
    "loftq": {"adapter": LORA | dict(init="loftq"), **QUANTIZED},
    "loftq at some sites": {
        "adapter": LORA | dict(groups=(("blocks/attn/q", dict(init="loftq")),)), **QUANTIZED,
    },
    "prompt": {"adapter": PROMPT}, "prefix": {"adapter": PROMPT | dict(name="prefix")},
}  # fmt: skip


@pytest.fixture(scope="module")
def tuned(lab, tmp_path_factory):
    """The export of a run whose adapters have moved."""
    return lab.run("tuned", tmp_path_factory.mktemp("first"), adapter=LORA) / "export"


def first_loss(settings, workdir):
    plan = running.plan(settings)
    state, frozen = running.arrays(plan, workdir)
    params, batch = tree.combine(state.params, frozen), plan.loader.batch(0)

    def run(params):
        policy = Policy(plan.parts.model, params, settings.model.chunk)
        reference = plan.parts.reference.function(policy.without_gradient(), batch)
        loss = plan.objective(policy, reference, batch, None)["loss"]
        return sum(term.value() for term in (loss if isinstance(loss, tuple) else (loss,)))

    return float(jax.jit(run)(params))


def preferring(lab, **changes):
    own = dict(data=dict(PAIRS, kind="preference", max_tokens=64), objective=dict(name="dpo"))
    return lab.settings(**own | changes)


@pytest.mark.parametrize("start", STARTS)
def test_the_first_loss_is_log_2_for_every_start(start, lab, tmp_path):
    loss = first_loss(preferring(lab, **STARTS[start]), tmp_path)
    assert loss == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize("given", ["adapter_from", "past"])
def test_it_is_on_top_of_trained_adapters(given, lab, tuned, tmp_path):
    past = {"adapter": LORA | dict(past=(str(tuned),))}
    changes = {"adapter": LORA, "adapter_from": str(tuned)} if given == "adapter_from" else past
    loss = first_loss(preferring(lab, **changes), tmp_path)
    assert loss == pytest.approx(math.log(2), abs=1e-6)


def test_a_run_of_samples_is_compared_with_its_start(lab, tuned, tmp_path):
    from tests.experiments.test_online import plain

    settings = plain(
        lab, adapter=LORA, adapter_from=str(tuned), steps=1, **{"rewards.exact.field": "response"}
    )
    online.train(settings, tmp_path / "run")
    row = next(row for row in lab_lib.metrics(tmp_path / "run") if "loss" in row)
    np.testing.assert_allclose(row["kl/base"], 0, atol=1e-4)


def test_a_teacher_is_the_base_whatever_a_student_goes_on_from(lab, tuned, tmp_path):
    distilling = lambda **changes: first_loss(
        lab.settings(**dict(objective=dict(name="distillation"), adapter=LORA) | changes), tmp_path
    )
    assert distilling() == pytest.approx(0, abs=1e-6)
    assert distilling(adapter_from=str(tuned)) > 1e-3
    start = {"adapter_from": str(tuned), "reference.name": "frozen"}
    assert distilling(**start) == pytest.approx(0, abs=1e-6)
