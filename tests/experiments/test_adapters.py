"""Runs with other adapters than LoRA from a config: budgets, past tasks, starts, groups."""

import json

import numpy as np
import pytest
import safetensors.numpy

from configs import adapters_medical
from ftjax.adapters.lib import protocol
from ftjax.adapters.multi import catalogue
from ftjax.adapters.peft import io as peft
from ftjax.core import tree
from ftjax.run import build as setup
from ftjax.run import config as settings
from ftjax.run import plan as running
from ftjax.run import reader
from ftjax.train import state as states
from ftjax.train.policy import Policy
from tests.lab import metrics


@pytest.mark.parametrize(
    "method", [*catalogue.names(), *adapters_medical.STARTS, *adapters_medical.BASE]
)
def test_a_config_of_every_method_builds(method):
    config = adapters_medical.get_config(f"method={method},runlocal")
    adapters = setup.build(settings.read(config)).abstract["adapters"]
    assert bool(adapters) == (method not in adapters_medical.BASE)


def exported(workdir):
    config = json.loads((workdir / "export" / peft.CONFIG).read_text())
    return config, safetensors.numpy.load_file(workdir / "export" / peft.WEIGHTS)


@pytest.fixture(scope="module")
def pissa(lab):
    """PiSSA with another rank at some paths."""
    groups = (("blocks/mlp/*", dict(rank=1)),)
    return lab.run("pissa", lab.root, **{"adapter.init": "pissa", "adapter.groups": groups})


def test_a_displaced_start_trains_over_the_same_base(lab, pissa):
    config, tensors = exported(pissa)
    assert (config["init_lora_weights"], config["use_dora"]) == (True, False)
    ranks = {name: t.shape[0] for name, t in tensors.items() if name.endswith("lora_A.weight")}
    wanted = {name: 2 if ".mlp." in name else 4 for name in ranks}
    assert ranks == wanted
    run = reader.load(pissa)
    again = peft.load(
        pissa / "export", linears=run.parts.model.linears, names=run.parts.family.NAMES
    )
    merged = (
        protocol.merge(run.params["model"], adapters, run.parts.model.linears)
        for adapters in (run.params["adapters"], again)
    )
    for ours, theirs in zip(*(tree.paths(m).values() for m in merged), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_adalora_gives_ranks_up(lab, tmp_path):
    workdir = lab.run(
        "adalora", tmp_path,
        **{
            "adapter.name": "adalora", "optim.ranks": dict(target_rank=1, final_steps=1),
            "penalties": dict(svd=dict(name="orthogonal", weight=0.1)),
        },
    )  # fmt: skip
    config, tensors = exported(workdir)
    values = [tensor for name, tensor in tensors.items() if name.endswith("lora_E")]
    assert config["peft_type"] == "ADALORA"
    assert sum(int((v != 0).sum()) for v in values) == len(values)
    assert all(row["penalty/svd"] > 0 for row in metrics(workdir))


def test_a_new_task_on_top_of_a_past_one(lab, tmp_path, pissa):
    past, run = str(pissa / "export"), reader.load(pissa)
    penalties = dict(apart=dict(name="olora", weight=0.1))
    changes = {"adapter.past": (past,), "penalties": penalties}
    settings = lab.settings(**changes)
    state, frozen = running.arrays(plan := running.plan(settings))
    start = states.combine(state.params, frozen)
    batch = next(plan.loader)
    score = lambda params: Policy(plan.parts.model, params, 64).logps(batch)
    np.testing.assert_allclose(score(start), score(run.params), rtol=1e-4, atol=1e-4)
    workdir = lab.run("after", tmp_path, **changes)
    before, after = exported(pissa)[1], exported(workdir)[1]
    for name, tensor in before.items():
        if name.endswith("lora_A.weight"):
            np.testing.assert_array_equal(after[name][2:], tensor)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"adapter.groups": (("blocks/mpl/*", dict(rank=1)),)},
            r"adapter\.groups: got the pattern",
        ),
        ({"adapter.groups": (("blocks/mlp/*", dict(rnk=1)),)}, r"adapter\.groups.*rnk: unknown"),
        ({"adapter.init": "pizza"}, r"adapter\.init: got 'pizza'; did you mean 'pissa'"),
        ({"penalties": dict(p=dict(name="olora", weight=1.0))}, "got olora and no adapter"),
        ({"penalties": dict(p=dict(name="passt", weight=1.0))}, r"penalties\.p\.name: got 'passt'"),
        ({"optim.ranks": dict(target_rank=1)}, r"optim\.ranks: got parameters without"),
        ({"adapter.past": ("absent",)}, "absent.*: no such file"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(lab, changes, message):
    with pytest.raises(ValueError, match=message):
        running.plan(lab.settings(**changes))
