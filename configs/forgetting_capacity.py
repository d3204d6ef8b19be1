r"""Does a larger model forget less? Three bases that differ in size alone, and a new language.

    python -m experiments.stages --config configs/forgetting_capacity.py --workdir runs/bases
    python -m experiments.sequential --config configs/forgetting_capacity.py:base=BASE --workdir DIR
    python -m experiments.train --config configs/forgetting_capacity.py:base=BASE --workdir runs/one

BASE is runs/bases/small/export, then that of middle and of large, with a DIR each. Bases are
pretrained on four languages and nothing else, of which the forgetting is.
Two CPU cores: bases 14 minutes beside other work, a study of 9 runs one. Expect 0.08 nats lost by
the first two bases and 0.03 by the largest where half of the new language is learned.
"""

from configs import common

LANGUAGES = dict(name="embedded", domain="languages")
SIZES = dict(small="tiny-0.1m", middle="tiny-0.3m", large="tiny")  # presets


def get_config(arg=None):
    """Return the config of one run: of a study's stage, or of a base that is pretrained."""
    arg = common.parse_arg(
        arg, task="language", base="tiny", pretrain="", steps=0, runs="", runlocal=False
    )
    c = common.base()
    c.model.base, c.tokenizer = arg.base, "tiny"
    common.tune(c, full=True)
    c.data = dict(LANGUAGES, languages=4, rows=1_000)
    c.optim.schedule = dict(name="constant", warmup_steps=4)
    c.steps, c.batch_size, c.log_every_steps = arg.steps or 48, 8, 20
    c.eval_every_steps = 4
    if arg.pretrain:
        c.model.base, c.model.preset = "", arg.pretrain
        c.data = dict(LANGUAGES, languages="base", rows=40_000)
        c.optim.learning_rate, c.optim.b2 = 3e-3, 0.98
        c.optim.schedule = dict(name="wsd", warmup_ratio=0.05, decay_ratio=0.5, final_fraction=0.05)
        c.steps, c.batch_size = arg.steps or 1_200, 32
        c.eval_every_steps = c.log_every_steps = 200
    c.data.max_tokens, c.data.kind = 80, "prompt"
    for label, languages in dict(language=4, old_languages="base").items():
        group = "new" if (label == "language") != bool(arg.pretrain) else "old"
        held = dict(LANGUAGES, split="test", languages=languages)
        c.evals[label] = dict(name="nll", group=group, data=held, rows=32)
    return common.shrink(c) if arg.runlocal else c


def stages():
    """List the bases that `experiments.stages` pretrains."""
    return {size: f"pretrain={preset}" for size, preset in SIZES.items()}


def study():
    """List what `experiments.sequential` compares."""
    return dict(
        tasks=("language",),
        methods=dict(full=""),
        rates=(3e-4, 1e-3, 3e-3),
        seeds=3,
        match=dict(metric="nll", fraction=0.5),
        parts=dict(sized="full"),
    )
