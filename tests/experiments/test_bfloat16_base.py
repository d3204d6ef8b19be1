"""A base in bfloat16, as every released one is: trained in full, resumed, exported, read back."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import train
from ftjax.core import tree
from ftjax.models.families import llama
from ftjax.models.hf import checkpoint
from ftjax.run import (
    dry_run,
    reader,
)
from ftjax.run import (
    export as exporting,
)
from ftjax.run import (
    plan as running,
)
from ftjax.train.checkpoint import Checkpoints
from tests import lab as labs

FULL = {
    "adapter": dict(name=""), "optim.learning_rate": 1e-5,
    "optim.schedule": dict(name="constant"), "checkpoint.every_steps": 1, "steps": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def low(lab, tmp_path_factory):
    """Changes of a config: fine-tuning a base in bfloat16 in full, computed in bfloat16."""
    root = tmp_path_factory.mktemp("low")
    params = llama.make(labs.CONFIG).init(jax.random.key(0))
    checkpoint.save(root / "base", params, family=llama, config=labs.CONFIG, dtype="bfloat16")
    for file in (lab.root / "base").glob("tokenizer*.json"):
        shutil.copy(file, root / "base")
    return FULL | {"model.base": str(root / "base"), "model.compute_dtype": "bfloat16"}


@pytest.fixture(scope="module")
def run(lab, low, tmp_path_factory):
    return lab.run("run", tmp_path_factory.mktemp("runs"), **low)


def types(arrays):
    return {leaf.dtype.name for leaf in jax.tree.leaves(arrays)}


def test_what_trains_is_float32_and_what_is_frozen_is_as_stored(lab, low):
    plan = running.plan(lab.settings(**low))
    state, frozen = running.arrays(plan)
    assert types(state.params) == types(plan.state.params) == {"float32"}
    assert types(state.opt_state) <= {"float32", "int32"}
    part = running.plan(lab.settings(**low | {"trainable": "model/blocks/mlp/**"}))
    state, frozen = running.arrays(part)
    assert types(state.params) == {"float32"}
    assert types(frozen) == types(part.frozen) == {"bfloat16"}
    same = lambda a, b: a.dtype == b.dtype and a.shape == b.shape
    assert all(jax.tree.leaves(jax.tree.map(same, (state, frozen), (part.state, part.frozen))))


def test_a_small_update_moves_every_weight(lab, low, run):
    """In bfloat16 one step at 1e-5 changes 2 % of them."""
    read = reader.load(run)
    before, after = (tree.paths(x["model"])["blocks/mlp/up"] for x in (read.base, read.params))
    assert np.mean(np.asarray(before != after)) > 0.9


def test_a_run_resumes_into_abstract_arrays(lab, low, run, tmp_path, monkeypatch):
    """No second state is made beside the one that is restored."""
    shutil.copytree(run, tmp_path / "run")
    shape, known, seen = (2, 32, 48), {id(x) for x in jax.live_arrays()}, []
    restore = Checkpoints.restore

    def watch(self, like, **options):
        alive = [x for x in jax.live_arrays() if id(x) not in known and x.shape == shape]
        seen.append((alive, like))
        return restore(self, like, **options)

    monkeypatch.setattr(Checkpoints, "restore", watch)
    again = lab.settings(**low | {"steps": 2})
    train.train(again, tmp_path / "run", allow_config_change=True)
    assert labs.metrics(tmp_path / "run")[-1]["step"] == 2
    alive, like = seen[0]
    assert not alive
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(like))


def test_an_export_is_rounded_once_to_the_type_of_the_base(run, tmp_path):
    read = reader.load(run)
    assert exporting.write(read.parts, read.params, tmp_path / "out") == "model"
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == "bfloat16"
    again = checkpoint.load(tmp_path / "out", read.parts.model, names=llama.NAMES)
    for path, wanted in tree.paths(read.params["model"]).items():
        found = tree.paths(again)[path]
        assert (wanted.dtype, found.dtype) == (jnp.float32, jnp.bfloat16)
        np.testing.assert_array_equal(found, wanted.astype(jnp.bfloat16))


def test_a_dry_run_counts_true_bytes(lab, low):
    lora = dict(name="lora", where="blocks/**", rank=2, alpha=4.0)
    plan = running.plan(lab.settings(**low | {"adapter": lora}))
    size = 2 * tree.size_of(plan.frozen["model"])
    assert tree.bytes_of(plan.frozen["model"]) == size
    assert dry_run.sizes(plan)["base"].startswith(f"{size:,} bytes")


def test_other_types_are_chosen_on_purpose(lab, low):
    changes = {
        "model.train_dtype": "bfloat16",
        "optim.state_dtype": "bfloat16",
        "accumulate": 2,
        "batch_size": 16,
    }
    plan = running.plan(lab.settings(**low | changes))
    assert types(plan.state.params) == {"bfloat16"}
    assert types(plan.state.opt_state) == {"bfloat16", "int32"}
    for key in ("model.train_dtype", "optim.state_dtype"):
        with pytest.raises(ValueError, match=f"{key}: got 'int4'"):
            running.plan(lab.settings(**low | {key: "int4"}))
