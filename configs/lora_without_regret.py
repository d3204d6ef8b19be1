r"""What LoRA gives up: rank by rate by sites, against full fine-tuning, and what each forgets.

    python -m experiments.sequential --config configs/lora_without_regret.py --workdir runs/regret
    python -m experiments.train --config configs/lora_without_regret.py:rank=1 --workdir runs/one

"LoRA Without Regret" finds LoRA on a par with full fine-tuning where its rank suffices, at about
ten times the rate, and adapters of the attention alone to learn less than those of the MLP. The
task is a new language of the embedded base. Of rewards: configs/forgetting_rl.py with `rank`.

About 18 CPU-minutes: 42 runs of 48 steps, two seeds. Expect 0.052 nats forgotten by rank 16 and
0.058 by full fine-tuning where 60 % is learned, which the seeds do not tell apart, at ten times the
rate; a gain of 0.56 by attention alone and 0.91 by the MLP.
"""

from configs import common, forgetting_tiny

TASKS = {"language": dict(domain="languages", languages=4)}
OLD = {"old_languages": dict(domain="languages", languages="base"),
       "old_skills": dict(domain="skills")}  # fmt: skip
WHERE = {"all": "blocks/**", "attention": "blocks/attn/**", "mlp": "blocks/mlp/**"}
RANKS = (1, 4, 16, 64)


def get_config(arg=None):
    """Return the config of one run; `sites` are all, attention or mlp."""
    own = forgetting_tiny.METHODS | dict(rank=16)
    arg = common.parse_arg(arg, **own, sites="all", task="language", steps=48)
    c = forgetting_tiny.staged(arg, TASKS, OLD)
    if not arg.full:
        c.adapter.where = WHERE[arg.sites]
    return common.shrink(c) if arg.runlocal else c


def study():
    """List what `experiments.sequential` compares."""
    ranks = {f"rank{rank}": f"rank={rank}" for rank in RANKS}
    # Attention of about as many parameters as rank 4 of the MLP.
    sites = dict(attention="sites=attention,rank=10", mlp="sites=mlp,rank=4")
    return dict(
        tasks=tuple(TASKS), match=dict(metric="nll", fraction=0.6), seeds=2,
        methods=dict(full="full") | ranks | sites,
        rates=dict(full=(3e-4, 1e-3, 3e-3))
        | dict.fromkeys((*ranks, *sites), (1e-3, 3e-3, 1e-2)),
        changes=("drift", "spectrum", "path", "states"),
        axes=dict(rank={f"rank{r}": r for r in RANKS}),
        parts=dict(full="full", lora="rank16", attention="attention", mlp="mlp"),
    )  # fmt: skip
