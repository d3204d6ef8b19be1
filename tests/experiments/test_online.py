"""Online runs: wrong configs and rewards are refused; any mesh learns the same."""

import json
import types

import numpy as np
import pytest

from configs import common
from experiments import online
from ftjax.rl import rollout, rollout_batch
from ftjax.rl.prompts import Prompts
from ftjax.run import config as settings
from tests.lab import metrics


def plain(lab, **changes):
    """Settings of a small online run; changes are dotted keys."""
    c = common.online(lab.config(), prompts=8, samples=2, max_new_tokens=4)
    c.objective = dict(name="grpo")
    c.rewards.exact = dict(name="exact", field="response")
    flat = c.to_dict() | dict(data=lab.raw() | dict(max_tokens=64))
    for key, value in changes.items():
        *parents, name = key.split(".")
        node = flat
        for part in parents:
            node = node[part]
        node[name] = value
    return settings.read(flat)


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"rollout.prompts": 0}, "rollout.prompts: got 0"),
     ({"rollout.temperature": 0.0}, "rollout.temperature: got 0.0"),
     ({"batch_size": 5}, "batch_size: got 5; expected a divisor"),
     ({"rollout.max_new_tokens": 64}, "rollout.max_new_tokens: got 64; expected less than"),
     ({"rewards": {}}, "rewards: got none"),
     ({"advantages": dict(sclae="group")}, "advantages.sclae: unknown key; did you mean 'scale'")],
)  # fmt: skip
def test_wrong_configs_are_refused(changes, told, lab):
    with pytest.raises(ValueError, match=told):
        rollout.check(plain(lab, **changes))


def test_a_config_that_samples_nothing_is_refused(lab):
    with pytest.raises(ValueError, match="rollout: got none; expected a section"):
        rollout.check(lab.settings())


def test_other_prompts_than_those_of_the_position_are_refused(lab):
    def batches(rows):
        prompts = types.SimpleNamespace(rows=rows)
        prompts.digest = Prompts.digest.func(prompts)
        sampler = types.SimpleNamespace(prompts=prompts, batches=types.SimpleNamespace(count=8))
        return rollout.Rollouts(sampler, None, plain(lab))

    rows = [{"prompt": "a", "answer": 1}, {"prompt": "b", "answer": 2}]
    position = json.loads(json.dumps(batches(rows).state()))
    batches(rows).restore(position)
    for other in (rows[:1], rows[::-1], [rows[0], {"prompt": "b", "answer": 3}]):
        with pytest.raises(ValueError, match=r"in other prompts .*--restart_data"):
            batches(other).restore(position)


def test_arrays_survive_json():
    for array in (np.float32([[np.nan, 1e-38], [3, -0.0]]), np.arange(6, dtype=np.int32)):
        found = rollout_batch.unpack(json.loads(json.dumps(rollout_batch.pack(array))))
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_one_device_and_eight_learn_the_same(lab, tmp_path, use_devices):
    found = {}
    for devices in (1, 8):
        use_devices(devices)
        short = {"rewards.short": dict(name="length", max_length=6, unit="characters")}
        chosen = plain(lab, objective=dict(name="ppo"), **short, **{"rollout.epochs": 2})
        online.train(chosen, tmp_path / str(devices))
        found[devices] = metrics(tmp_path / str(devices))
    assert len(found[1]) == len(found[8]) == 3
    for one, eight in zip(found[1], found[8], strict=True):
        for name in ("reward", "answer/tokens", "loss", "loss/value", "kl/base", "grad_norm"):
            assert one[name] == pytest.approx(eight[name], rel=1e-3, abs=1e-5), name
