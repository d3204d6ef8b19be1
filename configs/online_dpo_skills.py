r"""Learn a skill from preferences among one's own samples: online DPO, XPO or Nash-MD.

    python -m experiments.online --config configs/online_dpo_skills.py --workdir runs/online_dpo
    python -m experiments.online --config configs/online_dpo_skills.py:method=xpo --workdir runs/xpo
    python -m experiments.online --config configs/online_dpo_skills.py:method=nash_md \
        --workdir runs/nash
"""

from configs import common

METHODS = ("dpo", "xpo", "nash_md")


def get_config(arg=None):
    """Return the config."""
    arg = common.parse_arg(
        arg, method="dpo", loss="sigmoid", beta=0.1, skill="smallest", steps=100, rank=16,
        rate=1e-3, samples=8, seed=0, runlocal=False,
    )  # fmt: skip
    c = common.base()
    common.tune(c, full=False, rank=arg.rank)
    common.online(c, prompts=32, samples=arg.samples, max_new_tokens=8)
    c.seed = dict(data=arg.seed, init=arg.seed, adapter=arg.seed, sampling=arg.seed)
    skill = dict(name="embedded", domain="skills", skills=arg.skill)
    c.data = dict(skill, max_tokens=48)
    c.objective = dict(name=arg.method, beta=arg.beta)
    if arg.method != "nash_md":
        c.objective.loss = arg.loss
    if arg.method == "dpo":
        c.advantages.pairs = 1
    c.rewards.exact = dict(name="exact")
    c.evals.skill = dict(name="generate", group="new", data=dict(skill, split="test"), rows=200)
    c.evals.skills = dict(
        name="generate", group="old", data=dict(name="embedded", domain="skills", split="test"),
        rows=64, max_new_tokens=12,
    )  # fmt: skip
    c.optim.learning_rate = arg.rate
    c.optim.schedule = dict(name="constant")
    c.steps, c.batch_size, c.log_every_steps = arg.steps, 32, 10
    return common.shrink(c) if arg.runlocal else c
