"""Drift in a run: its base is the model with the adapters off, or a frozen copy."""

import json

import numpy as np
import pytest


def drifts(workdir):
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [row["eval/moved/kl_forward"] for row in rows if "eval/moved/kl_forward" in row]


def test_it_starts_at_zero_and_grows(lab, tmp_path):
    held = lab.rows(max_tokens=64)
    work = lab.run("run", tmp_path, **{
        "evals.moved": dict(name="drift", group="new", data=held, rows=8),
        "optim.learning_rate": 0.05,
    })  # fmt: skip
    found = drifts(work)
    assert found[0] == 0
    assert found[-1] > 1e-5
    with np.load(work / "evals" / "3.npz") as scores:
        assert scores["moved/kl_forward"].shape == (8,)
        mean = scores["moved/kl_forward"].sum() / scores["moved/tokens"].sum()
    assert mean == pytest.approx(found[-1])


def test_weights_that_train_are_compared_with_a_copy_that_is_held(lab, tmp_path):
    held = lab.rows(max_tokens=64)
    own = {
        "adapter": dict(name="", where="blocks/**"), "optim.learning_rate": 0.01,
        "evals.moved": dict(name="drift", group="new", data=held, rows=8),
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"holds no copy.*or set reference\.name='frozen'"):
        lab.run("moves along", tmp_path, **own)
    found = drifts(lab.run("kept", tmp_path, **own, **{"reference.name": "frozen"}))
    assert found[0] == 0
    assert found[-1] > 1e-5
