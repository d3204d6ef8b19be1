r"""Learn a new skill from demonstrations, in the model's own words: on-policy self-distillation.

    python -m experiments.online --config configs/sdft_skills.py --workdir runs/sdft

The student answers prompts; the teacher is the base itself, which is shown a demonstration before
the same prompt (`demo`, a template of the row's fields), and at every token of its own answers the
student moves to what the teacher would say (SDFT, arXiv:2601.19897). As there the teacher follows
the student slowly: it is the run's moving average, which is evaluated and exported too; `follow=0`
lets it stay the base. The embedded base is too small to learn from
what stands in its prompt: with it this shows how a run is written, not what it gains. `base=DIR` is
any other model. Not run for its result yet.
"""

from configs import common


def get_config(arg=None):
    """Return the config."""
    arg = common.parse_arg(
        arg, base="tiny", beta=1.0, steps=100, rank=16, rate=1e-3, skill="double", follow=0.02,
        runlocal=False,
    )  # fmt: skip
    c = common.base()
    c.model.base = arg.base
    common.tune(c, full=False, rank=arg.rank)
    common.online(c, prompts=32, samples=2, max_new_tokens=12)
    c.rollout.demo = "{prompt}{answer}\n{prompt}"
    c.objective = dict(name="distillation", beta=arg.beta)
    if arg.follow:
        c.reference.name, c.ema_decay = "average", 1 - arg.follow
    c.rewards.exact = dict(name="exact")
    c.data = dict(name="embedded", domain="skills", skills=arg.skill, max_tokens=96)
    held = dict(name="embedded", domain="skills", split="test")
    keys = dict(name="generate", max_new_tokens=12)
    c.evals.skill = dict(keys, group="new", rows=64, data=dict(held, skills=arg.skill))
    c.evals.skills = dict(keys, group="old", rows=64, data=held)
    c.optim.learning_rate = arg.rate
    c.optim.schedule = dict(name="constant")
    c.steps, c.batch_size, c.log_every_steps = arg.steps, 64, 10
    return common.shrink(c) if arg.runlocal else c
