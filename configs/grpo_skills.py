r"""Learn a skill from its reward alone: GRPO on the embedded base, one held-out skill, exact match.

    python -m experiments.online --config configs/grpo_skills.py --workdir runs/grpo

The base gets the answer right in a few of its samples. Nobody shows it the answers; it samples
eight to a prompt and learns from those that are right. `skill` chooses another skill, `loss`
another variant (dr_grpo, dapo, cispo, gspo, ...).

Two CPU cores, a minute and a half. Expect exact match on inputs that it has not seen 0 -> 0.89;
`reward` passes 0.8 within 20 steps. What it costs the old skills is in the table.
"""

from configs import common


def get_config(arg=None):
    """Return the config."""
    arg = common.parse_arg(
        arg, skill="smallest", loss="dr_grpo", steps=100, rank=16, seed=0, runlocal=False
    )
    c = common.base()
    common.tune(c, full=False, rank=arg.rank)
    common.online(c, prompts=16, samples=8, max_new_tokens=8)
    c.seed = dict(data=arg.seed, init=arg.seed, adapter=arg.seed, sampling=arg.seed)
    c.data = dict(common.held_skill(c, arg.skill), max_tokens=48)
    c.objective = dict(name="grpo", loss=arg.loss, low=0.2, high=0.28)
    if arg.loss == "dr_grpo":
        c.objective.limit = c.rollout.get_ref("max_new_tokens")
    c.advantages.scale = "group"
    c.rewards.exact = dict(name="exact")
    c.optim.learning_rate = 2e-3
    c.optim.schedule = dict(name="constant")
    c.steps, c.batch_size, c.log_every_steps = arg.steps, 64, 10
    return common.shrink(c) if arg.runlocal else c
