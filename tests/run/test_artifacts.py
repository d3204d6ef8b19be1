"""What stands in a workdir belongs to the state that the run is in, and is whole."""

import json
import shutil
import types

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import compare
from ftjax.core import errors
from ftjax.evals import nll
from ftjax.evals.lib import bootstrap, scoring
from ftjax.report import table
from ftjax.run import (
    adapter_init,
    evaluation,
    finish,
    reference,
)
from ftjax.run import (
    build as setup,
)
from ftjax.run import (
    config as settings,
)
from ftjax.run.artifacts import Artifacts
from tests.lab import metrics, train


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


def test_a_finished_run_without_its_log_keeps_its_table_and_says_so(lab, tmp_path, capsys):
    task = dict(name="nll", group="new", data=lab.rows(max_tokens=64), rows=4)
    chosen = lab.settings(steps=1, **{"evals.task": task})
    workdir = train(chosen, tmp_path / "run")
    summary = lambda: json.loads(Artifacts(workdir).summary.read_text())
    table_of = lambda text: [line for line in text.splitlines() if line.startswith("new")]
    first, whole = table_of(capsys.readouterr().out), metrics(workdir)
    assert summary()["lost_rows"] == 0
    Artifacts(workdir).metrics.unlink()
    with pytest.warns(RuntimeWarning, match=r"metrics.jsonl: got 0 rows up to step 1; expected 2"):
        train(chosen, workdir)
    assert table_of(capsys.readouterr().out) == first
    assert first[0].split()[:3] == ["new", "task", "nll"]
    assert first[0].split()[3] == f"{whole[0]['eval/task/nll']:.3f}"
    assert summary()["lost_rows"] == 2
    assert "2 of 2 rows are lost" in Artifacts(workdir).report.read_text()


def test_all_who_show_an_interval_draw_equally_often(tmp_path):
    generator = np.random.default_rng(0)
    arrays = [dict(nll=generator.normal(size=9) + 4, tokens=np.ones(9)) for _ in range(2)]
    own = Artifacts(tmp_path)
    own.evals.mkdir()
    for step, found in enumerate(arrays):
        np.savez(own.scores(step), **{f"a/{name}": value for name, value in found.items()})
    evaluators = {"a": scoring.Evaluator(lambda params: {}, nll.summary)}
    found, _ = finish.intervals(tmp_path, types.SimpleNamespace(evaluators=evaluators))
    wanted = bootstrap.differences(nll.summary, *arrays)["nll"]
    assert found["eval/a/nll"] == (wanted.low, wanted.high)


def test_the_data_may_start_afresh(lab, tmp_path):
    saving = {"steps": 2, "checkpoint.every_steps": 1}
    short = lab.run("run", tmp_path, **saving)
    for path in (Artifacts(short).checkpoints / "2", Artifacts(short).export):
        shutil.rmtree(path)
    chosen = lab.settings(**saving, batch_size=16, **{"data.max_tokens": 48})
    with pytest.raises(
        ValueError, match=r"--restart_data for other data .*\n  batch_size: 8 -> 16"
    ):
        train(chosen, short)
    with pytest.raises(ValueError, match=r"start the data afresh with --restart_data"):
        train(chosen, short, allow_config_change=True)
    train(chosen, short, restart_data=True)
    assert [row["step"] for row in metrics(short)] == [1, 2]
    (kept,) = json.loads(Artifacts(short).restarts.read_text())["restarts"]
    assert kept["step"] == 1
    assert kept["data"]["plan"]["batch_size"] == 16


def test_a_metric_to_choose_by_must_be_measured(lab):
    task = dict(name="nll", data=lab.rows(max_tokens=64), rows=4)
    evaluation.check_best(lab.settings(**{"checkpoint.best": "eval/a/nll", "evals.a": task}))
    for best, evals in (("eval/a/loss", {"evals.a": task}), ("eval/a/nll", {})):
        with pytest.raises(ValueError, match=rf"checkpoint.best: got '{best}'; .*expected one of"):
            evaluation.check_best(lab.settings(**{"checkpoint.best": best} | evals))


@pytest.fixture
def cached(lab, tmp_path):
    """Parts and store of a run, and the file of its cached reference."""
    parts = types.SimpleNamespace(
        reference=types.SimpleNamespace(name="cached", folder=str(tmp_path)), mesh=None,
        settings=lab.settings(),
    )  # fmt: skip
    return parts


