r"""Bring back what fine-tuning made a model forget: on-policy distillation from its own base.

    python -m experiments.train --config configs/quickstart.py --workdir runs/quickstart
    python -m experiments.online --config configs/distill_online.py --workdir runs/recovered

The student is what the first command leaves: the embedded base with LoRA, which has learned a new
skill and facts and lost the old skills. It answers prompts of the old skills, and at every token of
its own answers moves to the distribution of the base with the adapters off (GKD with lambda = 1).
No reward is asked; `exact` is measured.

Two CPU cores, about four minutes (the first command: two). Expect exact match on the old skills
0.20 -> 0.92, on the facts that the base knew 0.44 -> 0.53, and on the new facts 0.91 as before; 50
steps do most of it. The new skill, which the base does not have and which is asked in the form of
the old ones, goes with them: 1.0 -> 0.09.
"""

from configs import common, quickstart

STUDENT = "runs/quickstart/export"


def get_config(arg=None):
    """Return the config; `student` is a PEFT adapter over the embedded base, "" a fresh one."""
    arg = common.parse_arg(
        arg, student=STUDENT, beta=1.0, steps=100, rank=16, rate=1e-3, seed=0, runlocal=False
    )
    c = common.base()
    common.tune(c, full=False, rank=arg.rank)
    c.adapter_from = "" if arg.runlocal else arg.student
    common.online(c, prompts=32, samples=2, max_new_tokens=12)
    c.seed = dict(data=arg.seed, init=arg.seed, adapter=arg.seed, sampling=arg.seed)
    c.objective = dict(name="distillation", beta=arg.beta)
    c.rewards.exact = dict(name="exact")
    c.data = dict(name="embedded", domain="skills", max_tokens=96)
    evals = quickstart.get_config().evals
    for label in ("skill_new", "facts_new", "skills", "facts"):
        c.evals[label] = evals[label]
    c.optim.learning_rate = arg.rate
    c.optim.schedule = dict(name="constant")
    c.steps, c.batch_size, c.log_every_steps = arg.steps, 64, 10
    return common.shrink(c) if arg.runlocal else c
