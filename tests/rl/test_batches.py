"""What a round becomes for each kind of objective, in small runs of two rounds; wrong configs."""

import types

import numpy as np
import pytest

from experiments import online as online_main
from ftjax.objectives.losses.advantages import Experience
from ftjax.objectives.losses.spec import Spec
from ftjax.rl import (
    answers as drawing,
)
from ftjax.rl import (
    batches,
    rollout_batch,
)
from ftjax.rl import (
    metrics as telling,
)
from ftjax.rl import (
    rollout as rollouts,
)
from ftjax.run import config as settings
from ftjax.run import objective as objectives
from ftjax.sampling.generation import Output
from tests.lab import metrics


def online(lab, **changes):
    """Settings of two rounds of two steps; changes are dotted keys."""
    given = {
        "rollout": dict(
            prompts=16, samples=4, epochs=1, max_new_tokens=4, temperature=1.0, slots=0, until=(),
            faults="raise", kl_target=None, kl_horizon=None, mixture=None,
        ),
        "rewards": {"short": dict(name="length", max_length=6, unit="characters")},
        "data": lab.raw() | dict(max_tokens=32), "advantages": {}, "batch_size": 8, "steps": 4,
    }  # fmt: skip
    return settings.read(_plain(lab, given | changes))


def _plain(lab, changes):
    flat = lab.config().to_dict()
    for key, value in changes.items():
        *parents, name = key.split(".")
        node = flat
        for part in parents:
            node = node[part]
        node[name] = value
    return flat


def run(lab, tmp_path, **changes):
    """Train; returns the rows of metrics of the steps."""
    online_main.train(online(lab, **changes), tmp_path / "run")
    return [row for row in metrics(tmp_path / "run") if "loss" in row]


@pytest.mark.parametrize(
    "objective",
    [dict(name="dpo"), dict(name="simpo"), dict(name="orpo")],
    ids=str,
)
def test_offline_preference_losses_learn_from_pairs_of_samples(objective, lab, tmp_path):
    rows = run(lab, tmp_path, objective=objective)
    assert len(rows) == 4
    for row in rows:
        assert 0 < row["pair/kept"] <= 1
        margin = row["pair/chosen"] - row["pair/rejected"]
        assert row["pair/margin"] == pytest.approx(margin, rel=1e-5)
        assert margin > 0
        assert 0 <= row["reward/flat_groups"] == pytest.approx(1 - row["pair/kept"])
    assert len({row["reward"] for row in rows}) == 2
    if objective == dict(name="dpo"):
        assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
        assert rows[-1]["loss"] != pytest.approx(np.log(2), abs=1e-6)


def test_a_frozen_copy_is_the_reference_of_full_tuning(lab, tmp_path):
    full = {"adapter": dict(name="", where="blocks/**"), "reference.name": "frozen"}
    rows = run(lab, tmp_path, objective=dict(name="dpo"), **full)
    assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    # It is what answers are compared with too: on policy at first, then not.
    assert rows[0]["kl/base"] == pytest.approx(0, abs=1e-4)
    assert abs(rows[-1]["kl/base"]) > 1e-4


@pytest.mark.parametrize("name", ["xpo", "nash_md"])
def test_duels_are_halves_of_a_prompts_samples(name, lab, tmp_path, monkeypatch):
    seen, of_round = [], telling.of_round
    watch = lambda e, *args, **more: seen.append(e) or of_round(e, *args, **more)
    monkeypatch.setattr(telling, "of_round", watch)
    rows = run(lab, tmp_path, objective=dict(name=name), batch_size=16)
    assert len(rows) == 4
    for row in rows:
        assert 0 <= row["duel/wins"] + row["duel/ties"] <= 1
        assert 0 <= row["duel/other"] <= 1
    # Sixteen prompts and two duels to each: two steps a round.
    assert [rows[0]["reward"], rows[2]["reward"]] == [rows[1]["reward"], rows[3]["reward"]]
    assert rows[0]["reward"] != rows[2]["reward"]
    assert all(np.isfinite(row["loss"]) for row in rows)
    # In the second round the policy has left the reference, which alone is XPO's rival.
    e = seen[1]
    away_QN = np.abs((e.logps_BT - e.ref_logps_BT) * e.mask_BT).max(-1).reshape(-1, 4)
    assert away_QN[:, :2].max() > 1e-2
    assert (away_QN[:, 2:].max() < 1e-3) == (name == "xpo")


