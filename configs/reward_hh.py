r"""A reward model of human preferences: a scalar head on the base, with LoRA or in full.

    python -m experiments.train --config configs/reward_hh.py:data=DATA --workdir runs/reward_hh

See configs/dpo_hh.py for DATA. The head starts at zero, trains with the adapters (or the model) and
is exported beside them as reward_head.safetensors.

Two CPU cores, three minutes; eval/pairs is the share of held-out pairs whose chosen answer scores
higher: expect 0.6 from the fine-tuned base of configs/dpo_hh.py, 0.5 before.
"""

from configs import common


def get_config(arg=None):
    """Return the config; `centre` holds the scores' level at zero."""
    arg = common.parse_preference(arg, centre=0.01)
    c = common.preference(arg, score="reward")
    c.objective = dict(name="reward", centre=arg.centre)
    return common.shrink(c, stand_in=True, kind="preference") if arg.runlocal else c