def test_a_cached_reference_is_checked_and_is_of_its_data(cached, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "_logps", lambda *given: np.arange(4, dtype=np.float32))
    store = lambda digest: types.SimpleNamespace(
        digest=lambda: digest, sequences=types.SimpleNamespace(more={})
    )
    found = store("a")
    run = lambda: reference.compute(
        cached, None, found, workdir=tmp_path, identity=dict, progress=None
    )
    run()
    (path,) = tmp_path.glob("*.npy")
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.warns(RuntimeWarning, match=r"bytes that have changed .*computed again"):
        run()
    assert found.sequences.more["reference"].tolist() == [0, 1, 2, 3]
    names = {reference.fingerprint(cached, store(each), {}) for each in ("a", "b")}
    assert len(names) == 2


def test_start_factors_are_checked(tmp_path):
    own, parts = (
        Artifacts(tmp_path),
        types.SimpleNamespace(
            needing=lambda *needs: {"x": None}, settings=types.SimpleNamespace(adapter_from="")
        ),
    )
    adapter_init._write(tmp_path, {"x": (jnp.ones(3), jnp.ones(2))})
    assert adapter_init.read(parts, tmp_path)["x"][0].tolist() == [1, 1, 1]
    content = bytearray(own.start.read_bytes())
    content[-1] ^= 1
    own.start.write_bytes(content)
    with pytest.raises(ValueError, match=r"start.safetensors: got .*have changed since"):
        adapter_init.read(parts, tmp_path)


def test_one_diverged_variant_does_not_end_the_others(tmp_path, monkeypatch, capsys):
    def run(chosen, workdir, *, shared):
        seen.append(shared)
        if workdir.name == "bad":
            raise_diverged()
        return finish.Outcome("done", table.table({}, groups={}))

    joined, seen = [], []
    variants = dict.fromkeys(("good", "bad", "last"), variant("tiny", "lora"))
    monkeypatch.setattr(compare, "read", lambda config: variants)
    holder = lambda value: types.SimpleNamespace(value=value)
    given = compare.cli.RunsFlags(holder("x.py"), holder(str(tmp_path)))
    monkeypatch.setattr(compare.cli, "start", lambda: None)
    monkeypatch.setattr(settings, "read", lambda config: config)
    monkeypatch.setattr(compare.train, "train", run)
    monkeypatch.setattr(compare.cli, "start", lambda: None)
    monkeypatch.setattr(errors, "is_message", lambda error: True)
    monkeypatch.setattr(
        finish, "join", lambda found, workdir, failed: joined.append((*found, failed))
    )
    with pytest.raises(RuntimeError, match=r"1 of 3 variants have no result: bad: loop: step 7"):
        compare.main([""], given)
    assert joined == [("good", "last", {"bad": "loop: step 7: got a loss of nan"})]
    assert len(set(map(id, seen))) == 1  # what they share


def variant(base, adapter):
    own = types.SimpleNamespace(base=base)
    return types.SimpleNamespace(model=own, adapter=dict(name=adapter))


@pytest.mark.parametrize(
    ("variants", "base"),
    [
        ([("tiny", "lora"), ("tiny", "dora")], "tiny"),
        ([("tiny", "lora"), ("tiny", "")], ""),  # which trains it, and would hold a copy
        ([("tiny", "lora"), ("other", "lora")], ""),
    ],
)
def test_variants_share_the_base_that_all_of_them_adapt(variants, base):
    chosen = {str(number): variant(*each) for number, each in enumerate(variants)}
    assert compare._base_of(chosen) == base


def raise_diverged():
    raise FloatingPointError("loop: step 7: got a loss of nan")


def test_the_table_names_what_has_no_result(trained, tmp_path, capsys):
    (tmp_path / "a").symlink_to(trained.workdir)
    learned = evaluation.build(setup.build(trained.settings))
    found = finish.table(trained.workdir, learned, name="after")
    finish.join({"a": found}, tmp_path, failed={"b": "diverged"})
    shown = capsys.readouterr().out
    assert "b has no result: diverged" in shown
    assert "new  task" in shown
    assert "diverged" in Artifacts(tmp_path).report.read_text()
