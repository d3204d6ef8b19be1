"""What stands in a workdir belongs to the state that the run is in, and is whole."""

import json
import types

import numpy as np
import pytest

from experiments import results
from experiments.artifacts import Artifacts
from ftjax.evals import base, bootstrap, nll
from tests.experiments.conftest import metrics, train


def weights(workdir):
    return (Artifacts(workdir).export / "adapter_model.safetensors").read_bytes()


def of_export(workdir):
    return json.loads((Artifacts(workdir).export / "digest.json").read_text())


@pytest.fixture
def short(lab, tmp_path):
    """The workdir of a run of one step, which may be damaged."""
    return lab.run("run", tmp_path, steps=1)


def test_a_run_that_goes_on_replaces_its_export(lab, short):
    first, before = weights(short), of_export(short)
    assert before["step"] == 1
    train(lab.settings(steps=2), short, allow_config_change=True)
    assert of_export(short)["step"] == 2
    assert of_export(short)["of"] != before["of"]
    assert weights(short) != first
    written = (Artifacts(short).export / "digest.json").stat().st_mtime_ns
    train(lab.settings(steps=2), short)
    assert (Artifacts(short).export / "digest.json").stat().st_mtime_ns == written


def test_a_damaged_export_is_set_aside_and_written_again(lab, short):
    whole, export = weights(short), Artifacts(short).export
    (export / "adapter_config.json").unlink()
    with pytest.warns(RuntimeWarning, match=r"export that is damaged: .*adapter_config.json"):
        train(lab.settings(steps=1), short)
    assert (export / "adapter_config.json").is_file()
    assert weights(short) == whole
    assert (short / "export.bad-missing-file").is_dir()


def test_evaluations_and_samples_may_be_added_to_a_run(lab, short):
    task = dict(name="nll", group="new", data=lab.rows(max_tokens=64), rows=4)
    more = {"evals.task": task, "eval_every_steps": 1, "samples.prompts": ("Q:",)}
    train(lab.settings(steps=1, **more | {"samples.max_new_tokens": 2}), short)
    with pytest.raises(ValueError, match=r"batch_size: 8 -> 16"):
        train(lab.settings(steps=1, batch_size=16), short)
    assert [row["step"] for row in metrics(short)] == [1]


def test_all_who_show_an_interval_draw_equally_often(tmp_path):
    generator = np.random.default_rng(0)
    arrays = [dict(nll=generator.normal(size=9) + 4, tokens=np.ones(9)) for _ in range(2)]
    own = Artifacts(tmp_path)
    own.evals.mkdir()
    for step, found in enumerate(arrays):
        np.savez(own.scores(step), **{f"a/{name}": value for name, value in found.items()})
    evaluators = {"a": base.Evaluator(lambda params: {}, nll.summary)}
    found = results.intervals(tmp_path, types.SimpleNamespace(evaluators=evaluators))
    wanted = bootstrap.differences(nll.summary, *arrays)["nll"]
    assert found["eval/a/nll"] == (wanted.low, wanted.high)
