"""Whole runs in this process: resuming, options, and what they leave behind."""

import dataclasses
import io
import json
import pathlib
import re

import jax
import numpy as np
import pytest
import safetensors.numpy

from ftjax.core import tree
from ftjax.run import (
    config as settings,
)
from ftjax.run import (
    dry_run,
    mask_page,
    reader,
)
from ftjax.run import (
    plan as running,
)
from ftjax.train import compile as compiling
from tests.lab import metrics, train


@pytest.fixture(scope="module")
def plain(lab):
    """A run without evaluations."""
    return lab.run("plain", lab.root, **{"checkpoint.every_steps": 1, "checkpoint.keep": 5})


def adapter(workdir):
    return safetensors.numpy.load_file(workdir / "export" / "adapter_model.safetensors")


def differ(a, b):
    return any((a[name] != b[name]).any() for name in a)


def test_another_config_is_refused_on_resume_with_what_differs(lab, plain):
    free = {"checkpoint.every_steps": 1, "data.on_overlap": "off"}
    changed = lab.settings(**{"optim.learning_rate": 0.02, **free})
    with pytest.raises(ValueError, match=r"optim/learning_rate: 0.01 -> 0.02") as caught:
        train(changed, plain)
    assert "allow_config_change" in str(caught.value)
    assert "every_steps" not in str(caught.value)  # free to change
    assert "on_overlap" not in str(caught.value)
    before = metrics(plain)
    train(dataclasses.replace(changed), plain, allow_config_change=True)
    assert metrics(plain) == before  # it had ended


def test_a_changed_rank_is_refused_by_its_arrays(lab, plain):
    changed = lab.settings(**{"adapter.rank": 3, "checkpoint.every_steps": 1})
    with pytest.raises(ValueError, match=r"params/adapters/blocks/attn/q/a: checkpoint float32"):
        train(changed, plain, allow_config_change=True)


def test_a_refused_config_does_not_replace_the_runs_own(lab, plain):
    chosen = lab.settings(**{"seed.init": 1})
    before = (plain / "config.json").read_text()
    with pytest.raises(ValueError, match=r"seed/init: 0 -> 1"):
        train(chosen, plain)
    assert (plain / "config.json").read_text() == before


