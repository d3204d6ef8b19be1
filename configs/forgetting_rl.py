r"""Does learning from rewards forget less than learning from answers, at one score of the skill?

    python -m experiments.sequential --config configs/forgetting_rl.py --workdir runs/rl
    python -m experiments.train --config configs/forgetting_rl.py --workdir runs/sft
    python -m experiments.online --config configs/forgetting_rl.py:method=grpo --workdir runs/grpo

The skill is to put letters into another order, any other: many answers are right. `sft` is shown
one of them, by a rule that nothing says; `grpo` learns from rewards, `rejection` from those of its
samples that are right (RAFT). Scores are exact matches on inputs that training does not use.
`task=smallest` and other held-out skills have one right answer; configs/arena.py compares on that.
A teacher that has both: configs/distill_online.py. 42 runs, 46 CPU-minutes on busy cores.
Expect .06 of the old skills lost by answers, .02 by GRPO, .03 by rejection sampling at the match.
"""

from configs import common
from ftjax.data.worlds import skills

STEPS = dict(sft=40, grpo=60, rejection=60)
SAMPLED = dict(
    grpo=(dict(name="grpo", loss="dr_grpo", limit=8), dict(scale="group")),
    rejection=(dict(name="best_of"), dict(min_reward=1.0)),
)  # fmt: skip


def get_config(arg=None):
    """Return the config of one run."""
    arg = common.parse_arg(
        arg, task="shuffle", method="sft", rank=8, full=False, steps=0, runlocal=False
    )  # fmt: skip
    c = common.base()
    common.tune(c, full=arg.full, rank=arg.rank)
    own = common.held_skill(c, arg.task)
    c.evals.skill.rows, c.evals.skill.max_new_tokens = 64, 8
    for label, group in dict(skill="new", skills="old").items():
        c.evals[f"{label}_nll"] = dict(name="nll", group=group, data=c.evals[label].data, rows=32)
    c.data = dict(own, rows=1_000, max_tokens=48)  # of which SFT makes 1.3 passes
    c.steps, c.batch_size, c.log_every_steps = arg.steps or STEPS[arg.method], 16, 10
    if arg.method in SAMPLED:
        common.online(c, prompts=16, samples=8, max_new_tokens=8)
        c.objective, c.advantages = SAMPLED[arg.method]
        right = "answers" if arg.task in skills.MANY else "answer"
        c.rewards.exact = dict(name="exact", field=right)
        c.batch_size = 64
    c.optim.schedule = dict(name="constant", warmup_steps=2)
    c.eval_every_steps = 5
    return common.shrink(c) if arg.runlocal else c


def study():
    """List what `experiments.sequential` compares."""
    return dict(
        tasks=("shuffle",), seeds=range(1, 7), match=dict(metric="exact_match", fraction=0.4),
        methods=dict(
            sft="method=sft", grpo="method=grpo,steps=80", rejection="method=rejection,steps=80"
        ),
        rates=dict(sft=(5e-4, 1e-3, 2e-3), grpo=(2e-3, 4e-3), rejection=(2e-3, 4e-3)),
        changes=("drift", "spectrum"),
        parts=dict(sft="sft", grpo="grpo", rejection="rejection"),
    )  # fmt: skip
