"""Online runs: killed anywhere they go on exactly; wrong configs and rewards are refused."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from configs import common
from experiments import online
from ftjax.rl import rollout, rollout_batch
from ftjax.run import config as settings
from tests.lab import LONGEST_S, ROOT, environment, finish, metrics

CONFIG = """
from configs import common


def get_config():
    c = common.base()
    c.model.base = {base!r}
    c.adapter = dict(name="lora", where="blocks/**", rank=2, alpha=4.0)
    common.online(c, prompts=4, samples=4, max_new_tokens=4)
    c.rollout.epochs, c.rollout.slots, c.rollout.kl_target = 2, 8, 0.1
    c.data = dict(name="embedded", domain="skills", max_tokens=40, rows=20)
    c.objective = dict(name="ppo")
    c.rewards.short = dict(name="length", most=6, unit="characters")
    c.optim.learning_rate = 0.01
    c.steps, c.batch_size, c.log_every_steps, c.checkpoint.every_steps = 16, 8, 1, 3
    return c
"""


@pytest.fixture(scope="module")
def config(lab):
    path = lab.root / "online.py"
    path.write_text(CONFIG.format(base=str(lab.root / "base")))
    return path


def start(config, workdir):
    command = [sys.executable, "-m", "experiments.online", "--config", config, "--workdir", workdir]
    pipe = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([str(c) for c in command], cwd=ROOT, env=environment(), **pipe)


def rows(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def test_killed_inside_a_round_it_ends_as_if_nothing_had_been(config, tmp_path):
    code, _, err = finish(start(config, tmp_path / "whole"))
    assert code == 0, err
    process, limit = start(config, tmp_path / "cut"), time.monotonic() + LONGEST_S
    while rows(tmp_path / "cut") < 8 and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    code, _, err = finish(start(config, tmp_path / "cut"))
    assert code == 0, err
    whole, cut = (metrics(tmp_path / name) for name in ("whole", "cut"))
    assert whole == cut
    # Four steps a round, of one set of answers each; rewards differ between rounds.
    found = [row["reward"] for row in whole]
    assert len(found) == 16
    assert all(len(set(found[at : at + 4])) == 1 for at in range(0, 16, 4))
    assert len(set(found)) > 1
    weights = lambda name: (tmp_path / name / "export" / "adapter_model.safetensors").read_bytes()
    assert weights("whole") == weights("cut")


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


def test_arrays_survive_json():
    for array in (np.float32([[np.nan, 1e-38], [3, -0.0]]), np.arange(6, dtype=np.int32)):
        found = rollout_batch.unpack(json.loads(json.dumps(rollout_batch.pack(array))))
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_one_device_and_eight_learn_the_same(lab, tmp_path, use_devices):
    found = {}
    for devices in (1, 8):
        use_devices(devices)
        short = {"rewards.short": dict(name="length", most=6, unit="characters")}
        chosen = plain(lab, objective=dict(name="ppo"), **short, **{"rollout.epochs": 2})
        online.train(chosen, tmp_path / str(devices))
        found[devices] = metrics(tmp_path / str(devices))
    assert len(found[1]) == len(found[8]) == 3
    for one, eight in zip(found[1], found[8], strict=True):
        for name in ("reward", "answer/tokens", "loss", "loss/value", "kl/base", "grad_norm"):
            assert one[name] == pytest.approx(eight[name], rel=1e-3, abs=1e-5), name