def test_a_distilled_student_needs_no_rewards(lab, tmp_path):
    teacher = dict(name="model", base=str(lab.root / "base"), folder="")
    changes = {"adapter": dict(name="", where="blocks/**"), "rewards": {}, "reference": teacher}
    rows = run(lab, tmp_path, objective=dict(name="distillation", beta=1.0), **changes)
    assert "reward" not in rows[0]
    assert rows[0]["loss"] == pytest.approx(0, abs=1e-5)  # the student starts as its teacher
    assert rows[0]["answer/tokens"] > 0


# -- batches ---------------------------------------------------------------------------------------


def experience(rewards_B, *, samples):
    zeros = np.zeros((len(rewards_B), 5), np.float32)
    return Experience(
        np.float32(rewards_B)[:, None], (1.0,), samples, zeros, zeros, zeros, None, 1.0
    )  # fmt: skip


def rows(count):
    """A batch whose tokens are the numbers of its rows."""
    number = np.broadcast_to(np.arange(count, dtype=np.int32)[:, None], (count, 6))
    names = ("tokens", "weights", "segments", "positions", "old_logps")
    return dict.fromkeys(names, number)


def teach(lab, rewards, **changes):
    chosen = online(lab, **changes)
    found = batches.make(chosen, objectives.module_of(chosen))
    samples = chosen.rollout.samples
    batch, told = found.make(experience(rewards, samples=samples), rows(len(rewards)))
    assert len(batch["examples"]) == len(rewards) // samples * found.count // 16
    return batch, told


NAN = np.nan


def test_a_batch_of_pairs_is_best_against_worst(lab):
    given = {"objective": dict(name="dpo"), "rollout.samples": 3}
    batch, told = teach(lab, [1, 0, 2, NAN, 3, 3, 4, NAN, 6], **given)
    np.testing.assert_array_equal(batch["tokens"][..., 0], [[2, 1], [0, 0], [8, 6]])
    np.testing.assert_array_equal(batch["examples"], [[1], [0], [1]])
    assert batch["weights"].shape == (3, 2, 6)
    assert told == pytest.approx(
        {"pair/chosen": 4, "pair/rejected": 2, "pair/margin": 2, "pair/kept": 2 / 3}
    )


def test_a_batch_of_flat_groups_weighs_nothing(lab):
    batch, told = teach(lab, [1, 1, 1, 1] + [NAN] * 4, objective=dict(name="dpo"))
    np.testing.assert_array_equal(batch["examples"], [[0], [0]])
    assert set(told.values()) == {0.0}


def test_own_answers_meet_those_of_the_rival(lab):
    batch, told = teach(lab, [1, 0, 1, 3, NAN, 2, 0, 0], objective=dict(name="xpo"))
    np.testing.assert_array_equal(batch["tokens"][..., 0], [[0, 2], [1, 3], [4, 6], [5, 7]])
    wanted = 1 / (1 + np.exp([0, 3, 0, -2]))
    np.testing.assert_allclose(batch["probability"][:, 0], wanted, rtol=1e-6)
    np.testing.assert_array_equal(batch["examples"], np.ones((4, 1)))
    assert told == pytest.approx({"duel/other": 1, "duel/wins": 0.25, "duel/ties": 0.5})


def test_rows_of_a_prompt_stand_together():
    side = lambda first: Output(*[np.arange(first, first + 4)] * 3)
    found = drawing.interleave([side(0), side(10)], prompts=2)
    np.testing.assert_array_equal(found.lengths, [0, 1, 10, 11, 2, 3, 12, 13])
    assert rollout_batch.together(rows(4), np.array([[3, 1]]))["tokens"][0, :, 0].tolist() == [3, 1]


