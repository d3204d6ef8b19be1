"""Anchors: off at weight 0, by hand, and the same however a batch is cut, placed or resumed."""

import json
import shutil

import jax
import numpy as np
import pytest

from ftjax.core import tree
from ftjax.objectives.losses import anchor as terms
from ftjax.rl import rollout
from ftjax.run import keys, reader
from ftjax.run import plan as plans
from tests.lab import metrics

STEPS = 3


@pytest.fixture(scope="module")
def old(lab):
    """Make data of so many rows, of which none is learned from otherwise."""

    def make(count):
        row = lambda i: dict(prompt=f"old {i}:", response=" it is what it is" * (1 + i % 3))
        path = lab.root / f"old{count}.jsonl"
        path.write_text("\n".join(json.dumps(row(i)) for i in range(count)))
        return dict(name="jsonl", path=str(path), kind="prompt", max_tokens=32, packing="none")

    return make


def config(old, **changes):
    few = dict(name="kl_forward", weight=2.0, rows=8, data=dict(old(8), shuffle=False))
    return {
        "anchors": {"old": few | changes}, "steps": STEPS, "optim.learning_rate": 0.05,
        "checkpoint.every_steps": 1, "checkpoint.keep": STEPS, "eval_every_steps": 1,
        "evals.drift": dict(name="drift", data=old(8)), "evals.nll": dict(name="nll", data=old(8)),
    }  # fmt: skip


def every(old):
    """A config with an anchor of every kind, and one that goes through more rows than it shows."""
    own = config(old)
    few = own["anchors"]["old"]
    own["anchors"] |= {
        "soft": dict(few, temperature=2.0, weight=0.5),
        "rest": dict(few, name="kl_forward_off_target", weight=0.5),
        "held": dict(few, name="nll", use="projection", weight=0.5),
        "back": dict(few, name="kl_reverse", weight=0.5), "nll": dict(few, name="nll", weight=0.1),
        "many": dict(name="nll", weight=0.1, rows=8, data=old(24)),
    }  # fmt: skip
    return own


@pytest.fixture(scope="module")
def whole(lab, old, tmp_path_factory):
    return lab.run("whole", tmp_path_factory.mktemp("anchors"), **every(old))


def series(workdir, name):
    return np.array([row[name] for row in metrics(workdir) if name in row])


def alike(one, other):
    for name in ("loss", "anchor/old", "anchor/many", "grad_norm", "eval/nll/nll"):
        np.testing.assert_allclose(
            series(one, name), series(other, name), rtol=2e-4, atol=2e-5, err_msg=name
        )


@pytest.mark.parametrize(
    ("label", "metric"),
    [("old", "drift/kl_forward"), ("back", "drift/kl_reverse"), ("nll", "nll/nll")],
)
def test_a_term_is_the_measure_of_the_weights_that_the_step_has(whole, label, metric):
    found, wanted = series(whole, f"anchor/{label}"), series(whole, f"eval/{metric}")
    np.testing.assert_allclose(found, wanted[:-1], rtol=1e-3, atol=1e-6)
    assert abs(wanted[-1] - wanted[0]) > 1e-3


def test_weight_0_is_the_run_without_to_the_bit(lab, old, whole, tmp_path):
    nothing = config(old, weight=0.0)
    nothing["anchors"]["held"] = dict(nothing["anchors"]["old"], use="projection")
    nothing |= {"optim.sam": dict(rho=0.0), "optim.average": dict(every_steps=1, share=0.0)}
    off = lab.run("off", tmp_path, **nothing)
    plain = lab.run("plain", tmp_path, **(config(old) | {"anchors": {}}))
    assert metrics(off) == metrics(plain)
    one, other = (tree.paths(reader.load(work).params) for work in (off, plain))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    # Anchors hold what they are about; at first the loss is the objective's and their own.
    last = lambda work: series(work, "eval/drift/kl_forward")[-1]
    assert last(whole) < 0.8 * last(plain)
    nll = series(whole, "anchor/nll")[0] + series(whole, "anchor/many")[0]
    assert series(whole, "loss")[0] == pytest.approx(series(plain, "loss")[0] + 0.1 * nll, rel=1e-4)


