"""Runs that learn from preferences: references of every kind, reward heads, refused configs."""

import re

import numpy as np
import pytest
from safetensors.numpy import load_file

from ftjax.core import files
from ftjax.run import plan as running
from ftjax.run import reader, reference
from tests import lab as lab_lib

PAIRS = dict(name="judged", domain="skills", skills="count", rows=24)


def preferring(lab, **changes):
    """A config of DPO with LoRA on embedded answers, two steps."""
    held = dict(name="preference", group="new", data=dict(PAIRS, split="test"), rows=4)
    own = {
        "data": dict(PAIRS, kind="preference", max_tokens=64),
        "objective": dict(name="dpo", beta=0.5),
        "evals.pairs": held,
        "optim.learning_rate": 0.05,
    }
    return lab.settings(**own | changes)


@pytest.fixture(scope="module")
def work(lab, tmp_path_factory):
    """The workdir of a run whose reference is the base with adapters off."""
    return lab_lib.train(preferring(lab), tmp_path_factory.mktemp("dpo") / "run")


def losses(workdir):
    return [row["loss"] for row in lab_lib.metrics(workdir) if "loss" in row]


def test_the_first_loss_is_log_2_and_pairs_are_ranked_by_chance(work):
    first = lab_lib.metrics(work)[0]
    assert losses(work)[0] == pytest.approx(np.log(2), abs=1e-6)
    assert first["eval/pairs/accuracy"] == 0.5
    assert first["eval/pairs/reward_margin"] == 0
    assert lab_lib.metrics(work)[-1]["eval/pairs/reward_margin"] != 0


def test_a_cached_reference_trains_the_same_and_is_computed_once(lab, work, tmp_path, monkeypatch):
    cached = {
        "reference": dict(name="cached", base="", folder=str(tmp_path / "kept")),
        "evals.pairs.score": "likelihood",
    }
    first = lab_lib.train(preferring(lab, **cached), tmp_path / "first")
    np.testing.assert_allclose(losses(first), losses(work), rtol=1e-5)
    assert len(list((tmp_path / "kept").glob("*.npy"))) == 1
    monkeypatch.setattr(reference, "_logps", None)  # would fail if it were called
    again = lab_lib.train(preferring(lab, **cached), tmp_path / "again")
    assert losses(again) == losses(first)


def test_full_tuning_keeps_a_frozen_copy(lab, tmp_path):
    full = {"adapter": dict(name="", where="blocks/**"), "reference.name": "frozen"}
    found = lab_lib.train(preferring(lab, **full), tmp_path / "run")
    assert losses(found)[0] == pytest.approx(np.log(2), abs=1e-6)
    assert losses(found)[1] != losses(found)[0]


def test_a_reward_head_trains_and_is_exported(lab, tmp_path):
    reward = {"objective": dict(name="reward", centre=0.01), "evals.pairs.score": "reward"}
    reward["checkpoint.every_steps"] = 2
    found = lab_lib.train(preferring(lab, **reward), tmp_path / "run")
    (head,) = load_file(found / "export" / "reward_head.safetensors").values()
    assert head.shape == (1, lab_lib.CONFIG.dim)
    assert np.abs(head).max() > 0
    loaded = reader.load(found)
    np.testing.assert_array_equal(loaded.params["head"]["reward"], head[0])
    assert not np.any(loaded.base["head"]["reward"])
    # PEFT reads it onto a classifier, and we onto any model of the base.
    config = files.read_json(found / "export" / "adapter_config.json")
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["score"])
    tensors = load_file(found / "export" / "adapter_model.safetensors")
    np.testing.assert_array_equal(tensors["base_model.model.score.weight"], head)
    again = {"adapter_from": str(found / "export"), "steps": 1}
    lab_lib.train(preferring(lab, **again), tmp_path / "again")


WRONG = {
    "a reference that moves along": (
        {"adapter": dict(name="", where="blocks/**")},
        r"reference\.name: got 'adapters_off' while model weights train.*'frozen'",
    ),
    "an unknown reference": ({"reference.name": "frosen"}, "did you mean 'frozen'"),
    "an average that nobody keeps": (
        {"reference.name": "average"},
        r"reference\.name: got 'average' of a run that keeps none; expected ema_decay",
    ),
    "a reference that nothing uses": (
        {"reference.name": "frozen", "objective": dict(name="orpo")},
        r"reference\.name: got 'frozen', which objective .*orpo.* does not use",
    ),
    "a base that nothing reads": ({"reference.base": "x"}, r"reference\.base: got 'x' with name="),
    "a folder that nothing writes to": (
        {"reference.folder": "x"},
        r"reference\.folder: got 'x' with name='adapters_off'",
    ),
    "coupled rows that are parted": (
        {"objective": dict(name="dpo", loss="aot"), "accumulate": 2},
        r"accumulate: got 2 for objective 'dpo', whose loss of a row depends on the other rows",
    ),
    "rewards of a run that reads data": (
        {"rewards": {"exact": dict(name="exact")}},
        "rewards: got a section that nothing reads",
    ),
    "data of another kind": (
        {"data": dict(PAIRS, kind="unpaired", max_tokens=64)},
        r"data\.kind: got data of kind 'unpaired' for .*dpo; expected 'preference'",
    ),
    "an unknown loss": (
        {"objective": dict(name="dpo", loss="sigmoyd")},
        r"objective\.loss: got 'sigmoyd'; expected one of .*did you mean 'sigmoid'",
    ),
    "an option of another loss": (
        {"objective": dict(name="dpo", loss="ipo", label_smoothing=0.1)},
        r"objective\.label_smoothing: got 0\.1, which ipo does not use",
    ),
    "a cached teacher": (
        {"objective": dict(name="distillation"), "reference.name": "cached"},
        r"reference\.name: got 'cached' for an objective of whole distributions",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_configs_are_refused(lab, name):
    changes, message = WRONG[name]
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        running.plan(preferring(lab, **changes))
