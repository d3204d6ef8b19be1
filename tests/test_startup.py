"""Importing ftjax is nearly free: nobody waits for libraries that their command does not use."""

import json
import pathlib
import resource
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
HEAVY = ("flax", "matplotlib", "ml_collections", "orbax", "tensorflow_datasets")
SCRIPT = """
import json, sys, time
times = [time.perf_counter()]
for name in sys.argv[1:]:
    __import__(name)
    times.append(time.perf_counter())
seconds = [b - a for a, b in zip(times, times[1:])]
print(json.dumps(dict(seconds=seconds, loaded=[n for n in sys.modules if "." not in n])))
"""


@pytest.fixture(scope="module")
def started():
    names = ["jax", "ftjax", "ftjax.core.tree", "ftjax.core.config"]
    command = [sys.executable, "-W", "error", "-c", SCRIPT, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout)


def test_importing_ftjax_takes_less_than_a_second_more_than_jax(started):
    _, package, tree, conf = started["seconds"]
    assert package + tree + conf < 1.0


def test_importing_ftjax_loads_nothing_heavy(started):
    assert "jax" in started["loaded"]
    assert not set(HEAVY) & set(started["loaded"])


# Wrong commands: (arguments, what the one line must say).
WRONG = [
    ("--config=configs/sft.py --dry_run --config.optim.learning_rat=1", "learning_rate"),
    (
        "--config=configs/sft.py --dry_run --config.steps=abc",
        "config.steps: got 'abc'; expected int",
    ),
    ("--config=configs/sft.py:rnk=3 --dry_run", "did you mean 'rank'"),
    ("--config=configs/absent.py --dry_run", "configs/absent.py"),
    ("--config=configs/sft.py --dryrun", "dryrun"),
    ("--dry_run", "--config must have a value"),
    (
        "--config=configs/sft.py --workdir=gz://b/run",
        "--workdir: got 'gz://b/run', which cannot be",
    ),
    ("--config=configs/sft.py --dry_run --config.steps=0", "steps: got 0; expected at least 1"),
    ("--config=configs/sft.py --dry_run --config.compile=x", "compile: got 'x'; expected one of"),
]
BUDGET_S = 2.5


def command(text):
    """Run the command; returns it and the seconds of the processor: the machine may be busy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "experiments.train", *text.split()], cwd=ROOT, timeout=60,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_a_wrong_command_ends_soon_in_one_line(arguments, message):
    done, seconds = command(arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert seconds < BUDGET_S


def test_help_is_quick_and_names_the_flags():
    done, seconds = command("--help")
    assert seconds < BUDGET_S
    for text in ("--workdir", "--config", "--[no]dry_run", "python -m experiments.train --config"):
        assert text in done.stdout, text


def test_what_is_wrong_with_a_plan_is_one_line_too():
    done, _ = command(
        "--config=configs/sft.py:path=absent.jsonl --dry_run --config.model.base= "
        "--config.model.preset=tiny --config.tokenizer=tiny"
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: data.path: got 'absent.jsonl'; expected")


def test_what_is_raised_under_jit_is_one_line_too():
    """A pattern is matched while the first state is traced: jax annotates what is raised there."""
    done, _ = command("--config=configs/sft.py --dry_run --config.optim.no_decay=('**nrm',)")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: optim.no_decay: got the pattern '**nrm'")


def test_wrong_usage_is_one_line():
    done, _ = command("--config=configs/sft.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --workdir: got none; expected a directory for the run\n"


def test_a_fault_of_the_program_shows_its_traceback(tmp_path):
    (tmp_path / "c.py").write_text("def get_config():\n    return 1 / 0\n")
    done, _ = command(f"--config={tmp_path}/c.py --dry_run")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr
