"""What a report shows of a run beside its table: costs, samples side by side, failures, files."""

import json

import numpy as np

from ftjax.report import page
from ftjax.run import report_parts
from ftjax.run.artifacts import Artifacts

SUMMARY = {
    "parameters": {"trainable": 1_000, "total": 100_000}, "tokens": 5_000,
    "versions": {"jax": "1.2"}, "devices": {"count": 2, "kind": "cpu"},
    "command": "python -m x", "host": "here",
    "git_commit": None, "started": "then", "ended": "now", "directory": "/a",
}  # fmt: skip


def test_costs_have_a_column_for_every_run():
    rows = [{"step": 0, "eval/a/nll": 1.0}]
    for step, speed in ((10, 1.0), (20, 900.0), (30, 5e4)):
        rows.append({
            "step": step, "time/tokens_per_s": speed, "time/step_s": 2.0, "time/data_s": 0.5,
            "time/eval_s": 5.0, "time/checkpoint_s": 1.0, "time/memory_gib": step / 10,
        })  # fmt: skip
    found = report_parts.costs({"a": SUMMARY, "b": SUMMARY}, {"a": rows, "b": []})
    assert found.columns == ["", "a", "b"]
    cells = {name: rest for name, *rest in found.rows}
    assert cells["trainable parameters"] == ["1,000 (1.00%)"] * 2
    assert cells["tokens/s, median"] == ["900", "n/a"]
    assert cells["memory of a device, at most"] == ["3.00 GiB", "0.00 GiB"]
    assert cells["steps"] == ["45 s", "0 s"]
    assert cells["waiting for data"] == ["15 s", "n/a"]
    assert (cells["evaluating"][0], cells["saving"][0]) == ("15 s", "3 s")
    assert not any("MFU" in name or name == "goodput" for name in cells)


def test_costs_have_goodput_and_mfu_where_they_are_known():
    shares = {"mfu": 0.2, "mfu_causal": 0.15, "mfu_padded": 0.4, "mfu_padded_causal": 0.3}
    rows = [{"step": 1, "time/step_s": 1.0, **{f"time/{k}": v for k, v in shares.items()}}]
    known = {"share": 0.5, "seconds": {"steps": 8.0, "again": 4.0, "finish": 4.0, "data": 0.0}}
    found = report_parts.costs({"a": SUMMARY | {"goodput": known}}, {"a": rows})
    cells = dict(found.rows)
    assert cells["MFU of tokens, median"] == "20.0%"
    assert cells["MFU of tokens, causal attention, median"] == "15.0%"
    assert cells["MFU with padding, median"] == "40.0%"
    assert cells["MFU with padding, causal attention, median"] == "30.0%"
    assert (cells["goodput"], cells["steps"], cells["export and report"]) == ("50%", "8 s", "4 s")
    assert cells["done again after a restart"] == "4 s"
    assert "waiting for data" not in cells


def test_how_it_was_made_leaves_out_what_is_not_known():
    found = report_parts.made(SUMMARY, data="9 rows read")
    assert list(found) == ["command", "directory", "host", "started", "ended", "data", "versions"]
    assert found["versions"] == "jax 1.2"
    assert "started" not in report_parts.made_here()


def test_samples_of_several_runs_stand_side_by_side(tmp_path):
    for label in ("a", "b"):
        own = Artifacts(tmp_path / label)
        own.samples.mkdir(parents=True)
        for step, text in ((0, "old"), (9, f"new {label}")):
            asked = ["one"] if step == 0 else ["one", "two"]
            own.sample(step).write_text(json.dumps([dict(prompt=p, text=text) for p in asked]))
    workdirs = {label: tmp_path / label for label in ("a", "b", "none")}
    assert report_parts.samples(workdirs) == [
        page.Sample("one", {"before": "old", "a": "new a", "b": "new b"}),
        page.Sample("two", {"before": "(not asked)", "a": "new a", "b": "new b"}),
    ]


def evaluated(workdir, label, *steps):
    """Write scores and answers of an evaluation at steps 0, 1, ..."""
    own = Artifacts(workdir)
    own.evals.mkdir(exist_ok=True)
    for step, right in enumerate(steps):
        known = dict(np.load(own.scores(step))) if own.scores(step).exists() else {}
        known[f"{label}/exact_match"] = np.array(right, float)
        np.savez(own.scores(step), **known)
        for_each = dict(answer=f"{step}", target=["t", "u"])
        lines = [json.dumps(dict(prompt=f"q{n}", **for_each)) for n in range(len(right))]
        own.answers(label, step).write_text("".join(f"{line}\n" for line in lines))


def test_failures_are_what_is_forgotten_and_what_is_not_learned(tmp_path):
    evaluated(tmp_path, "facts", [1, 1, 0], [0, 1, 0])
    evaluated(tmp_path, "task", [0, 1], [0, 0])
    evaluated(tmp_path, "other", [1, 1], [0])  # of other examples than at first
    groups = {"facts": "old", "task": "new", "other": "old", "nll": "old"}
    found = report_parts.failures(tmp_path, groups)
    assert [(each.label, each.what, each.sample.prompt) for each in found] == [
        ("facts", "right before, wrong after", "q0"), ("task", "wrong after training", "q0"),
        ("task", "wrong after training", "q1"),
    ]  # fmt: skip
    assert found[0].sample.texts == {"before": "0", "after": "1"}
    assert found[0].sample.target == "t | u"
    assert report_parts.failures(tmp_path / "nothing", groups) == []


def test_messages_are_shown_as_text():
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
    assert report_parts._shown(messages) == "user: Hi\nassistant: Yo"
    assert report_parts._shown({"messages": messages[:1], "tools": []}) == "user: Hi"


def test_links_are_to_files_that_are_there(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    assert list(report_parts.links(tmp_path)) == ["summary.json"]
