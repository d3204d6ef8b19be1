r"""How fast does fine-tuning take away what a model was taught to refuse, and its form of answers?

    python -m experiments.sequential --config configs/forgetting_rules.py --workdir runs/rules
    python -m experiments.train --config configs/forgetting_rules.py:full --workdir runs/planted

The embedded base is taught to refuse requests with a mark and to end every other answer alike; then
a skill, 30 steps of harmless rows that say nothing of either. `replay` has a tenth of the rules'
rows among these, its control `padding_replay` as many more of the skill. Forgotten is, of what was
taught, the refusal; the form of answers and the base's old skills are measured beside it.

Two busy CPU cores, 12 CPU-minutes: 48 runs of 30 steps, three seeds. Expect refusals of .95 after
the first stage of LoRA at 3e-3, .04 after the skill, .96 with replay; see docs/forgetting.md.
"""

from configs import common

TASKS = dict(
    refusal=dict(domain="rules", rule="refusal"), skill=dict(domain="skills", skills="double")
)
RULES = dict(name="embedded", domain="rules")


def get_config(arg=None):
    """Return the config of one stage."""
    arg = common.parse_arg(
        arg, task="refusal", full=False, rank=16, replay=0.0, steps=30, runlocal=False
    )
    c = common.base()
    common.tune(c, full=arg.full, rank=arg.rank)
    c.data = dict(RULES, rows=1_000, max_tokens=48)
    if arg.task == "skill":
        own = dict(name="embedded", rows=1_000, **TASKS["skill"])
        parts = [dict(own, weight=1 - arg.replay, label="new"),
                 dict(RULES, rows=500, weight=arg.replay, label="old")]  # fmt: skip
        c.data = dict(own, max_tokens=48)
        if arg.replay:
            c.data = dict(name="mixture", parts=tuple(parts), max_tokens=48)
    keys = dict(name="generate", rows=64, max_new_tokens=12)
    every = TASKS | dict(format=dict(domain="rules", rule="format"), skills=dict(domain="skills"))
    for label, source in every.items():
        is_new = arg.task == ("refusal" if label == "format" else label)
        held = dict(name="embedded", split="test", **source)
        c.evals[label] = dict(keys, group="new" if is_new else "old", data=held)
    c.optim.schedule = dict(name="constant", warmup_steps=2)
    c.steps, c.batch_size, c.log_every_steps = arg.steps, 16, 10
    c.eval_every_steps = max(arg.steps // 6, 1)
    return common.shrink(c) if arg.runlocal else c


def study():
    """List what `experiments.sequential` compares."""
    return dict(
        tasks=tuple(TASKS), probes=(), match=dict(metric="exact_match", fraction=0.5), seeds=3,
        controls=("none", "padding"),
        methods=dict(full="full", lora="", replay="replay=0.1"), sees_old=("replay",),
        rates=dict(full=(3e-4, 1e-3), lora=(1e-3, 3e-3), replay=(1e-3, 3e-3)),
        parts=dict(full="full", lora="lora", replay="replay"),
    )  # fmt: skip
