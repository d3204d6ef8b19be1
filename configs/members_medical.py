r"""Fine-tune on medical questions and answers: learning rate x rank x seed, as one program.

    python -m experiments.train --config configs/members_medical.py:data=DATA --workdir runs/members

Twelve LoRA runs over one base: data, evaluations and base are those of `configs/sft_medical.py`,
read once. The rate is chosen on eval/choice, a part of the data that no other number comes from;
a member stops when it has not improved there in three evaluations.

Two CPU cores, 11 minutes beside other work, killed once on the way. eval/choice/nll went from 4.75
to 3.99 (both seeds) at rate 1e-3 and rank 4, to 3.35 and 3.36 at 3e-3 and rank 16, and to 3.04 and
3.05 at 1e-2 and rank 16, the best of the sweep and at its edge.
"""

from configs import common, sft_medical
from ftjax.run.member_settings import Listed, product


def get_config(arg=None):
    """Return the config that members start from; `base=DIR` starts from another model."""
    arg = common.parse_domain(arg, steps=100)
    c = sft_medical.over(arg)
    held = dict(c.evals.medical.data, path=f"{arg.data}/medical/medquad/validation.jsonl.gz")
    c.evals.choice = dict(c.evals.medical, data=held)
    for label in c.evals:
        c.evals[label].rows = 50
    c.samples.prompts = ()
    c.batch_size, c.eval_every_steps, c.checkpoint.every_steps = 8, 25, 25
    return common.shrink(c, stand_in=True) if arg.runlocal else c


def members():
    """List the members: adapters over one base, trained by one program."""
    every = product(lr=(1e-3, 3e-3, 1e-2), rank=(4, 16), seed=range(2))
    return Listed(every, stop=dict(metric="eval/choice/nll", patience=3))
