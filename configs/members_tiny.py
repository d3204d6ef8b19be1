r"""Teach the embedded base a skill with eight LoRA runs at once: two rates, two ranks, two seeds.

    python -m experiments.train --config configs/members_tiny.py --workdir runs/members

`members()` lists them; one program trains all, each in DIR/<member>/, and DIR/report.html compares
them. Without that function the same command would train the one run of `get_config`.

Two CPU cores. After 20 steps expect eval/skill/exact_match 0.06 at the lower rate and rank 4, and
0.8 to 0.9 at the higher rate (one run each).
"""

from configs import common
from ftjax.run.member_settings import product


def get_config(arg=None):
    """Return the config that members start from."""
    arg = common.parse_arg(arg, steps=150, runlocal=False)
    c = common.base()
    common.tune(c, full=False, rank=8)
    c.data = dict(common.held_skill(c, "double"), rows=800, max_tokens=64)
    c.evals.skill.rows, c.evals.skills.rows = 32, 16
    c.optim.schedule = dict(name="cosine", warmup_ratio=0.05)
    c.steps, c.batch_size, c.log_every_steps = arg.steps, 8, 25
    return common.shrink(c) if arg.runlocal else c


def members():
    """List the members: adapters over one base, trained by one program."""
    return product(lr=(2e-3, 8e-3), rank=(4, 16), seed=range(2))
