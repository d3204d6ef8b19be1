r"""A small study of forgetting: two new languages, three methods, two rates each.

    python -m experiments.sequential --config configs/forgetting_smoke.py --workdir runs/smoke
    python -m experiments.train --config configs/forgetting_smoke.py:task=second --workdir runs/one

Small enough to look at how a study is written and what its report says; one seed says nothing
about noise. `forgetting_tiny.py` beside it is the study to learn from.

Two CPU cores, 304 CPU-seconds: 12 runs of 40 steps, and a joint control. Expect old
languages and the first task to fall, at 60 % of what the joint control learned, by 0.13 nats after
full fine-tuning, 0.14 after LoRA and 0.08 after LoRA with a quarter of old rows (one run each).
"""

from configs import common, forgetting_tiny

TASKS = {
    "first": dict(domain="languages", languages=4),
    "second": dict(domain="languages", languages=5),
}
OLD = {"old_languages": dict(domain="languages", languages="base")}


def get_config(arg=None):
    """Return the config of one stage."""
    arg = common.parse_arg(arg, **forgetting_tiny.METHODS, task="first", steps=40)
    c = forgetting_tiny.staged(arg, TASKS, OLD)
    c.eval_every_steps = 6
    return common.shrink(c) if arg.runlocal else c


def study():
    """List what `experiments.sequential` compares."""
    return dict(
        tasks=tuple(TASKS), carry="merged",
        methods=dict(full="full", lora="", replay="replay=0.25"),
        rates=dict(full=(3e-4, 1e-3), lora=(3e-3, 1e-2), replay=(3e-3, 1e-2)),
        match=dict(metric="nll", fraction=0.6), controls=("none", "joint"),
    )  # fmt: skip
