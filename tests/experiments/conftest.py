import dataclasses
import json
import pathlib
import shutil

import jax
import pytest

import ftjax
from configs import common
from experiments import running, settings
from ftjax.models import hf, llama
from ftjax.ops import rope

ASSETS = pathlib.Path(ftjax.__file__).parent / "assets" / "tiny"
CONFIG = llama.Config(
    vocab_size=2048, dim=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffw=48, norm_eps=1e-5,
    rope=rope.Rope(1e4), tied=True, qkv_bias=False, qk_norm=False, window=None,
    max_positions=256, init_scale=0.3,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Trained:
    workdir: pathlib.Path
    settings: settings.Settings


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The workdir of a run of three steps with LoRA, on a tiny base of random weights."""
    root = tmp_path_factory.mktemp("run")
    params = llama.make(CONFIG).init(jax.random.key(0))
    hf.save(root / "base", params, family=llama, config=CONFIG)
    for file in ASSETS.glob("tokenizer*.json"):
        shutil.copy(file, root / "base")
    rows = [{"prompt": f"Q: what is {i}?\nA:", "response": f" it is {i}\n"} for i in range(32)]
    (root / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    choices = [dict(prompt=f"{i} is", choices=[" it", " what"], answer=i % 2) for i in range(6)]
    (root / "choices.jsonl").write_text("\n".join(map(json.dumps, choices)))
    chosen = settings.read(config(root))
    running.train(chosen, root / "work")
    return Trained(root / "work", chosen)


def config(root):
    c = common.base()
    c.model.base = str(root / "base")
    c.adapter = dict(name="lora", where="blocks/**", rank=2, alpha=4.0)
    c.data = dict(name="jsonl", path=str(root / "rows.jsonl"), kind="prompt", max_tokens=64)
    c.optim.learning_rate = 0.05
    c.evals.task = dict(name="nll", group="new", data=dict(c.data), rows=8)
    c.evals.answers = dict(name="generate", group="new", data=dict(
        name="jsonl", path=str(root / "rows.jsonl")), rows=4, max_new_tokens=4)  # fmt: skip
    c.evals.old = dict(name="choice", data=dict(name="jsonl", path=str(root / "choices.jsonl")))
    c.steps, c.batch_size = 3, 8
    c.checkpoint.every_steps = 2
    c.checkpoint.keep = 3
    c.checkpoint.best = "eval/task/nll"
    return c
