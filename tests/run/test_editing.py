"""Edits of finished runs: off at their zero to the bit, and by hand between."""

import jax
import numpy as np
import pytest

from ftjax.core import tree
from ftjax.run import editing, reader
from ftjax.run import evaluation as evaluating

FULL = {
    "adapter": dict(name="", where="blocks/**"), "optim.learning_rate": 0.01,
    "checkpoint.every_steps": 1, "checkpoint.keep": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def full(lab, tmp_path_factory):
    task = {"evals.task": dict(name="nll", group="new", data=lab.rows(max_tokens=64), rows=8)}
    return reader.load(lab.run("full", tmp_path_factory.mktemp("edits"), **FULL | task))


@pytest.fixture(scope="module")
def lora(trained):
    return reader.load(trained.workdir)


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("edit", ["interpolate", "reduce_intruders"])
def test_the_whole_amount_is_the_run_as_it_is(full, lora, edit):
    for run in (full, lora):
        same(editing.edited(run, edit, 1.0), run.params)
    same(editing.edited(lora, "dial", 1.0), lora.params)
    same(editing.edited(full, "soup", 1.0, others=[full]), full.params)


@pytest.mark.parametrize("edit", ["interpolate", "ties", "dare"])
def test_nothing_of_an_edit_is_the_base(full, lora, edit):
    for run in (full, lora):
        found = editing.edited(run, edit, 0.0)
        same(editing.dense(run.parts, found), editing.dense(run.parts, run.base))


def test_half_way_by_hand(full, lora):
    for run in (full, lora):
        base, tuned = (tree.paths(editing.dense(run.parts, p)) for p in (run.base, run.params))
        half = tree.paths(editing.edited(run, "interpolate", 0.5)["model"])
        for path in base:
            wanted = (np.float32(base[path]) + np.float32(tuned[path])) / 2
            np.testing.assert_allclose(half[path], wanted, rtol=1e-5, atol=1e-6)
    # A LoRA's change of the weight is linear in its dial.
    dialled = editing.edited(lora, "dial", 0.5)
    assert dialled["adapters"] is not None
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    jax.tree.map(
        close, editing.dense(lora.parts, dialled),
        editing.edited(lora, "interpolate", 0.5)["model"],
    )  # fmt: skip


def test_an_earlier_checkpoint_in_the_place_of_the_base(full, lab):
    workdir = next(lab.root.parent.glob("edits*")) / "full"
    early = reader.load(workdir, checkpoint="1")
    assert (early.step, full.step) == (1, 3)
    same(editing.edited(full, "interpolate", 0.0, others=[early])["model"], early.params["model"])
    mean = editing.edited(full, "interpolate", 0.5, others=[early])["model"]
    soup = editing.edited(full, "soup", 0.5, others=[early])["model"]
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, mean, soup)


def test_scores_of_the_ends_are_those_of_the_run(full):
    evaluators = evaluating.build(full.parts).evaluators
    found = editing.measure(full, evaluators, edit="interpolate", amounts=[0, 0.5, 1])
    assert found[0].after == found[0].before == found[1].before
    assert found[1].after["task/nll"] == evaluators["task"](full.params)["nll"]
    assert found[1].after["task/nll"] < found[0.5].after["task/nll"] < found[0].after["task/nll"]


@pytest.mark.parametrize(
    ("edit", "others", "message"),
    [("interpolat", 0, "--edit: got 'interpolat'; did you mean 'interpolate'"),
     ("soup", 0, "--other: got 0 with 'soup'; expected 1 at least"),
     ("dial", 1, "--other: got 1 with 'dial'; expected 0 at most")],
)  # fmt: skip
def test_what_is_refused(edit, others, message):
    with pytest.raises(ValueError, match=message):
        editing.check(edit, others)


def test_a_run_without_adapters_has_no_dial(full):
    with pytest.raises(ValueError, match="got 'dial' of a run without adapters"):
        editing.edited(full, "dial", 0.5)
