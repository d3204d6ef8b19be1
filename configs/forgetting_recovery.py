r"""Can what fine-tuning took be brought back, and what does that cost of what it taught?

    python -m experiments.sequential --config configs/forgetting_recovery.py --workdir runs/recovery
    python -m experiments.train --config configs/forgetting_recovery.py --workdir runs/taught

The embedded base is taught a skill, and loses the old ones. Then the same adapter learns them
again: from ten rows of them (`ten`), from a thousand (`many`), or on its own answers from the base,
which is the same model with the adapter off (`distilled`).

Two CPU cores, 36 runs of 40 steps, three seeds. Expect exact match on the old skills of .97, .44
after the skill at 1e-3, and then .95 (`distilled`), .93 (`many`) or .70 (`ten`), of which the first
two take the skill itself from .93 to .06; see docs/forgetting.md.
"""

from configs import common

SKILLS = dict(name="embedded", domain="skills")
ROWS = dict(ten=10, many=1_000)


def get_config(arg=None):
    """Return the config of one stage."""
    arg = common.parse_arg(
        arg, task="skill", how="ten", skill="double", rank=16, steps=40, runlocal=False
    )
    c = common.base()
    common.tune(c, full=False, rank=arg.rank)
    c.data = dict(SKILLS, skills=arg.skill, rows=1_000, max_tokens=48)
    c.steps, c.batch_size, c.log_every_steps = arg.steps, 16, 10
    if arg.task == "recovery":
        c.data = dict(SKILLS, rows=ROWS.get(arg.how, 1_000), max_tokens=48)
        if arg.how == "distilled":
            common.online(c, prompts=16, samples=4, max_new_tokens=12)
            c.objective = dict(name="distillation")
            c.rewards.exact = dict(name="exact")
            c.data.max_tokens, c.batch_size = 96, 64
    keys = dict(name="generate", rows=64, max_new_tokens=12)
    for task, skills in dict(skill=arg.skill, recovery="base").items():
        group = "new" if task == arg.task else "old"
        c.evals[task] = dict(keys, group=group, data=dict(SKILLS, split="test", skills=skills))
    facts = dict(name="embedded", domain="facts", split="test", form="questions")
    c.evals.facts = dict(keys, data=facts)
    c.optim.schedule = dict(name="constant", warmup_steps=2)
    c.eval_every_steps = max(arg.steps // 4, 1)
    return common.shrink(c) if arg.runlocal else c


def study():
    """List what `experiments.sequential` compares."""
    return dict(
        tasks=("skill", "recovery"), carry="continued", recover=("recovery",), seeds=3,
        match=dict(metric="exact_match", fraction=0.5), rates=(1e-3, 3e-3),
        methods=dict(ten="how=ten", many="how=many", distilled="how=distilled"),
        parts=dict(few="ten", distilled="distilled"), sees_old=("ten", "many", "distilled"),
    )  # fmt: skip
