r"""Supervised fine-tuning on any JSONL file of prompts and responses.

    python -m experiments.train --config configs/sft.py:path=train.jsonl --workdir runs/mine
    python -m experiments.train --config configs/sft.py:path=train.jsonl,full --workdir runs/full

Every line is an object with `prompt` and `response`; `prompt=instruction,response=output` names
other fields, and `prompt={instruction}\n{input}` joins some; `kind=chat` takes conversations; rows
of other tools are recognised (docs/data.md).
`path=a.jsonl+b.jsonl` joins files. `held=test.jsonl` is evaluated before and after. The base is the
embedded one; `base=DIR` takes any Hugging Face directory of a supported family.

Hardware: the embedded base runs on two CPU cores; see the other configs for pods. On the twelve
rows of the default file nothing but the plumbing is to be seen: expect the loss to fall.
"""

import pathlib

from configs import common

EXAMPLE = pathlib.Path(__file__).with_name("example.jsonl")


def get_config(arg=None):
    """Return the config."""
    arg = common.parse_arg(
        arg, path=str(EXAMPLE), held="", kind="prompt", prompt="prompt", response="response",
        base="tiny", full=False, rank=16, steps=200, runlocal=False,
    )  # fmt: skip
    c = common.base()
    c.model.base = arg.base
    common.tune(c, full=arg.full, rank=arg.rank)
    fields = {}
    if arg.kind == "prompt":
        fields = dict(prompt=common.pattern(arg.prompt), response=common.pattern(arg.response))
    c.data = dict(
        name="jsonl", path=arg.path.split("+"), kind=arg.kind, max_tokens=512, fields=fields
    )
    if arg.held:
        held = dict(name="jsonl", path=arg.held, kind=arg.kind, fields=fields)
        c.evals.held = dict(name="nll", group="new", data=held, rows=500)
    c.steps, c.batch_size = arg.steps, 16
    c.optim.schedule = dict(name="cosine", warmup_ratio=0.05)
    return common.shrink(c) if arg.runlocal else c
