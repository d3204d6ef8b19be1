"""How long a run is: `epochs` beside `steps`, and what a user hears of passes and lost rows."""

import io
import json

import pytest

from configs import common
from ftjax.rl import rollout
from ftjax.run import config as settings
from ftjax.run import dry_run, lengths
from ftjax.run import plan as running
from tests.lab import evaluated

PASS = 4  # steps: the lab's 32 rows in batches of 8
FALL = {"optim.schedule": dict(name="linear", warmup_ratio=0.5)}


@pytest.mark.parametrize(("epochs", "steps"), [(2.0, 8), (1, 4), (0.6, 3), (0.01, 1)])
def test_epochs_become_steps_and_the_schedule_follows(lab, epochs, steps):
    plan = running.plan(lab.settings(steps=None, epochs=epochs, **FALL))
    assert (plan.length.steps, plan.length.total) == (steps, steps)
    assert plan.length.passes == steps / PASS
    assert float(plan.optimizer.learning_rate(steps)) == 0.0
    assert float(plan.optimizer.learning_rate(steps // 2)) == pytest.approx(0.01)


def test_few_rows_get_the_steps_that_there_must_be(lab):
    many = {"steps": None, "epochs": 2.0, "min_steps": 50}
    plan = running.plan(lab.settings(**many, **FALL))
    assert (plan.length.steps, plan.length.passes) == (50, 50 / PASS)
    assert float(plan.optimizer.learning_rate(50)) == 0.0
    assert running.plan(lab.settings(**many | {"min_steps": 3}, **FALL)).length.steps == 8


def test_many_passes_are_said():
    say = lambda passes: lengths.Length(200, 200, passes).text({"rows": 60})
    assert say(100.0).endswith("100 passes over the data")
    assert "200 passes over the data, which are learned by heart: more rows, or --config" in say(
        200.0
    )


def test_a_wrong_schedule_is_found_before_the_data_are_read(lab):
    changes = {"steps": None, "epochs": 1.0, "optim.schedule": "cosin", "data.path": "absent"}
    with pytest.raises(ValueError, match=r"optim\.schedule\.name: got 'cosin'"):
        running.plan(lab.settings(**changes))


def test_a_run_that_its_data_end_says_so(lab, tmp_path, capsys):
    workdir = lab.run("short", tmp_path, steps=50, **{"data.epochs": 1}, **FALL)
    told = capsys.readouterr().err
    assert "32 rows read, 32 examples in 32 rows of a batch; 4 steps of 50, where the" in told
    assert "data ended: after step 4 of 50" in told
    summary = json.loads((workdir / "summary.json").read_text())
    assert (summary["stopped"], summary["step"], summary["passes"]) == ("data ended", 4, 1.0)
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    # The rate has risen and fallen within the steps that there were.
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.0, 0.005, 0.01, 0.005])
    assert "1 pass over the data" in (workdir / "report.html").read_text()


def test_a_dry_run_says_how_often_the_data_are_seen(lab):
    stream = io.StringIO()
    dry_run.show(running.plan(lab.settings(steps=6)), stream=stream)
    assert "passes over the data     1.5 passes\n" in stream.getvalue()


def test_what_is_lost_is_counted():
    summary = {
        "rows": 9, "examples": 5, "epoch_rows": 5, "truncated": 2, "split": 0,
        "dropped": {"overlong": 1, "no target left": 2}, "bad": {"count": 1},
    }  # fmt: skip
    told = lengths.Length(10, 10, 2.0).text(summary)
    assert told.startswith("9 rows read, 2 cut, 3 dropped, 1 skipped, 5 examples in 5 rows")
    assert told.endswith("10 steps: 2 passes over the data")
    assert lengths.of_passes(1234.5) == "1,234 passes"


def test_what_nobody_reads_is_said():
    columns = {name: 3 for name in ("url", *"fedcba")}
    summary = {"rows": 3, "unpredicted": 2, "straddling": 4, "unread_columns": columns}
    told = lengths.Length(10, 10, 2.0).text(summary)
    assert "2 answers begin the text: their first token is not learned" in told
    assert "4 answers begin inside a token of their prompt, which nobody asks with" in told
    assert "columns not read: a, b, c, d, e, f and 1 more; 10 steps" in told
    assert "not" not in lengths.Length(10, 10, 2.0).text({"rows": 3})


@pytest.mark.parametrize(("touching", "is_said"), [(0, False), (5, False), (6, True)])
def test_that_most_answers_touch_their_prompts_is_said(touching, is_said):
    told = lengths.Length(10, 10, 2.0).text({"rows": 10, "touching": touching})
    assert ("6 answers follow their prompts without a space" in told) == is_said


def test_an_online_run_has_steps(lab):
    c = common.online(lab.config(steps=None, epochs=2.0), prompts=4, samples=2, max_new_tokens=4)
    with pytest.raises(ValueError, match=r"epochs: got 2\.0 for a run that learns from its own"):
        rollout.check(settings.read(c))


def test_what_evaluations_and_training_share_is_said(lab):
    plan = running.plan(settings.read(evaluated(lab)))
    found = plan.loader.summary()["overlap"]
    assert found == {"evals.task": [32, 32], "evals.answers": [32, 32], "evals.old": [0, 6]}
    told = plan.length.text(plan.loader.summary())
    for label in ("task", "answers"):
        assert f"32 of 32 rows of evals.{label} in the training data" in told
    assert "rows.jsonl:1 of evals.task is in " in told
    assert "evals.old" not in told
    refused = {"data.on_overlap": "error"}
    with pytest.raises(ValueError, match=r"on_overlap: got .* 32 of 32 of evals\.answers, 32"):
        running.plan(settings.read(evaluated(lab, **refused)))