def test_an_average_is_kept_evaluated_and_exported(lab, tmp_path, plain):
    averaged = lab.run("ema", tmp_path, ema_decay=0.5)
    assert metrics(averaged)[-1]["loss"] == pytest.approx(metrics(plain)[-1]["loss"], rel=1e-5)
    assert differ(adapter(averaged), adapter(plain))
    steps = [reader.load(plain, checkpoint=str(step)).params["adapters"] for step in (1, 2, 3)]
    own = tree.paths(reader.load(averaged).params["adapters"])
    first = [tree.paths(each) for each in steps]
    for path, leaf in own.items():
        if path.endswith("/b"):  # starts at 0: 0.5 x3 + 0.25 x2 + 0.125 x1
            expected = 0.5 * first[2][path] + 0.25 * first[1][path] + 0.125 * first[0][path]
            np.testing.assert_allclose(leaf, expected, rtol=1e-4, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("option", [{"z_loss": 0.01}, {"label_smoothing": 0.1}])
def test_options_of_the_loss_change_the_loss_and_not_the_first_nll(lab, tmp_path, plain, option):
    changed = lab.run("run", tmp_path, objective=dict(name="sft", **option))
    one, other = metrics(plain)[0], metrics(changed)[0]
    assert other["nll"] == pytest.approx(one["nll"], rel=1e-5)
    assert one["loss"] == pytest.approx(one["nll"], rel=1e-6)
    assert abs(other["loss"] - other["nll"]) > 1e-4 * other["nll"]


def test_an_exported_adapter_is_a_start(lab, tmp_path, plain):
    again = lab.settings(adapter_from=str(plain / "export"))
    state, _ = running.arrays(running.plan(again))
    end = reader.load(plain).params["adapters"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        tree.paths(state.params["adapters"]),
        {k: v for k, v in tree.paths(end).items() if not k.endswith("scale")},
    )
    train(again, tmp_path / "more")
    assert metrics(tmp_path / "more")[0]["loss"] < metrics(plain)[0]["loss"]
    other = lab.settings(adapter_from=str(plain / "export"), **{"adapter.rank": 3})
    with pytest.raises(ValueError, match=r"adapter_from: got .*set adapter.where and adapter.rank"):
        running.arrays(running.plan(other))


@pytest.mark.parametrize("kind", ["jit", "pmap"])
def test_a_dry_run_shows_what_would_happen(lab, kind):
    out = io.StringIO()
    plan = running.plan(lab.settings(compile=kind))
    dry_run.show(plan, stream=out)
    text = out.getvalue()
    config, _ = json.JSONDecoder().raw_decode(text)
    assert settings.read(config).steps == 3
    assert f"{tree.size_of(plan.state.params):,}" in text
    assert re.search(r"parameters +[\d,]+\n", text)
    assert re.search(r"weights, frozen +\d+\.\d+ GiB a device", text)
    assert re.search(r"temporary on cpu +\d", text)
    assert re.search(r"Q: what is \d+\?\nA:⟦( it is)+ \d+\n(<[^>]+>)?⟧", text)


def test_a_page_shows_what_is_learned(lab, tmp_path):
    rows = [{"prompt": "a < b\n", "response": "\nso & so"}, {"prompt": "c:", "response": "d"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = running.plan(lab.settings(**{"data.path": str(tmp_path / "rows.jsonl")}))
    assert mask_page.write(plan, count=1, path=tmp_path / "run" / "mask.html") == 1
    page = (tmp_path / "run" / "mask.html").read_text()
    assert re.search(r"<pre>\na &lt; b\n<mark>\nso &amp; so(&lt;[^<]+)?</mark></pre>", page)
    assert "1 shown of 2 examples; 2 of 2 learned turns end in a stop token" in page
    assert mask_page.write(plan, count=9, path=tmp_path / "mask.html") == 2
    assert "http" not in page


def test_bad_rows_are_skipped_and_reported(lab, tmp_path):
    good = (lab.root / "rows.jsonl").read_text() + "\n"
    (tmp_path / "rows.jsonl").write_text('{"prompt": "x"}\n' + good + "not json\n")
    path = {"data.path": str(tmp_path / "rows.jsonl")}
    with pytest.raises(ValueError, match=r"rows.jsonl:"):
        running.plan(lab.settings(**path))
    chosen = lab.config(**path)
    with chosen.unlocked():
        chosen.data.on_bad_row = "skip"
    train(settings.read(chosen), tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["bad_rows"]["count"] == 2
    for number in (1, 34):
        assert f"rows.jsonl:{number}: " in "".join(summary["bad_rows"]["first"])
    assert summary["data"]["examples"] == 32
    assert summary["data"]["bad"]["count"] == 2


def test_overlong_examples_are_counted(lab, tmp_path):
    lengths = running.plan(lab.settings()).loader.data.store.lengths
    cut = int(np.median(lengths))
    plan = running.plan(lab.settings(**{"data.max_tokens": cut}))
    data = plan.loader.summary()
    assert data["truncated"] + sum(data["dropped"].values()) == (lengths > cut).sum() > 0


def test_the_report_needs_nothing_but_itself(trained):
    page = (trained.workdir / "report.html").read_text()
    outside = re.findall(r"""(?:src|href)\s*=\s*["'](?!#)[^"']*|url\((?!#)[^)]*|@import""", page)
    links = re.findall(r'href="([^#"][^"]*)"', page)
    assert not [each for each in outside if "data:" not in each and "href" not in each]
    # A link is to a file of the run, beside the page.
    assert "config.json" in links
    assert all((trained.workdir / each).exists() for each in links)
    assert "<script src" not in page
    for name in ("task", "answers", "old", "nll", "exact_match", "accuracy", "Q: what is 3?"):
        assert name in page, name
    assert page.count("<svg") >= 2
    assert str(trained.settings.batch_size) in page
    summary = json.loads((trained.workdir / "summary.json").read_text())
    assert f"{summary['tokens']:,}" in page
    row = next(row for row in summary["learned"] if row["label"] == "task")
    assert row["change"] == pytest.approx(row["values"][1] - row["values"][0])
    assert row["intervals"][1][0] <= row["change"] <= row["intervals"][1][1]
    assert (row["unit"], row["direction"]) == ("nats/token", -1)
    for value, (low, high) in zip(row["values"], row["bounds"], strict=True):
        assert low <= value <= high


def test_answers_of_a_generative_evaluation_are_kept(trained):
    scores = np.load(trained.workdir / "evals" / "3.npz")["answers/exact_match"]
    for step in (0, 3):
        lines = (trained.workdir / "evals" / f"answers_{step}.jsonl").read_text().splitlines()
        told = [json.loads(line) for line in lines]
        assert len(told) == len(scores) == 4
        assert all(each.keys() == {"prompt", "answer", "target"} for each in told)
    right = [each["answer"].strip() in map(str.strip, each["target"]) for each in told]
    assert right == [score == 1 for score in scores]


def test_bits_per_byte_are_given(trained):
    row = metrics(trained.workdir)[-1]
    nats = row["eval/task/nll"] * row["eval/task/tokens"]
    lines = pathlib.Path(trained.settings.data["path"]).read_text().splitlines()
    texts = [json.loads(line)["response"] for line in lines]
    count = sum(len(text.encode()) for text in texts[::4])
    assert row["eval/task/bits_per_byte"] == pytest.approx(nats / np.log(2) / count, rel=1e-5)


def test_a_run_that_ended_computes_nothing_again(lab, plain):
    config = json.loads((plain / "config.json").read_text())
    before = (adapter(plain), metrics(plain))
    count = compiling.programs()
    train(settings.read(config), plain, allow_config_change=True)
    assert metrics(plain) == before[1]
    assert not differ(adapter(plain), before[0])
    assert compiling.programs() - count < 30
