r"""DPO on human preferences (HH-RLHF, helpful and harmless), with LoRA or in full.

    python -m experiments.train --workdir runs/sft_hh --config \
        configs/sft.py:path=DATA/preference/hh_helpful/train.jsonl.gz,response=chosen,full,steps=120
    python -m experiments.train --config configs/dpo_hh.py:data=DATA,base=runs/sft_hh/export \
        --workdir runs/dpo_hh

DATA holds preference/{hh_helpful,hh_harmless}/{train,test}.jsonl.gz with `prompt` (messages),
`chosen` and `rejected`; FTJAX_DATA is its default. `loss=ipo` and the other names in
`ftjax.objectives.losses.dpo_losses` change the loss, `beta=0.3` its strength,
`parts=hh_helpful+hh_harmless,tokens=512` the data and what of it is read,
`transcripts=FILES` reads HH-RLHF's own format, whole conversations as text. With LoRA the reference
is the base with adapters off; `full` keeps a frozen copy, and `cached` computes the reference's
log-probabilities once (evaluated by likelihood then).

Two CPU cores, three minutes; eval/pairs is the share of held-out pairs ranked as people did: expect
0.58 +- 0.03 from the fine-tuned base, 0.5 before (docs/preferences.md).
"""

from configs import common


def get_config(arg=None):
    """Return the config."""
    arg = common.parse_preference(arg, loss="sigmoid", beta=0.1, cached=False, transcripts="")
    source = dict(path=arg.transcripts) if arg.transcripts else {}
    c = common.preference(arg, **source)
    c.objective = dict(name="dpo", loss=arg.loss, beta=arg.beta)
    c.evals.pairs.beta = arg.beta
    if arg.full or arg.cached:
        c.reference.name = "cached" if arg.cached else "frozen"
    if arg.cached:
        c.evals.pairs.score = "likelihood"
    return common.shrink(c, stand_in=True, kind="preference") if arg.runlocal else c


def sweep():
    """List the variants that `experiments.compare` runs."""
    return {"DPO": "", "IPO": "loss=ipo", "APO-zero": "loss=apo_zero"}
