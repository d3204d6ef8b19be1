"""`ftjax.train`, `load`, `generate` and `evaluate` do what the commands do."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import ftjax
from ftjax import api
from ftjax.core import shipped
from ftjax.run import artifacts
from tests import lab as lab_lib

PROMPT = "Q: what is 3?\nA:"


@pytest.fixture(scope="module")
def run(trained):
    return ftjax.load(str(trained.workdir))


def test_a_run_is_loaded_with_its_weights(run, trained):
    assert (run.step, run.workdir) == (3, trained.workdir)
    assert run.start["adapters"] is None
    assert run.params["adapters"]
    assert f"run {trained.workdir}, step 3" in repr(run)


def test_a_step_is_a_number_or_its_text(trained):
    assert ftjax.load(trained.workdir, checkpoint=2).step == 2
    with pytest.raises(ValueError, match=r"--checkpoint: got '9'; expected latest, best or a step"):
        ftjax.load(trained.workdir, checkpoint=9)


def test_one_prompt_gives_a_text_and_several_a_list(run, trained):
    kept = json.loads(artifacts.Artifacts(trained.workdir).sample(3).read_text())
    one = ftjax.generate(run, PROMPT, max_new_tokens=4)
    assert one == kept[0]["text"]  # as the run itself wrote it
    others = ftjax.generate(run, [PROMPT, "Q:"], max_new_tokens=4, batch_size=2)
    assert others[0] == one
    assert len(others) == 2
    assert ftjax.generate(run, [], max_new_tokens=4) == []


def test_what_the_run_started_from_answers_too(run, trained, lab):
    kept = json.loads(artifacts.Artifacts(trained.workdir).sample(0).read_text())
    before = ftjax.generate(run, PROMPT, max_new_tokens=4, before=True)
    assert before == kept[0]["text"]
    base = ftjax.load(lab.root / "base")
    assert ftjax.generate(base, PROMPT, max_new_tokens=4) == before
    assert (base.step, base.workdir) == (0, None)
    assert "base " in repr(base)


def test_an_exported_adapter_over_its_base_is_the_run(run, trained, lab):
    adapted = ftjax.load(lab.root / "base", adapter=trained.workdir / "export")
    answers = [ftjax.generate(one, PROMPT, max_new_tokens=4) for one in (adapted, run)]
    assert answers[0] == answers[1]
    with pytest.raises(ValueError, match="adapter: got 'x' over the run"):
        ftjax.load(trained.workdir, adapter="x")


def test_evaluate_compares_with_the_base(run, trained):
    found = ftjax.evaluate(run)
    with np.load(artifacts.Artifacts(trained.workdir).scores(3)) as kept:
        labels = {name.split("/")[0] for name in kept.files}
    assert {name.split("/")[0] for name in found["after"]} == labels == {"task", "answers", "old"}
    logged = [row for row in lab_lib.metrics(trained.workdir) if "eval/task/nll" in row]
    for name, row in (("before", logged[0]), ("after", logged[-1])):
        assert found[name]["task/nll"] == pytest.approx(row["eval/task/nll"], rel=1e-5)
    change = found["change"]["task/nll"]
    assert change["low"] <= found["after"]["task/nll"] - found["before"]["task/nll"]


def test_other_evaluations_take_the_place_of_the_runs(run, lab):
    own = dict(name="nll", group="new", data=lab.rows(max_tokens=64), rows=2)
    assert {name.split("/")[0] for name in ftjax.evaluate(run, {"two": own})["after"]} == {"two"}
    with pytest.raises(ValueError, match="evals: got none in the config"):
        ftjax.evaluate(run, {})
    with pytest.raises(ValueError, match=r"evals.two.name: got 'nl'"):
        ftjax.evaluate(run, {"two": own | {"name": "nl"}})


def test_a_base_is_compared_with_nothing(lab):
    with pytest.raises(ValueError, match=r"model: got <ftjax.Model: base .*; expected a run"):
        ftjax.evaluate(ftjax.load(lab.root / "base"))


@pytest.fixture
def calls(monkeypatch):
    """What `train` hands to the mains, which do not run."""
    seen = []
    for name in ("train", "online"):
        main = api._main(name)
        note = lambda settings, workdir, name=name, **own: seen.append(
            (name, settings, workdir, own)
        )
        monkeypatch.setattr(main, "train", note)
    monkeypatch.setattr(api, "load", lambda workdir: workdir)
    return seen


def test_train_trains_and_loads(lab, tmp_path):
    config = lab.config(steps=1)
    run = ftjax.train(
        config, tmp_path / "run", {"batch_size": 16, "data.path": [lab.raw()["path"]]}
    )
    assert run.step == 1
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (kept["batch_size"], kept["data"]["path"]) == (16, [lab.raw()["path"]])
    assert (config.batch_size, config.data.path) == (8, lab.raw()["path"])  # the caller's own
    assert (tmp_path / "run" / "report.html").is_file()
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(run.params["adapters"]))


def test_a_config_may_be_named_and_its_keys_set(calls, tmp_path):
    ftjax.train("sft:steps=7", tmp_path, {"optim.learning_rate": 1e-05, "data.on_bad_row": "skip"})
    [(main, settings, workdir, own)] = calls
    assert (main, workdir) == ("train", tmp_path)
    assert settings.steps == 7
    assert settings.optim["learning_rate"] == 1e-5
    assert settings.data["on_bad_row"] == "skip"
    assert own == dict(restart_data=False, allow_config_change=False)


def test_an_online_config_goes_to_its_main(calls, tmp_path):
    ftjax.train("grpo_skills", str(tmp_path), restart_data=True)
    [(main, _, workdir, own)] = calls
    assert (main, workdir, own["restart_data"]) == ("online", tmp_path, True)


@pytest.mark.parametrize(
    ("config", "keys", "message"),
    [
        ("sftt", None, "did you mean 'sft'"),
        ("sft", {"optim.lerning_rate": 1}, "did you mean 'learning_rate'"),
        ("sft", {"steps": 0}, "steps: got 0; expected at least 1"),
        ("sft", {"steps": 3, "epochs": 1}, "steps: got 3 beside epochs"),
    ],
)
def test_what_is_wrong_with_a_config_is_named(calls, config, keys, message):
    with pytest.raises(ValueError, match=message):
        ftjax.train(config, "runs", keys)
    assert calls == []


def test_a_package_of_the_callers_is_not_taken_for_ours(monkeypatch, tmp_path):
    monkeypatch.setattr(shipped, "folder", lambda: tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(ValueError, match=r"experiments.train: got .*, a module of another project"):
        api._main("train")


SCRIPT = """
import sys
import ftjax
assert "ftjax.api" not in sys.modules and "ftjax.train" not in sys.modules
assert {"train", "load", "generate", "evaluate"} <= set(dir(ftjax))
import ftjax.train.vanish as module
assert callable(ftjax.train) and ftjax.train.vanish is module
assert ftjax.load is ftjax.api.load and "jax" not in sys.modules, [m for m in sys.modules]
try:
    ftjax.fit
except AttributeError as error:
    assert str(error) == "module 'ftjax' has no attribute 'fit'"
else:
    raise SystemExit("no error")
"""


def test_the_functions_are_imported_when_they_are_asked_for(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True,
        env=lab_lib.environment() | {"PYTHONPATH": str(lab_lib.ROOT)}, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
