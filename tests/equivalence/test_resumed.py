"""A run that was cut behind a checkpoint goes on as the one that was not, bit for bit."""

import shutil

import pytest

from tests.equivalence.conftest import command, metrics, run, weights

OFFLINE = ("sft", "dpo", "kto", "reward", "distillation", "held", "osf")
ONLINE = ("grpo", "ppo", "online_dpo")


def cut(workdir, other, *, step):
    """Copy a workdir as if its process had died behind the checkpoint of a step."""
    shutil.copytree(workdir, other)
    for path in other.iterdir():
        if path.name in ("export", "summary.json", "report.html"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for folder in (other / "checkpoints").iterdir():
        if folder.name.isdigit() and int(folder.name) > step:
            shutil.rmtree(folder)
    return other


@pytest.mark.parametrize("what", [*OFFLINE, *ONLINE])
def test_resumed_is_straight(what, config, tmp_path):
    """Online runs are cut inside a round: a round is of two steps an epoch."""
    step = 2 if what in OFFLINE else 3
    keys = dict(checkpoint__every_steps=step, online=what in ONLINE)
    whole = run(config, tmp_path / "whole", what, **keys)
    other = cut(whole, tmp_path / "cut", step=step)
    assert not (other / "export").exists()
    run(config, other, what, **keys)
    assert metrics(other) == metrics(whole)
    assert weights(other) == weights(whole)
    assert len({row["loss"] for row in metrics(whole) if "loss" in row}) > 1


def test_stages_go_on_where_they_stopped(config, tmp_path):
    own = config.parent / "stages.py"
    own.write_text(config.read_text().replace("c.steps,", "c.checkpoint.every_steps, c.steps,")
                   .replace("= 4, 8, 1", "= 2, 4, 8, 1"))  # fmt: skip
    runs, whole = tmp_path / "runs", tmp_path / "whole"
    call = lambda: command("stages", f"--config={own}", f"--workdir={runs}")
    call()
    shutil.copytree(runs, whole)
    shutil.rmtree(runs / "dpo")
    cut(whole / "dpo", runs / "dpo", step=2)
    call()
    for stage in ("sft", "dpo"):
        assert metrics(runs / stage) == metrics(whole / stage)
        assert weights(runs / stage) == weights(whole / stage)
