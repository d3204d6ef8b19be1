"""Commands run in this process, as their command lines would, on one tiny base."""

import importlib
import json

import pytest
from absl import flags

from ftjax.core import config_flag
from tests.lab import metrics

CONFIG = """
from configs import common

PAIRS = dict(name="judged", domain="skills", skills="count", rows=16, max_tokens=48)
KINDS = dict(dpo="preference", reward="preference", kto="unpaired", distillation="prompt")


def get_config(arg=None):
    arg = common.parse_arg(arg, what="sft", base={base!r}, rows={rows!r}, runs="")
    c = common.base()
    c.model.base = arg.base
    c.adapter = dict(name="lora", where="blocks/attn/*", rank=2, alpha=4.0)
    c.data = dict(name="jsonl", path=arg.rows, kind="prompt", max_tokens=32, packing="none")
    c.optim.learning_rate = 0.02
    c.optim.schedule = dict(name="constant")
    c.steps, c.batch_size, c.log_every_steps = 4, 8, 1
    if arg.what in KINDS:
        c.objective = dict(name=arg.what)
    if arg.what == "held":  # all that the optimizer does for weights to stay where they began
        c.adapter, c.trainable = dict(name="", where="blocks/**"), ("model/blocks/attn/*",)
        c.objective = dict(name="talr", tau=2.0)
        c.optim.l2sp, c.optim.layer_decay = 0.5, 0.5
        c.optim.average = dict(every_steps=3, share=0.3)
        c.optim.galore = dict(rank=6, every_steps=2)
    if arg.what == "osf":
        c.adapter = dict(name="osf", where="blocks/attn/*", keep=0.5)
        c.objective, c.optim.sam = dict(name="flow", tau=3.0), dict(rho=0.05)
        c.trainable_layers, c.optim.groups = (1,), [("**/b", dict(lr_scale=0.5, layers=(1,)))]
    if KINDS.get(arg.what) in ("preference", "unpaired"):
        c.data = dict(PAIRS, kind=KINDS[arg.what])
    if arg.what in ("grpo", "ppo", "online_dpo"):
        common.online(c, prompts=4, samples=4, max_new_tokens=4)
        c.rollout.epochs = 2
        c.objective = dict(name=arg.what.removeprefix("online_"))
        c.rewards.short = dict(name="length", max_length=6, unit="characters")
        c.data = dict(name="jsonl", path=arg.rows, max_tokens=32)
        c.batch_size = 2 if arg.what == "online_dpo" else 8
    if arg.runs and arg.what == "dpo":
        c.adapter_from = arg.runs + "/sft/export"
    return c


def stages():
    return dict(sft="what=sft", dpo="what=dpo")
"""


@pytest.fixture(autouse=True)
def one_device(use_devices):
    """Let runs see one device, unless a test asks for more."""
    use_devices(1)


@pytest.fixture(scope="session")
def config(lab):
    """The path of a config of all objectives."""
    path = lab.root / "equivalence.py"
    rows = [json.loads(line) for line in (lab.root / "rows.jsonl").read_text().splitlines()]
    (lab.root / "eight.jsonl").write_text("\n".join(map(json.dumps, rows[:8])))
    path.write_text(CONFIG.format(base=str(lab.root / "base"), rows=str(lab.root / "eight.jsonl")))
    return path


def command(name, *arguments):
    """Run `python -m experiments.<name>` with these arguments."""
    module, known = importlib.import_module(f"experiments.{name}"), set(flags.FLAGS)
    given = module.define()
    own = set(flags.FLAGS) - known  # libraries define theirs when they are imported: those stay
    try:
        texts = [name, *map(str, arguments)]
        flags.FLAGS(config_flag.split_keys(texts) if config_flag.KEYS in flags.FLAGS else texts)
        module.main([name], given)
    finally:
        for flag in own:
            delattr(flags.FLAGS, flag)


def run(config, workdir, what="sft", *, arg="", online=False, **keys):
    """Train as the command line does; `keys` are dotted config keys with __ for the dots."""
    own = [f"--config.{key.replace('__', '.')}={value}" for key, value in keys.items()]
    target = f"--config={config}:what={what}{arg}"
    command("online" if online else "train", target, f"--workdir={workdir}", *own)
    return workdir


def rows(workdir):
    """Rows of the log that hold a training step."""
    return [row for row in metrics(workdir) if "loss" in row]


def weights(workdir):
    """Bytes of what a run exports."""
    [path] = (workdir / "export").glob("*model.safetensors")
    return path.read_bytes()
