r"""Learn a skill from preferences among one's own samples: online DPO, XPO or Nash-MD.

    python -m experiments.online --config configs/online_dpo_skills.py --workdir runs/online_dpo
    python -m experiments.online --config configs/online_dpo_skills.py:method=xpo --workdir runs/xpo
    python -m experiments.online --config configs/online_dpo_skills.py:method=nash_md \
        --workdir runs/nash

Nobody shows the base the skill. It answers eight times to a prompt, and learns from which of two
answers has the larger reward: its best against its worst (dpo), or its own against the base's (xpo)
or against a mixture's of the two (nash_md).

Two CPU cores, three to five minutes. Expect exact match on inputs that it has not seen, new, and on
the skills that it knew, old (one run each, on one busy core):

    method    new            old             `reward`, of at most 2, passes 1.5 by step
    dpo       0.01 -> 1.00   0.97 -> 0.39    30
    xpo       0.01 -> 0.97   0.97 -> 0.38    60
    nash_md   0.01 -> 1.00   0.97 -> 0.63    30
"""

from configs import common

BETA = dict(dpo=0.1, xpo=0.1, nash_md=0.01)


def get_config(arg=None):
    """Return the config."""
    arg = common.parse_arg(
        arg, method="dpo", loss="sigmoid", skill="swap ends", steps=100, rank=16, rate=1e-3,
        samples=8, seed=0, runlocal=False,
    )  # fmt: skip
    c = common.base()
    common.tune(c, full=False, rank=arg.rank)
    duels = arg.method != "dpo"
    common.online(c, prompts=16 if duels else 32, samples=arg.samples, max_new_tokens=12)
    c.seed = dict(data=arg.seed, init=arg.seed, adapter=arg.seed, sampling=arg.seed)
    c.data = dict(common.held_skill(c, arg.skill), max_tokens=64)
    c.objective = dict(name=arg.method, beta=BETA[arg.method])
    if arg.method != "nash_md":
        c.objective.loss = arg.loss
    c.advantages = dict(scale=4.0) if duels else dict(pairs=1)
    c.rewards.exact = dict(name="exact")
    c.rewards.overlap = dict(name="overlap")
    c.optim.learning_rate = arg.rate
    c.optim.schedule = dict(name="constant")
    c.steps, c.log_every_steps = arg.steps, 10
    c.batch_size = c.rollout.prompts * (arg.samples // 2 if duels else 1)  # one step a round
    return common.shrink(c) if arg.runlocal else c
