"""Runs of one process that share their parts are the runs that share nothing, to the bit."""

import jax
import numpy as np
import pytest

from experiments import train
from ftjax.core import tree
from ftjax.run import measured, reader
from ftjax.run import plan as plans
from ftjax.run.artifacts import Artifacts
from ftjax.run.shared import Shared
from ftjax.train import compile as compiling
from tests.lab import evaluated, metrics


@pytest.fixture(scope="module")
def shared(lab):
    return Shared(base=str(lab.root / "base"))


def chosen(lab, **changes):
    task = dict(name="nll", group="new", data=lab.rows(max_tokens=64), rows=8)
    return lab.settings(**{"evals.task": task, "optim.learning_rate": 0.05} | changes)


def weights(workdir):
    return tree.paths(reader.load(workdir).params)


@pytest.mark.parametrize("adapter", [{}, {"adapter": dict(name="", where="blocks/**")}])
def test_runs_that_share_are_those_that_do_not(lab, shared, tmp_path, adapter):
    for seed in (0, 1):
        numbers = {"seed.data": seed, "seed.adapter": seed, "optim.learning_rate": 0.01 + seed / 99}
        own = chosen(lab, **adapter, **numbers)
        train.train(own, tmp_path / f"shared{seed}", shared=shared)
    train.train(own, tmp_path / "alone")
    assert metrics(tmp_path / "shared1") == metrics(tmp_path / "alone")
    assert metrics(tmp_path / "shared0") != metrics(tmp_path / "alone")
    one, other = weights(tmp_path / "shared1"), weights(tmp_path / "alone")
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_what_is_shared_and_what_is_not(lab, shared):
    plan = lambda **changes: plans.plan(chosen(lab, **changes), shared=shared)
    first, seed = plan(), plan(**{"seed.data": 5, "seed.adapter": 5, "eval_every_steps": 1})
    assert seed.loader is not first.loader  # it has a position of its own
    assert seed.loader.data is first.loader.data
    assert seed.evaluation is first.evaluation
    assert plans.compiled_step(seed) is plans.compiled_step(first)
    rate, rank = plan(**{"optim.learning_rate": 0.01}), plan(**{"adapter.rank": 4})
    assert rate.evaluation is first.evaluation
    assert plans.compiled_step(rate) is plans.compiled_step(first)
    longer = plan(steps=4)  # the schedule ends later
    unclipped = plan(**{"optim.clip_norm": None})  # no number, but another program
    for other in (rank, longer, unclipped):
        assert plans.compiled_step(other) is not plans.compiled_step(first)
    rows = plan(**{"evals.task.rows": 4})
    assert rows.evaluation is not first.evaluation
    cut = plan(**{"data.max_tokens": 32})
    assert cut.loader.data is not first.loader.data
    assert cut.evaluation is not first.evaluation


def test_seeds_share_evaluations_and_have_samples_of_their_own(lab, shared, tmp_path):
    own = lambda seed: chosen(lab, **{
        "seed.sampling": seed, "samples.prompts": ("Q: what is 3?",), "samples.temperature": 2.0,
        "samples.max_new_tokens": 8,
    })  # fmt: skip
    plan = lambda seed: plans.plan(own(seed), shared=shared)
    assert plan(0).evaluation is plan(1).evaluation
    assert plan(0).loader.data is plan(1).loader.data
    for seed in (0, 1):
        train.train(own(seed), tmp_path / f"shared{seed}", shared=shared)
    train.train(own(1), tmp_path / "alone")
    said = {path.name: Artifacts(path).sample(0).read_text() for path in tmp_path.iterdir()}
    assert said["shared0"] != said["shared1"] == said["alone"]


@pytest.mark.parametrize("adapter", [{}, {"adapter": dict(name="", where="blocks/**")}])
def test_what_runs_begin_with_is_evaluated_once(lab, tmp_path, monkeypatch, adapter):
    shared, seen, measure = Shared(base=str(lab.root / "base")), [], measured.Evaluation.measure
    monkeypatch.setattr(
        measured.Evaluation, "measure",
        lambda self, params, **own: seen.append(params) or measure(self, params, **own),
    )  # fmt: skip
    runs = {
        "first": {}, "rate": {"optim.learning_rate": 0.01}, "sampling": {"seed.sampling": 5},
        "adapter": {"seed.adapter": 5},
    }  # fmt: skip
    counts = {}
    for name, changes in runs.items():
        own = chosen(lab, **adapter, **changes, steps=1)
        train.train(own, tmp_path / name, shared=shared)
        counts[name] = len(seen)
        seen.clear()
    # At the end each is evaluated. Another seed of adapters is other weights, where there are any.
    others = {"first": 2, "rate": 1, "sampling": 2, "adapter": 1 if adapter else 2}
    assert counts == others
    own = chosen(lab, **adapter, **runs["rate"], steps=1)
    train.train(own, tmp_path / "alone")
    for step in (0, 1):
        one, other = (Artifacts(tmp_path / name).scores(step) for name in ("rate", "alone"))
        assert one.read_bytes() == other.read_bytes()


def test_weights_are_told_apart(monkeypatch):
    tree_of = lambda *arrays: {"model": dict(zip("ab", arrays, strict=True)), "adapters": None}
    ones = np.ones((2, 3), np.float32)
    found = [
        measured.digest(each)
        for each in (
            tree_of(ones, ones), tree_of(ones, ones * (1 + 2**-23)), tree_of(ones, ones.T),
            tree_of(ones, jax.numpy.ones((2, 3), jax.numpy.bfloat16)),
            tree_of(ones, None), tree_of(None, ones), {"model": tree_of(ones, ones)},
        )
    ]  # fmt: skip
    assert None not in found
    assert len(set(found)) == len(found)
    assert measured.digest(tree_of(jax.numpy.array(ones), ones.copy())) == found[0]
    monkeypatch.setattr(measured, "MOST_BYTES", ones.nbytes)
    assert measured.digest(tree_of(ones, None)) is not None
    assert measured.digest(tree_of(ones, ones)) is None


