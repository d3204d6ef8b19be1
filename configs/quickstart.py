r"""Teach the embedded base new facts and a new skill, by LoRA and in full, and see what it forgets.

    scripts/demo.sh
    python -m experiments.compare --config configs/quickstart.py --workdir runs/quickstart
    python -m experiments.train --config configs/quickstart.py:full --workdir runs/full

New: facts about people whom the base has never met, asked in wordings that training does not use,
and a skill that it does not have, on inputs that training does not use. Old: what the base knows.

Two CPU cores, a minute a run. Expect exact match on facts_new 0.09 -> 0.9 and on skill_new 0 -> 1.0
for both, and on the old skills 0.97 -> 0.2 and 0.14.
"""

from configs import common

SKILL = "double"
PEOPLE = 8


def get_config(arg=None):
    """Return the config of one of the two runs; `full` for all weights instead of LoRA."""
    arg = common.parse_arg(arg, full=False, rank=16, steps=300, seed=0, runlocal=False)
    c = common.base()
    common.tune(c, full=arg.full, rank=arg.rank)
    c.optim.learning_rate = 1e-3 if arg.full else 5e-3
    c.seed = dict(data=arg.seed, init=arg.seed, adapter=arg.seed, sampling=arg.seed)
    people = dict(name="embedded", domain="facts", population="new", people=PEOPLE)
    skill = dict(name="embedded", domain="skills", skills=SKILL)
    c.data = dict(
        name="mixture",
        parts=(
            dict(people, form="statements", kind="text", rows=400, weight=1.0, label="facts told"),
            dict(people, form="questions", rows=800, weight=2.0, label="facts asked"),
            dict(skill, rows=1600, weight=2.0, label="skill"),
        ),
        max_tokens=128,
    )
    c.evals.facts_new = dict(
        name="generate", group="new", normalize="squad", data=dict(people, split="test")
    )
    c.evals.skill_new = dict(name="generate", group="new", data=dict(skill, split="test"), rows=64)
    for domain in ("facts", "reading", "skills"):
        held = dict(name="embedded", domain=domain, split="test")
        c.evals[domain] = dict(name="generate", data=held, rows=64, max_new_tokens=12)
        c.evals[domain].normalize = "none" if domain == "skills" else "squad"
    for domain in ("english", "code", "languages"):
        kind = "prompt" if domain == "languages" else "text"
        held = dict(name="embedded", domain=domain, split="test", kind=kind, loss="all")
        c.evals[domain] = dict(name="nll", data=held, rows=32)
    c.samples.prompts = (
        f"Do: {SKILL}\nIn: q w x y\nOut:",
        "Do: reverse\nIn: q w x y\nOut:",
        "Text: Bamo likes to eat rice. Telika likes to eat corn.\nQ: Who likes to eat rice?\nA:",
    )
    c.samples.max_new_tokens = 12
    c.steps, c.batch_size, c.log_every_steps = arg.steps, 16, 20
    c.optim.schedule = dict(name="cosine", warmup_ratio=0.05)
    return common.shrink(c) if arg.runlocal else c


def sweep():
    """List the variants that `experiments.compare` runs."""
    return {"LoRA": "", "full": "full"}
