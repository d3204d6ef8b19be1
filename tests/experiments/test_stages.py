"""A trained reward model judges as it was trained; the stages of RLHF run in one command."""

import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import online, stages
from ftjax.report import table
from ftjax.rl import rollout
from ftjax.run import reader, reward_model
from tests.experiments.test_online import plain
from tests.lab import LONGEST_S, ROOT, environment, metrics, train

PAIRS = [
    {"prompt": f"Q: {i}?\nA:", "chosen": f" it is {i}", "rejected": f" no {i} at all"}
    for i in range(16)
]


@pytest.fixture(scope="module")
def judge(lab):
    """The workdir of a reward model."""
    (lab.root / "pairs.jsonl").write_text("\n".join(map(json.dumps, PAIRS)))
    data = dict(name="jsonl", path=str(lab.root / "pairs.jsonl"), kind="preference", max_tokens=32)
    own = dict(objective=dict(name="reward"), data=data)
    return train(lab.settings(**own, **{"optim.learning_rate": 0.05, "steps": 8}), lab.root / "rm")


def test_it_scores_answers_as_the_pairs_it_learned_from(judge):
    mix = reward_model.make({"learned": dict(name="model", workdir=str(judge))})
    texts = [row[side] for row in PAIRS for side in ("chosen", "rejected")]
    found = mix(texts, [row for row in PAIRS for _ in range(2)]).values_BF.reshape(-1, 2)
    assert (found[:, 0] > found[:, 1]).mean() > 0.9
    run = reader.load(judge)
    tokenizer, model = run.parts.tokenizer, run.parts.model
    ids = [*tokenizer.encode(PAIRS[3]["prompt"] + PAIRS[3]["chosen"]), tokenizer.eos_id]
    tokens = jnp.asarray([ids])
    x = model.hidden(
        run.params["model"], tokens, positions_BT=jnp.arange(len(ids))[None],
        segments_BT=jnp.ones_like(tokens), adapters=run.params["adapters"],
    )  # fmt: skip
    wanted = float(x[0, -1].astype(jnp.float32) @ run.params["head"]["reward"])
    assert found[3, 0] == pytest.approx(wanted, abs=1e-4)


def test_it_says_what_a_reward_model_is(judge, lab, trained, tmp_path):
    spec = lambda folder: {"learned": dict(name="model", workdir=str(folder))}
    with pytest.raises(ValueError, match=r"which has no config\.json"):
        rollout.check(plain(lab, rewards=spec(tmp_path)))
    with pytest.raises(ValueError, match="objective is 'sft'; expected a run that trains a reward"):
        rollout.check(plain(lab, rewards=spec(trained.workdir)))
    rollout.check(plain(lab, rewards=spec(judge)))


def test_a_policy_learns_from_it_and_is_measured_on_held_out_prompts(judge, lab, tmp_path):
    held = dict(name="reward", group="new", data=lab.raw(), rows=6)
    changes = {
        "rewards": {"learned": dict(name="model", workdir=str(judge))}, "evals": {"held": held},
        "objective": dict(name="ppo"), "batch_size": 8, "steps": 2,
    }  # fmt: skip
    online.train(plain(lab, **changes), tmp_path / "run")
    rows = metrics(tmp_path / "run")
    first, last = (row for row in rows if "eval/held/reward" in row)
    assert first["eval/held/kl"] == 0
    assert last["eval/held/kl"] != 0
    assert first["eval/held/reward"] == first["eval/held/reward_learned"]
    assert [row["reward/learned"] for row in rows if "reward/learned" in row]
    assert np.isfinite(last["eval/held/reward"])


def test_the_stages_build_on_each_other(tmp_path):
    command = [
        sys.executable, "-m", "experiments.stages", "--config", "configs/ppo_hh.py:runlocal",
        "--workdir", str(tmp_path),
    ]  # fmt: skip
    run = lambda: subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=2 * LONGEST_S
    )
    done = run()
    assert done.returncode == 0, done.stderr
    assert [done.stdout.count(f"== {name}") for name in ("sft", "reward", "ppo")] == [1, 1, 1]
    read = lambda name: json.loads((tmp_path / name / "config.json").read_text())
    assert read("reward")["model"]["base"] == f"{tmp_path}/sft/export"
    assert read("ppo")["rewards"]["learned"]["workdir"] == f"{tmp_path}/reward"
    assert json.loads((tmp_path / "ppo" / "summary.json").read_text())["step"] == 2
    assert (tmp_path / "ppo" / "export" / "value_head.safetensors").is_file()


def test_what_a_later_stage_teaches_is_to_come_and_not_old(lab):
    task = lambda group: dict(name="nll", group=group, data=lab.rows(max_tokens=64), rows=4)
    stage = lambda **groups: lab.settings(evals={k: task(group) for k, group in groups.items()})
    chosen = dict(
        first=stage(a="new", b="old", c="old", wiki="old"),
        second=stage(a="old", b="new", c="old", wiki="old"),
        third=stage(a="old", b="old", c="new", wiki="old"),
    )
    marked = stages.mark_later(chosen)
    groups = [[spec["group"] for spec in own.evals.values()] for own in marked.values()]
    assert groups == [
        ["new", "later", "later", "old"], ["old", "new", "later", "old"],
        ["old", "old", "new", "old"],
    ]  # fmt: skip
    assert marked["first"].plain["evals"]["b"]["group"] == "later"
    found = table.table(
        {"before": {"eval/b/nll": 2.0}, "after": {"eval/b/nll": 2.1}}, groups={"b": "later"}
    )
    assert table.table_text(found).splitlines()[1].startswith("later  b")


def test_a_config_without_stages_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"which has no stages\(\)"):
        stages.read("configs/sft.py", tmp_path)
