r"""SimPO on human preferences: rewards per token and no reference; with `alpha`, AlphaPO.

    python -m experiments.train --config configs/simpo.py:data=DATA,base=runs/sft_hh/export \
        --workdir runs/simpo

See configs/dpo_hh.py for DATA and for the fine-tuned base. `alpha=0.25` bends the reward (AlphaPO),
`nll=0.1` adds the likelihood of the chosen answers (CPO-SimPO).

Two CPU cores, three minutes; eval/pairs is the share of held-out pairs whose chosen answer is
likelier per token: expect 0.40 -> 0.51 +- 0.04 from the fine-tuned base (docs/preferences.md).
"""

from configs import common


def get_config(arg=None):
    """Return the config."""
    arg = common.parse_preference(arg, beta=2.0, gamma=1.0, alpha=0.0, nll=0.0)
    c = common.preference(arg, score="likelihood")
    c.objective = dict(name="simpo", beta=arg.beta, gamma=arg.gamma, alpha=arg.alpha, nll=arg.nll)
    return common.shrink(c, stand_in=True, kind="preference") if arg.runlocal else c
