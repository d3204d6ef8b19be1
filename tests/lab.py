import dataclasses
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

import ftjax
from configs import common
from experiments import train as train_main
from ftjax.core import mesh as meshes
from ftjax.models.families import llama
from ftjax.models.hf import checkpoint
from ftjax.ops import rope
from ftjax.run import config as settings
from tests import quick

ROOT = pathlib.Path(__file__).resolve().parents[1]
ASSETS = pathlib.Path(ftjax.__file__).parent / "assets" / "tiny"
CONFIG = llama.Config(
    vocab_size=2048, dim=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffw=48, norm_eps=1e-5,
    rope=rope.Rope(1e4), tied=True, qkv_bias=False, o_bias=False, mlp_bias=False,
    qk_norm=False, window=None,
    max_positions=256, init_scale=0.3,
)  # fmt: skip
LONGEST_S = 100  # of a command


@dataclasses.dataclass(frozen=True)
class Lab:
    """A folder with a small base of random weights and data, and configs over them."""

    root: pathlib.Path

    def config(self, **changes):
        """A config without evaluations; changes are dotted keys, a new section is a dict."""
        c = common.base()
        c.model.base = str(self.root / "base")
        c.adapter = dict(name="lora", where="blocks/**", rank=2, alpha=4.0)
        c.data = self.rows(max_tokens=64, packing="none")
        c.optim.learning_rate = 0.01
        c.steps, c.batch_size, c.log_every_steps = 3, 8, 1
        with c.unlocked():
            for key, value in changes.items():
                *parents, name = key.split(".")
                section = functools.reduce(lambda node, part: node[part], parents, c)
                with section.ignore_type():
                    section[name] = value
        return c

    def settings(self, **changes):
        """The same, read."""
        return settings.read(self.config(**changes))

    def rows(self, **more):
        """A data section."""
        return self.raw() | dict(kind="prompt", **more)

    def raw(self):
        """A data section of an evaluation that takes rows as they are."""
        return dict(name="jsonl", path=str(self.root / "rows.jsonl"))

    def run(self, name, workdir, **changes):
        """Train in this process; returns the workdir."""
        return train(self.settings(**changes), workdir / name)


def train(chosen, workdir, **options):
    train_main.train(chosen, workdir, **options)
    return workdir


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """See `Lab`; made once."""
    root = tmp_path_factory.mktemp("lab")
    params = llama.make(CONFIG).init(jax.random.key(0))
    checkpoint.save(root / "base", params, family=llama, config=CONFIG)
    for file in ASSETS.glob("tokenizer*.json"):
        shutil.copy(file, root / "base")
    said = lambda i: " it is" * (1 + i % 4)
    rows = [{"prompt": f"Q: what is {i}?\nA:", "response": f"{said(i)} {i}\n"} for i in range(32)]
    (root / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    choices = [dict(prompt=f"{i} is", choices=[" it", " what"], answer=i % 2) for i in range(6)]
    (root / "choices.jsonl").write_text("\n".join(map(json.dumps, choices)))
    return Lab(root)


@dataclasses.dataclass(frozen=True)
class Trained:
    workdir: pathlib.Path
    settings: settings.Settings


@pytest.fixture(scope="session")
def trained(lab):
    """The workdir of a run of three steps with LoRA and evaluations of every kind."""
    chosen = settings.read(evaluated(lab))
    train_main.train(chosen, lab.root / "work")
    return Trained(lab.root / "work", chosen)


def evaluated(lab, **changes):
    """A config with an evaluation of every kind, samples and checkpoints."""
    return lab.config(**{
        "optim.learning_rate": 0.05,
        "evals.task": dict(name="nll", group="new", data=lab.rows(max_tokens=64), rows=8),
        "evals.answers": dict(
            name="generate", group="new", data=lab.raw(), rows=4, max_new_tokens=4),
        "evals.old": dict(
            name="choice", data=dict(name="jsonl", path=str(lab.root / "choices.jsonl"))),
        "samples.prompts": ("Q: what is 3?\nA:",), "samples.max_new_tokens": 4,
        "checkpoint.every_steps": 2, "checkpoint.keep": 3, "checkpoint.best": "eval/task/nll",
    } | changes)  # fmt: skip


@pytest.fixture
def use_devices(monkeypatch):
    """Let runs see the first n of the fake devices alone."""
    make = meshes.make
    return lambda n: monkeypatch.setattr(
        meshes, "make", functools.partial(make, devices=jax.devices()[:n])
    )


def environment(devices=1):
    """Variables for a command in a process of its own."""
    cache = jax.config.jax_compilation_cache_dir  # None in tests without a cache
    own = {"JAX_COMPILATION_CACHE_DIR": cache} if cache else {}
    return os.environ | quick.variables() | own | dict(
        JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES=str(devices),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0", PYTHONWARNINGS="ignore",
    )  # fmt: skip


def cut_back(workdir, copy, step):
    """Copy a run that has ended as it stood when it had saved a step; returns the copy."""
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / "export")
    for later in (copy / "checkpoints").iterdir():
        if later.name.isdigit() and int(later.name) > step:
            shutil.rmtree(later)
    assert (copy / "checkpoints" / str(step)).is_dir()
    return copy


def start(*arguments, devices=1, main="train"):
    """Start `python -m experiments.<main>` with these arguments."""
    command = [sys.executable, "-m", f"experiments.{main}", *map(str, arguments)]
    pipe = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, cwd=ROOT, env=environment(devices), **pipe)


def finish(process, *, longest=LONGEST_S):
    """Wait for a command; returns (exit code, stdout, stderr), and fails if it hangs."""
    try:
        out, err = process.communicate(timeout=longest)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()  # else its pipes and it itself outlive the test
        raise
    return process.returncode, out, err


def metrics(workdir):
    """Rows of metrics.jsonl, less what depends on the machine."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {name: x for name, x in json.loads(line).items() if not name.startswith("time/")}
        for line in lines
    ]


# -- a study ---------------------------------------------------------------------------------------

# Two tasks that can be learned in four steps, and an old ability.
ANSWERS = dict(a=" it is", b=" what", old=" it is what it is")
STAGE = """
from configs import common

def get_config(arg=None):
    arg = common.parse_arg(arg, task="a", full=False)
    c = common.base()
    c.model.base = ROOT + "/base"
    common.tune(c, full=arg.full, rank=2)
    rows = lambda name: dict(name="jsonl", path=ROOT + "/" + name + ".jsonl")
    c.data = dict(rows(arg.task), max_tokens=32, kind="prompt")
    for label in ("a", "b", "old"):
        group = "new" if label == arg.task else "old"
        c.evals[label] = dict(name="nll", group=group, data=rows(label))
    c.optim.schedule = dict(name="constant")
    c.steps, c.batch_size, c.eval_every_steps, c.log_every_steps = 4, 8, 2, 2
    c.checkpoint.every_steps = 2
    return c

"""


def write_study(lab, root, study):
    """Write the config of a study into `root`, with its rows and base; study: its `study()`."""
    (root / "base").symlink_to(lab.root / "base")
    for name, answer in ANSWERS.items():
        rows = [dict(prompt=f"{name} {i}:", response=f"{answer} {i}\n") for i in range(8)]
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = root / "own.py"
    path.write_text((STAGE + study).replace("ROOT", repr(str(root))))
    return path


@pytest.fixture(scope="module")
def without_cache():
    """Programs of devices that are not here can be written to the cache, and not read from it."""
    folder = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()