# -- what is wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [(dict(objective=dict(name="kto")), "objective.name: got 'kto', .* of kind 'unpaired'"),
     (dict(objective=dict(name="sft")), "objective.name: got 'sft', .* of kind 'tokens'"),
     ({"objective": dict(name="dpo"), "rewards": {}}, "rewards: got none"),
     ({"objective": dict(name="dpo"), "batch_size": 32},
      "batch_size: got 32; expected a divisor of rollout.prompts x advantages.pairs = 16;"),
     ({"objective": dict(name="dpo"), "advantages": dict(pairs=3)}, "pairs 3.* 1 to 2 pairs"),
     ({"objective": dict(name="dpo"), "advantages": dict(min_margin="a")},
      "advantages.min_margin: got 'a'"),
     ({"objective": dict(name="dpo"), "reference.name": "cached"}, "reference.name: got 'cached'"),
     ({"objective": dict(name="dpo"), "rollout.samples": 1}, "expected 1 to 0 pairs of 1 samples"),
     ({"objective": dict(name="xpo"), "rollout.samples": 3}, "rollout.samples: got 3 for .*xpo;"),
     ({"objective": dict(name="xpo"), "rollout.mixture": 0.0}, "rollout.mixture: got 0.0"),
     ({"objective": dict(name="dpo"), "rollout.mixture": 0.5}, "mixture: got 0.5 for .*dpo"),
     ({"objective": dict(name="grpo"), "rollout.kl_target": 1.0}, "rollout.kl_target: got 1.0"),
     ({"objective": dict(name="rloo"), "advantages": dict(kl_weight=0.0), "rollout.kl_target": 1.0},
      "rollout.kl_target: got 1.0 with"),
     ({"objective": dict(name="ppo"), "rollout.kl_horizon": 9}, "kl_horizon: got 9 without"),
     ({"objective": dict(name="dpo"), "rollout.rescore": True}, "rollout.rescore: got True with"),
     ({"objective": dict(name="grpo"), "rollout.missing_eos_penalty": 1.0,
       "rollout.mask_truncated": True}, "rollout.missing_eos_penalty: got 1.0 with mask_truncated"),
     ({"objective": dict(name="nash_md"), "advantages": dict(pairs=1)},
      "advantages.pairs: unknown key"),
     ({"objective": dict(name="distillation"), "advantages": dict(scale=1.0)},
      "advantages: got scale for .*distillation")],
    ids=lambda x: str(x)[:50],
)  # fmt: skip
def test_wrong_configs_are_refused(changes, told, lab):
    with pytest.raises(ValueError, match=told):
        rollouts.check(online(lab, **changes))


def raising():
    """A reward function that raises."""
    return lambda text, row: 1 / 0


def unknown():
    """A reward function that returns NaN."""
    return lambda text, row: NAN


@pytest.mark.filterwarnings("ignore:loop. the gradient is zero")  # nothing is rewarded
@pytest.mark.parametrize(
    ("name", "function", "told"),
    [("dpo", raising, "raised ZeroDivisionError"), ("xpo", unknown, "returned nan")],
)
def test_a_reward_function_at_fault_stops_the_run_or_is_skipped(
    name, function, told, lab, tmp_path
):
    mine = {"mine": dict(name=f"{__name__}.{function.__name__}")}
    given = dict(objective=dict(name=name), rewards=mine, steps=2)
    with pytest.raises(ValueError, match=f"rewards.mine: {told}"):
        run(lab, tmp_path / "raise", **given)
    found = run(lab, tmp_path / "skip", **given | {"rollout.faults": "skip"})
    assert found[0]["reward/skipped"] == 64
    told = found[0]["pair/kept"] if name == "dpo" else 1 - found[0]["duel/ties"]
    assert told == 0


