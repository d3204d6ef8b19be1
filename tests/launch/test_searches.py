"""Settings that a search proposes: where they lie, that they grow, what they are learned from."""

import importlib.util
import math
import pathlib
import types
from contextlib import nullcontext

import numpy as np
import pytest

from experiments import sweep
from ftjax.core import files
from ftjax.launch.lib import jobs, searching, space
from ftjax.launch.lib.jobs import Job
from ftjax.launch.lib.space import Searched
from ftjax.run import unit
from ftjax.run.artifacts import Artifacts

SPACE = {"optim.learning_rate": space.log_uniform(1e-5, 1e-2), "adapter.rank": (2, 4, 8)}
METRIC = "eval/held/nll"
TPE = dict(name="optuna", metric=METRIC, at_once=3, startup=6)


def proposed(count, earlier=(), *, over=SPACE, **search):
    return searching.overrides(Searched(over, count, search), earlier)


@pytest.mark.parametrize("name", ["random", "sobol"])
def test_settings_repeat_grow_and_have_seeds(name):
    found = proposed(12, name=name)
    assert len(found) == 12
    assert proposed(5, name=name) == found[:5]
    assert proposed(12, name=name, seed=1) != found
    assert {row["adapter.rank"] for row in found} == {2, 4, 8}
    assert all(1e-5 <= row["optim.learning_rate"] <= 1e-2 for row in found)


def test_random_settings_are_the_samples():
    assert proposed(5, name="random", seed=3) == space.sample(5, SPACE, seed=3)


def test_sobol_fills_a_space_evenly():
    """Of 16 points on two axes each quarter of the square has four; of draws hardly ever."""
    over = {"a": space.uniform(0, 1), "b": space.uniform(0, 1)}
    found = [(row["a"], row["b"]) for row in proposed(16, over=over, name="sobol")]
    counts, _, _ = np.histogram2d(*zip(*found, strict=True), bins=2, range=[[0, 1], [0, 1]])
    assert (counts == 4).all()
    assert len(proposed(1, over=over, name="sobol")) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((SPACE, 4, dict(name="sobl")), "got 'sobl'; expected one of .* did you mean 'sobol'"),
        ((SPACE, 4, dict(name="sobol", sed=1)), r"search\.sed: unknown key; did you mean 'seed'"),
        ((SPACE, 0, dict(name="sobol")), "got 2 keys and count 0; expected one of each"),
        (({}, 4, dict(name="sobol")), "got 0 keys and count 4"),
        (({"a": lambda g: 1}, 4, dict(name="sobol")), "Searched: a: got <function .*; a function"),
        (({"a": ()}, 4, dict(name="sobol")), r"Searched: a: got \(\); expected values"),
        ((SPACE, 4, dict(name="optuna")), "search: got nothing; expected also metric"),
        ((SPACE, 4, TPE), "got 'optuna', which learns from jobs .* run experiments.sweep"),
        ((SPACE, 4, dict(TPE, metric="eval/held/nl")), "got 'nl'; .* did you mean 'nll'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        searching.overrides(Searched(*given), None)


@pytest.fixture
def job(tmp_path):
    """Make a job that was launched, and in which state it is."""

    def make(number, rate, rank=2, *, state="done", **metrics):
        own = Artifacts(tmp_path / str(number))
        unit.submit(own)
        if state == "done":
            files.write_json(own.summary, {"metrics": metrics or {METRIC: 1.0}})
            unit.finish(own)
        elif state == "failed":
            unit.fail(own, "a disk was full")
        config = {"optim": {"learning_rate": rate}, "adapter": {"rank": rank}, "steps": 3}
        return config, own

    return make


def test_trials_are_what_jobs_came_to(job, monkeypatch):
    seen = []
    jobs = [
        job(0, 1e-3, 8), job(1, 1e-4, state="failed"), job(2, 1e-4, state="open"),
        job(3, 1.0), job(4, 1e-3, 16), job(5, 1e-5, 4, **{METRIC: None}),
    ]  # fmt: skip
    propose = lambda space, count, trials: seen.extend(trials) or []
    monkeypatch.setattr(searching.conf, "build", lambda *args, **options: propose)
    monkeypatch.setattr(searching, "learns", lambda given: True)
    proposed(9, jobs, **TPE)
    assert seen == [
        searching.Trial(setting(jobs[0][0]), "done", 1.0),
        searching.Trial(setting(jobs[1][0]), "failed"),
        searching.Trial(setting(jobs[2][0]), "open"),
        searching.Trial(setting(jobs[5][0]), "diverged"),  # those between are of other spaces
    ]
    with pytest.raises(ValueError, match=r"got 'eval/held/nl', .* did you mean 'eval/held/nll'"):
        proposed(9, jobs, **dict(TPE, metric="eval/held/nl"))


def test_without_optuna_there_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"not installed here; .* pip install 'ftjax\[optuna\]'"):
        proposed(9, [], **TPE)


