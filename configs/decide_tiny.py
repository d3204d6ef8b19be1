r"""New facts and a new skill for the embedded base: prompt, retrieve, or fine-tune?

    python -m experiments.decide --config configs/decide_tiny.py --workdir runs/decide
    python -m experiments.decide --config configs/decide_tiny.py:people=64 --workdir runs/many

Facts are about people whom the base has never met, stated in passages of two facts each, and asked
in wordings that training does not use; the skill has inputs that training does not use. Old
abilities are asked with every arm's prompt in front of them. `queries`, `updates`: what the verdict
is for; costs are in FLOPs.

Measured on two CPU cores at `seeds=1,people=8,steps=150,max_tokens=128,limit=64`, one seed: facts
.094 without passages, .797 with four of them, .938 after training; the skill 0 without training and
.984 with it (docs/decide.md has the rest). The size that stands here has not been run. At 7B and
more, training does not memorise a corpus as it does these few people.
"""

from configs import common, decide
from ftjax.decide import config as decisions

SKILL = "double"


def get_config(arg=None):
    """Return the config; `smoke` is what a test runs."""
    arg = common.parse_arg(
        arg, people=16, steps=300, seeds=3, rank=16, queries=1000.0, updates=0.0, limit=128,
        base="tiny", max_tokens=160, arms="+".join(decide.ARMS), smoke=False, runlocal=False,
    )  # fmt: skip
    c = decisions.defaults()
    people = dict(name="embedded", domain="facts", population="new", people=arg.people)
    skill = dict(name="embedded", domain="skills", skills=SKILL, normalize="none")
    asked = dict(people, form="questions")
    c.train.facts = dict(asked, rows=800, weight=2.0)
    c.train.skill = dict(skill, rows=1600, weight=2.0)
    c.train.told = dict(people, form="statements", kind="text", rows=400, weight=1.0)
    c.test.facts = dict(asked, split="test", limit=arg.limit)
    c.test.skill = dict(skill, split="test", rows=64)
    for domain in ("facts", "reading", "skills"):
        held = dict(name="embedded", domain=domain, split="test", limit=64)
        c.old[domain] = dict(held, normalize="none" if domain == "skills" else "squad")
    c.passages = dict(people, form="passages")
    for name in ("lora", "full"):
        c.runs[name] = decide.run(arg, full=name == "full")
        c.runs[name].optim.learning_rate = 1e-3 if name == "full" else 5e-3
        c.runs[name].log_every_steps = 20
    for name in arg.arms.split("+"):
        c.arms[name] = dict(name=name)
    c.seeds, c.max_new_tokens = tuple(range(arg.seeds)), 12
    c.prices = dict(queries=arg.queries, updates=arg.updates)
    return decide.shrink(c) if arg.smoke or arg.runlocal else c