def test_another_mixture_may_be_told(lab):
    chosen = online(lab, **{"objective": dict(name="xpo"), "rollout.mixture": 0.25})
    assert drawing.share_of(chosen.rollout, objectives.module_of(chosen)) == 0.25
    assert drawing.own_samples(chosen.rollout, objectives.module_of(chosen)) == 2


def test_the_rival_is_the_reference_unless_an_objective_says_otherwise(lab):
    rollout = online(lab, objective=dict(name="xpo")).rollout
    kinds = {"duel": 1.0, "preference": None}
    for kind, share in kinds.items():
        assert drawing.share_of(rollout, types.SimpleNamespace(SPEC=Spec(data=kind))) == share
    mine = types.SimpleNamespace(SPEC=Spec(data="duel", rival=0.2))
    assert drawing.share_of(rollout, mine) == 0.2


def test_rows_that_are_not_kept_have_no_targets():
    batch = {"weights": np.ones((2, 3), np.float32)}
    found = rollout_batch.spread({"keep": np.float32([1, 0]), "more": 1}, batch)
    np.testing.assert_array_equal(found.pop("weights"), [[1, 1, 1], [0, 0, 0]])
    assert found == {"more": 1}
    assert rollout_batch.spread({"advantages": 2}, batch) == {"advantages": 2}


def test_answers_without_an_end_are_left_out_or_pay():
    values, finished = np.float32([[1, NAN], [2, 3], [NAN, NAN]]), np.array([True, False, False])
    ends = lambda **how: rollout_batch.judge_ends(values, finished, **how)
    np.testing.assert_array_equal(ends(leave_out=False, penalty=None), values)
    np.testing.assert_array_equal(
        ends(leave_out=True, penalty=None), np.float32([[1, NAN], [NAN, NAN], [NAN, NAN]])
    )
    np.testing.assert_array_equal(ends(leave_out=False, penalty=0.5)[:, 2], [0, -0.5, NAN])


def test_tokens_behind_a_stop_string_are_not_trained_on(lab, tmp_path, monkeypatch):
    """Nor is an answer that came to no end, where those are left out."""
    seen, of_round = [], telling.of_round
    watch = lambda e, output, **more: seen.append((e, output, more)) or of_round(e, output, **more)
    monkeypatch.setattr(telling, "of_round", watch)
    stops = ("e", "a", "i", "o", " ")
    end = {"rollout.until": stops, "rollout.mask_truncated": True, "steps": 1}
    run(lab, tmp_path, objective=dict(name="grpo"), **end)
    ((e, output, more),) = seen
    finished = more["finished_B"]
    assert finished.any()
    assert output.lengths[finished].min() < 4
    wanted = np.where(finished, output.lengths, 0)
    np.testing.assert_array_equal(e.mask_BT.sum(-1), wanted)
    assert np.isnan(np.asarray(e.rewards_BF)[~finished]).all()


def test_the_temperature_of_a_run_is_that_of_its_ratios(lab, tmp_path):
    rows = run(lab, tmp_path, objective=dict(name="grpo"), steps=1, **{"rollout.temperature": 0.5})
    assert rows[0]["ratio"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_the_first_ratio_is_1_in_bfloat16_too(name, lab, tmp_path):
    """The sampler's own probabilities are a hundred times farther away."""
    given = {"objective": dict(name=name), "steps": 1, "model.compute_dtype": "bfloat16"}
    (row,) = run(lab, tmp_path / "rescored", **given)
    assert row["ratio"] == pytest.approx(1, abs=1e-3)
    assert row["sampler/gap"] > 1e-3
    (row,) = run(lab, tmp_path / "sampled", **given, **{"rollout.rescore": False})
    assert "sampler/gap" not in row
    assert abs(row["ratio"] - 1) > 1e-5


def test_a_temperature_of_its_own_is_refused(lab):
    with pytest.raises(ValueError, match=r"objective\.temperature: got a value"):
        objectives.make(online(lab, objective=dict(name="grpo", temperature=0.7)))
