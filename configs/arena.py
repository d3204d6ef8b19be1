r"""Which adapter method forgets least for what it learns, from answers and from rewards?

    python -m experiments.sequential --config configs/arena.py --workdir runs/arena
    python -m experiments.train --config configs/arena.py:peft=oft --workdir runs/oft
    python -m experiments.online --config configs/arena.py:peft=oft,method=grpo --workdir runs/grpo

PEFT-Arena (arXiv:2605.28819) plots general against target score, one run a method: OFT on its
front, PiSSA at its bottom. Here each has a sweep of rates and three seeds, at about equal
parameters, so that a difference stands beside its noise floor. Runs by answers alone:
`--methods '*_sft'`, 42 of 84. Target and general are a held-out skill of the embedded base and its
old ones.

Two busy CPU cores, about three hours. Expect, where 70 % is learned, .06 of the old skills lost by
OFT and .10 by LoRA from answers, .06 by LoRA and .07 by OFT from rewards; see docs/forgetting.md.
"""

from configs import common, forgetting_rl
from ftjax.adapters.multi import catalogue

PEFT = ("lora", "pissa", "dora", "oft", "vera")
FAST = ("vera",)  # trains vectors alone, at higher rates


def get_config(arg=None):
    """Return the config of one run."""
    arg = common.parse_arg(
        arg, task="smallest", peft="lora", method="sft", rank=8, runlocal=False
    )  # fmt: skip
    own = f"task={arg.task},method={arg.method},rank={arg.rank}"
    c = forgetting_rl.get_config(own)
    start = dict(init="pissa") if arg.peft == "pissa" else {}
    name = "lora" if start else arg.peft
    if arg.peft != "lora":
        settings = catalogue.example(name, rank=arg.rank) | start
        c.adapter = dict(name=name, where="blocks/**", **settings)
    return common.shrink(c) if arg.runlocal else c


def study():
    """List what `experiments.sequential` compares."""
    methods = {
        f"{peft}_{method}": f"peft={peft},method={method}"
        for method in ("sft", "grpo")
        for peft in PEFT
    }
    sweep = lambda name: (1e-2, 3e-2) if name.startswith(FAST) else (1e-3, 2e-3, 4e-3)
    return dict(
        tasks=("smallest",), seeds=3, match=dict(metric="exact_match", fraction=0.7),
        methods=methods, rates={name: sweep(name) for name in methods},
        changes=("drift", "spectrum", "states"),
        parts=dict(sft="lora_sft", grpo="lora_grpo") | {peft: f"{peft}_sft" for peft in PEFT},
    )  # fmt: skip
