r"""Distil a teacher into a student: forward or reverse KL, or a mixture of the two.

    python -m experiments.train --config configs/distill.py --workdir runs/distill
    python -m experiments.train --config configs/distill.py:teacher=BIG,base=SMALL,path=FILES \
        --workdir runs/small

By default the embedded base teaches a student of its own size and random weights, on embedded text;
`beta=1.0` is the reverse KL. Teacher and student share one vocabulary.

Two CPU cores. eval/english/nll is the student's on text that neither has seen.
"""

from configs import common


def get_config(arg=None):
    """Return the config; `base=DIR` is the student, "" a random one."""
    arg = common.parse_arg(
        arg, teacher="tiny", base="", path="", beta=0.0, temperature=1.0, nll=0.0, steps=300,
        tokens=256, runlocal=False,
    )  # fmt: skip
    c = common.base()
    c.model.base, c.model.preset = arg.base, "" if arg.base else "tiny"
    c.tokenizer = "" if arg.base else "tiny"
    common.tune(c, full=True)
    c.optim.learning_rate = common.rate(arg.base, 1e-3, full=True)
    c.optim.schedule = dict(name="cosine", warmup_ratio=0.05)
    c.objective = dict(name="distillation", beta=arg.beta, temperature=arg.temperature, nll=arg.nll)
    c.reference = dict(name="model", base=arg.teacher, folder="")
    text = dict(name="embedded", domain="english", kind="text")
    own = dict(name="jsonl", path=arg.path, kind="text") if arg.path else text
    c.data = dict(own, max_tokens=arg.tokens)
    held = dict(text, split="test", loss="all")
    c.evals.english = dict(name="nll", group="new", data=held, rows=100)
    c.steps, c.batch_size, c.log_every_steps = arg.steps, 16, 20
    return common.shrink(c, stand_in=True) if arg.runlocal else c