def test_cut_and_sharded_otherwise_it_is_the_same(lab, old, whole, tmp_path, use_devices):
    use_devices(4)
    over = {"accumulate": 2, "mesh.data": 2, "mesh.fsdp": 2}
    alike(lab.run("other", tmp_path, **(every(old) | over)), whole)


def test_resumed_it_is_the_whole(lab, old, whole, tmp_path):
    work = tmp_path / "resumed"
    shutil.copytree(whole, work)
    for step in (STEPS - 1, STEPS):
        shutil.rmtree(work / "checkpoints" / str(step))
    lab.run("resumed", tmp_path, **every(old))
    assert metrics(work) == metrics(whole)


def test_a_temperature_softens_both_and_keeps_the_size_of_the_gradient(whole):
    """For close models T^2 KL is the variance of the logits' difference / 2 at any temperature."""
    plain, soft = series(whole, "anchor/old"), series(whole, "anchor/soft")
    assert soft[0] == pytest.approx(0, abs=1e-6)
    assert (soft[1:] > 0.2 * plain[1:]).all()
    assert (soft[1:] < 5 * plain[1:]).all()
    assert not np.allclose(soft[1:], plain[1:], rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "over", "message"),
    [
        (dict(name="kl_forwrd"), {}, r"anchors\.old\.name: got 'kl_forwrd'; did you mean"),
        (dict(rows=6), {"accumulate": 4, "mesh.data": 2, "mesh.fsdp": 1, "mesh.tensor": 4},
         r"anchors\.old\.rows: .*expected a multiple"),
        (dict(weight=-1.0), {}, r"anchors\.old\.weight: got -1\.0"),
        (dict(use="projektion"), {}, r"anchors\.old\.use: got 'projektion'; did you mean 'project"),
        (dict(name="nll", temperature=2.0), {},
         r"anchors\.old\.temperature: got 2\.0 with 'nll'; expected none"),
        (dict(wait=1.0), {}, r"anchors\.old\.wait: unknown key; did you mean 'weight'"),
        ({}, {"adapter": dict(name="", where="blocks/**"), "evals": {}},
         "reference.name: got 'adapters_off' while model weights train"),
    ],
)  # fmt: skip
def test_what_is_refused(lab, old, changes, over, message):
    with pytest.raises(ValueError, match=message):
        plans.program(lab.settings(**(config(old, **changes) | over)))


def test_data_that_do_not_fit_are_named(lab, old):
    ends = config(old)
    ends["anchors"]["old"]["data"]["epochs"] = 2
    with pytest.raises(ValueError, match=r"anchors\.old\.data\.epochs: got 2"):
        plans.program(lab.settings(**ends))


def test_full_fine_tuning_is_anchored_to_a_frozen_copy(lab, old):
    full = {"adapter": dict(name="", where="blocks/**"), "reference.name": "frozen"}
    found = plans.program(lab.settings(**(config(old) | full)))
    assert "reference" in found.frozen
    adapted = plans.program(lab.settings(**config(old)))
    assert "reference" not in adapted.frozen  # the base under the adapters needs no copy


def test_a_run_that_samples_has_none(lab, old):
    own = dict(prompts=4, samples=2, max_new_tokens=4)
    chosen = lab.settings(**config(old), rollout=own, objective=dict(name="grpo"))
    with pytest.raises(ValueError, match="anchors: got old in a run that samples"):
        rollout.check(chosen)


def test_its_keys_are_known_on_the_command_line(lab, old):
    c = lab.config(**config(old))
    keys.apply(c, ["anchors.old.weight=3", "anchors.old.data.shuffle=true"])
    assert (c.anchors.old.weight, c.anchors.old.data.shuffle) == (3.0, True)
    with pytest.raises(ValueError, match="unknown key; did you mean 'weight'"):
        keys.apply(c, ["anchors.old.wait=3"])


def test_there_are_four_terms():
    assert set(terms.TERMS) == {"kl_forward", "kl_reverse", "kl_forward_off_target", "nll"}
