r"""ORPO on human preferences: fine-tuning and preference in one stage, without a reference.

    python -m experiments.train --config configs/orpo.py:data=DATA --workdir runs/orpo

It may start from a plain base: the likelihood of the chosen answers is part of the loss. See
configs/dpo_hh.py for DATA. `beta` weighs the odds against that likelihood; the paper's 0.1 is for
bases of billions, and leaves the ranking of the embedded one as it was.

Two CPU cores, three minutes; eval/pairs is the share of held-out pairs whose chosen answer is
likelier per token: expect 0.40 -> 0.47 +- 0.03 from the fine-tuned base (docs/preferences.md).
"""

from configs import common


def get_config(arg=None):
    """Return the config."""
    arg = common.parse_preference(arg, beta=10.0)
    c = common.preference(arg, score="likelihood")
    c.objective = dict(name="orpo", beta=arg.beta)
    return common.shrink(c, stand_in=True, kind="preference") if arg.runlocal else c
