r"""Supervised fine-tuning on any JSONL file of prompts and responses.

    python -m experiments.train --config configs/sft.py:path=train.jsonl --workdir runs/mine
    python -m experiments.train --config configs/sft.py:path=train.jsonl,full --workdir runs/full

Every line is an object with `prompt` and `response`; `prompt=instruction,response=output` names
other fields, and `prompt={instruction}\n{input}` joins some; `kind=chat` takes conversations; rows
of other tools are recognised (docs/data.md). A base that was instructed, whose answers end as its
chat template ends them, gets its template: prompt and response are a conversation of two turns,
unless `kind=prompt` says otherwise.
Files may be CSV or Parquet as well, as their names say. `path=a.jsonl+b.jsonl` joins files.
`held=test.jsonl` is evaluated before and after, and some of its prompts are answered; without one a
twentieth of the rows is held out for that, 500 at most (`held=none`: nothing). General text is
measured too: English of Python's own documentation, or `general=a.jsonl+b.jsonl` with `text` in
each line (`general=none`: none). The base is the embedded one; `base=DIR` takes any Hugging Face
directory of a supported family.

A run goes three times through the data, and makes 50 steps at least: few rows need more passes.
`epochs=5` or `steps=200` is taken as it is.

Hardware: the embedded base runs on two CPU cores; see the other configs for pods. On the twelve
rows of the default file nothing but the plumbing is to be seen: expect the loss to fall.
"""

import pathlib

from configs import common

EXAMPLE = pathlib.Path(__file__).with_name("example.jsonl")


def get_config(arg=None):
    """Return the config."""
    arg = common.parse_arg(
        arg, path=str(EXAMPLE), held="", general="", kind="", prompt="prompt", response="response",
        base="tiny", full=False, rank=16, epochs=0.0, steps=0, runlocal=False,
    )  # fmt: skip
    c = common.base()
    c.model.base = arg.base
    common.tune(c, full=arg.full, rank=arg.rank)
    kind = arg.kind or ("chat" if common.is_instruct(arg.base) else "prompt")
    fields = dict(prompt=common.pattern(arg.prompt), response=common.pattern(arg.response))
    # Conversations have other fields; those of a prompt and its answer are recognised.
    if kind != "prompt" and fields == dict(prompt="prompt", response="response"):
        fields = {}
    own = dict(kind=kind, fields=fields)
    c.data = dict(own, name=reader(arg.path), path=arg.path.split("+"), max_tokens=512)
    if arg.held not in ("", "none"):
        held = dict(own, name=reader(arg.held), path=arg.held)
        c.evals.held = dict(name="nll", group="new", data=held, rows=500)
    elif not arg.held:
        c.data.hold_out = 0.05
        c.evals.held = dict(name="nll", group="new", data=dict(name="held_out"), rows=500)
    if arg.held != "none":
        c.samples.evals = "held"
    general(c, arg.general)
    length(c, epochs=arg.epochs, steps=arg.steps)
    c.batch_size = 16
    c.optim.schedule = dict(name="cosine", warmup_ratio=0.05)
    return common.shrink(c) if arg.runlocal else c


def reader(path: str) -> str:
    """Return the source that reads files of such a name."""
    suffix = pathlib.PurePath(path.removesuffix(".gz")).suffix
    return {".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}.get(suffix, "jsonl")


def length(c, *, epochs: float, steps: int):
    """Set how long the run is; 0 of both is three passes, and 50 steps of the fewest rows."""
    if epochs and steps:
        raise ValueError(f"arg: got epochs={epochs:g} and steps={steps}; expected one; drop one")
    c.steps, c.epochs = steps or None, epochs or None
    if not epochs and not steps:
        c.epochs, c.min_steps = 3.0, 50


def general(c, paths: str):
    """Measure general text before and after."""
    if paths == "none":
        return
    text = dict(name="embedded", domain="english", split="test", kind="text", loss="all")
    if paths:
        text = dict(name="jsonl", path=paths.split("+"), kind="text", loss="all")
    c.evals.general = dict(name="nll", group="old", data=text, rows=100 if paths else 32)