def test_adapters_start_by_one_program_and_each_from_its_seed(lab, shared):
    def starts(shared=None, **changes):
        p = plans.plan(chosen(lab, **changes), shared=shared)
        return tree.paths(plans.weights(p)[0].params["adapters"])

    variants = (
        {"seed.adapter": 1}, {"seed.adapter": 2}, {"adapter.rank": 3}, {"adapter.name": "dora"},
        {"adapter.init": "pissa"}, {"adapter.where": "blocks/mlp/**"},
    )  # fmt: skip
    for changes in variants:
        jax.tree.map(np.testing.assert_array_equal, starts(shared, **changes), starts(**changes))
    seeds = [starts(shared, **{"seed.adapter": seed}) for seed in (1, 2)]
    assert any((seeds[0][path] != seeds[1][path]).any() for path in seeds[0])


def test_states_begin_by_one_program_and_each_from_its_seed(lab, shared):
    def begun(shared=None, **changes):
        p = plans.plan(chosen(lab, **changes), shared=shared)
        first, _ = plans.weights(p)
        before = compiling.programs()
        return plans.begin(p, first), compiling.programs() - before

    numbers = lambda state: state._replace(key=jax.random.key_data(state.key))
    begun(shared)
    for changes in ({"seed.sampling": 3}, {"ema_decay": 0.9}, {"optim.name": "lion"}):
        (state, programs), (alone, _) = begun(shared, **changes), begun(**changes)
        jax.tree.map(np.testing.assert_array_equal, numbers(state), numbers(alone))
        # Another seed is no other program; an average and another optimizer are.
        assert bool(programs) == ("seed.sampling" not in changes)


def test_what_is_held_back_is_of_the_rows_of_a_run(lab, shared):
    evals = dict(held=dict(name="nll", group="new", data=dict(name="held_out")))
    plan = lambda share: plans.plan(
        lab.settings(data=lab.rows(max_tokens=64, hold_out=share), evals=evals), shared=shared
    )
    counts = [len(plan(share).evaluation.texts["evals.held"]) for share in (0.1, 0.5)]
    assert counts == [3, 16]


def test_runs_with_other_bases_share_no_comparison_with_them(lab, shared, trained):
    adapted = str(trained.workdir / "export")
    changes = {"evals.task": dict(name="drift", data=lab.rows(max_tokens=64), rows=4)}
    plain = lab.settings(**changes)
    found = plans.plan(plain, shared=shared).evaluation
    # Adapters that do something from the start: alone, a run has no base to compare with.
    with pytest.raises(ValueError, match=r"evals\.task\.name: got 'drift'"):
        plans.plan(lab.settings(**changes, adapter_from=adapted), shared=shared)
    assert plans.plan(plain, shared=shared).evaluation is found


def test_what_trains_is_a_copy(lab, shared):
    full = chosen(lab, adapter=dict(name="", where="blocks/**"))
    read = lambda: plans.weights(plans.plan(full, shared=shared))[0].params
    one, two = tree.paths(read()), tree.paths(read())
    assert all(one[path] is not two[path] for path in one)
    lora = plans.plan(chosen(lab), shared=shared)
    frozen = [tree.paths(plans.weights(lora)[1]["model"]) for _ in range(2)]
    assert all(frozen[0][path] is frozen[1][path] for path in frozen[0])


def test_a_cached_reference_keeps_its_data_to_itself(lab, shared, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "Q:", "chosen": " it is", "rejected": " what"}\n' * 8)
    data = dict(name="jsonl", path=str(pairs), kind="preference", max_tokens=32)
    own = lab.settings(
        data=data, objective=dict(name="dpo", beta=0.1), **{"reference.name": "cached"}
    )
    made = [plans.plan(own, shared=shared).loader.data for _ in range(2)]
    assert made[0] is not made[1]


def test_an_adapter_exports_a_merged_model(lab, tmp_path):
    work = lab.run("run", tmp_path, **{"export.form": "model", "optim.learning_rate": 0.05})
    merged = plans.weights(plans.plan(lab.settings(**{"model.base": str(work / "export")})))[1]
    run = reader.load(work)
    moved = (
        tree.paths(merged["model"])["blocks/mlp/down"]
        - tree.paths(run.base)["model/blocks/mlp/down"]
    )
    assert float(np.abs(moved).max()) > 1e-4
    with pytest.raises(ValueError, match=r"export\.form: got 'modell'; expected one of .*adapter"):
        lab.settings(**{"export.form": "modell"})


def test_evaluations_of_every_kind_are_shared(lab, shared):
    own = lambda seed: plans.plan(
        lab.settings(**{"seed.data": seed}, evals=evaluated(lab).evals.to_dict()), shared=shared
    )
    assert own(0).evaluation is own(1).evaluation


def test_pages_are_handed_to_who_draws_them(lab, tmp_path):
    class Pages:
        def __init__(self):
            self.written = {}

        def write(self, path, *, job, **content):
            self.written[path] = content | {"job": job}

    pages = Pages()
    train.train(chosen(lab), tmp_path / "one", shared=Shared(pages=pages))
    (path,) = pages.written
    assert path == Artifacts(tmp_path / "one").report
    assert not path.exists()
    assert pages.written[path]["title"] == "one"
    assert pages.written[path]["job"] == Artifacts(tmp_path / "one").report_job
    train.train(chosen(lab), tmp_path / "two", shared=Shared())
    assert Artifacts(tmp_path / "two").report.exists()