@pytest.mark.parametrize(
    ("states", "calls"),
    [(["done", "diverged", "done"], [1, 2, 3]), (["done", "stopped", "done"], [1, 2])],
)
def test_a_search_that_learns_goes_on_while_its_jobs_end(states, calls, monkeypatch):
    """Where a launcher was asked to stop, or a cluster has the jobs, nothing more is proposed."""
    jobs = [Job(str(n), "", (), pathlib.Path(str(n)), {}) for n in range(len(states))]
    known, submitted = {each.artifacts.workdir: s for each, s in zip(jobs, states, strict=True)}, []
    monkeypatch.setattr(sweep, "submit", lambda jobs, root, given: submitted.append(len(jobs)))
    monkeypatch.setattr(sweep, "read", lambda config, root: jobs[: submitted[-1] + 1])
    monkeypatch.setattr(sweep.unit, "read", lambda own: unit.Unit(state=known[own.workdir]))
    holder = lambda value: types.SimpleNamespace(value=value)
    given = types.SimpleNamespace(dry_run=holder(False), config=holder("c.py"))
    with pytest.raises(RuntimeError, match="1 of 3") if "diverged" in states else nullcontext():
        sweep.rounds(jobs[:1], pathlib.Path("runs"), given)
    assert submitted == calls


def setting(config):
    values = config["optim"]["learning_rate"], config["adapter"]["rank"]
    return dict(zip(SPACE, values, strict=True))


def test_optuna_proposes_in_rounds_and_goes_where_it_is_better(job):
    pytest.importorskip("optuna", reason="optuna is not installed: extra optuna")
    jobs = []
    while len(found := proposed(30, jobs, **TPE)) > len(jobs):
        assert found[: len(jobs)] == [setting(config) for config, _ in jobs]
        assert len(found) - len(jobs) <= 3
        assert found == proposed(30, jobs, **TPE)  # again, the same
        for own in found[len(jobs) :]:
            rate, rank = own.values()
            loss = (math.log10(rate) + 4) ** 2 + (rank != 4)
            jobs.append(job(len(jobs), rate, rank, **{METRIC: loss}))
    assert len(jobs) == 30
    late = [math.log10(config["optim"]["learning_rate"]) for config, _ in jobs[20:]]
    assert np.mean(np.abs(np.array(late) + 4)) < 0.5  # of independent draws 0.83
    assert sum(config["adapter"]["rank"] == 4 for config, _ in jobs[20:]) > 5


def test_optuna_waits_for_a_round_and_ends_where_no_setting_is_left(job):
    pytest.importorskip("optuna", reason="optuna is not installed: extra optuna")
    running = [job(n, 1e-3 / (n + 1), state="open") for n in range(3)]
    assert len(proposed(30, running, **TPE)) == 3
    over = {"adapter.rank": (2, 4)}
    jobs = [job(7, 1e-3, 2), job(8, 1e-3, 4, state="failed")]
    assert len(proposed(30, jobs, over=over, **TPE)) == 2


def test_a_search_that_learns_has_no_members(tmp_path):
    path = tmp_path / "c.py"
    text = (
        "from ftjax.launch.lib.space import Searched\n\n\ndef members():\n    return [{}]\n\n\n"
        f"def sweep():\n    return Searched({{'steps': (1, 2)}}, 2, {TPE!r})\n"
    )
    path.write_text(text)
    with pytest.raises(ValueError, match=r"sweep\(\): got a search that learns beside members\(\)"):
        jobs.variants(str(path))
    path.write_text(text.replace("'optuna'", "'random'").replace(", 'at_once': 3, 'startup': 6", "")
                    .replace(f", 'metric': '{METRIC}'", ""))  # fmt: skip
    assert len(jobs.variants(str(path))) == 2
