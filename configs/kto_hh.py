r"""KTO on single answers, good or bad: the pairs of HH-RLHF taken apart.

    python -m experiments.train --config configs/kto_hh.py:data=DATA,base=runs/sft_hh/export \
        --workdir runs/kto_hh

See configs/dpo_hh.py for DATA and for the fine-tuned base. Any JSONL of `prompt`, `completion` and
`label` serves as well: `path=FILES`.

Two CPU cores, four minutes; eval/pairs is the share of held-out pairs ranked as people did: expect
0.60 +- 0.09, 0.5 before (docs/preferences.md).
"""

from configs import common


def get_config(arg=None):
    """Return the config."""
    arg = common.parse_preference(arg, beta=0.1, path="")
    source = dict(path=arg.path) if arg.path else dict(name="unpaired")
    c = common.preference(arg, kind="unpaired", **source)
    c.objective = dict(name="kto", beta=arg.beta)
    c.evals.pairs.beta = arg.beta
    c.batch_size = 16  # an answer says less than a pair
    tiny = 3e-5 if arg.full else 5e-4
    c.optim.learning_rate = common.rate(arg.base, tiny, full=arg.full, preference=True)
    if arg.full:
        c.reference.name = "frozen"
    return common.shrink(c, stand_in=True, kind="unpaired") if arg.runlocal else c
