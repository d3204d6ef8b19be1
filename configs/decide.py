r"""Prompt, retrieve, fine-tune, or both, for any task in JSONL: every arm, and a verdict.

    python -m experiments.decide --workdir runs/decide
        --config configs/decide.py:task=train.jsonl,held=test.jsonl,passages=docs.jsonl,base=DIR

Rows have `prompt` or `question`, and `answers`, `answer` or `response`; maybe `id`, `passage_id`
and `need`, which sorts them into verdicts. Passages are rows of `id` and `text`, or a folder of
texts, Markdown and web pages; without them the arms that retrieve are left out. `validation=FILE`
gives every arm three trials, among which it chooses. Prices: `queries=1000000,updates=0` and
`flop=`, `device_hour=`, `label=`; without them costs are in FLOPs. docs/decide.md has all keys.

Hardware: the embedded base runs on two CPU cores. On the default files, of six people, nothing but
the plumbing is to be seen: expect every arm to run, and no verdict to be resolved.
"""

import pathlib

from configs import common
from ftjax.decide import config as decisions

EXAMPLE = pathlib.Path(__file__).with_name("decide_example")
ARMS = ("zero_shot", "few_shot", "rag", "rag_oracle", "lora", "full", "lora_rag", "few_shot_rag")
# Three ways to set each arm up, the usual one first; a fourth would be a fourth for all.
INSTRUCTIONS = ("", "Answer in a few words.", "Answer as briefly as you can.")
RATES = (1.0, 0.3, 3.0)  # times the rate of the base's size


def get_config(arg=None):
    """Return the config."""
    arg = common.parse_arg(
        arg, task=f"{EXAMPLE}/train.jsonl", held=f"{EXAMPLE}/test.jsonl", validation="",
        passages=f"{EXAMPLE}/passages.jsonl", base="tiny", arms="+".join(ARMS), chat=False,
        metric="exact_match", steps=200, rank=16, seeds=3, max_tokens=512, max_new_tokens=32,
        queries=1000.0, updates=0.0, flop=None, device_hour=None, label=None, runlocal=False,
    )  # fmt: skip
    c = decisions.defaults()
    c.base, c.chat, c.metric, c.max_new_tokens = arg.base, arg.chat, arg.metric, arg.max_new_tokens
    c.train.task = dict(name="jsonl", path=arg.task)
    c.test.task = dict(name="jsonl", path=arg.held)
    if arg.validation:
        c.validation.task = dict(name="jsonl", path=arg.validation)
    if arg.passages:
        c.passages = dict(name="documents", path=arg.passages)
    for name in ("lora", "full"):
        c.runs[name] = run(arg, full=name == "full")
    for name in arg.arms.split("+"):
        trials = trials_of(name, c)[: 3 if arg.validation else 1]
        c.arms[name] = dict(name=name, trials=trials)
    c.seeds = tuple(range(arg.seeds))
    c.prices = dict(queries=arg.queries, updates=arg.updates)
    given = dict(flop=arg.flop, device_hour=arg.device_hour, label=arg.label)
    for key, price in given.items():
        if price is not None:
            c.prices[key] = float(price)
    return shrink(c) if arg.runlocal else c


def run(arg, *, full: bool):
    """Return the config of a trained arm's runs; its data are the decision's."""
    c = common.base()
    c.model.base = arg.base
    common.tune(c, full=full, rank=arg.rank)
    c.data.max_tokens = arg.max_tokens
    c.steps, c.batch_size = arg.steps, 16
    c.optim.schedule = dict(name="cosine", warmup_ratio=0.05)
    return c


def trials_of(name: str, c) -> tuple[dict, ...]:
    """Return three trials of an arm."""
    if name == "few_shot":
        return dict(shots=4), dict(shots=16), dict(shots=4, nearest=True)
    if name in ("rag", "few_shot_rag"):
        return dict(k=4), dict(k=1), dict(k=8)
    if name in ("lora", "full", "lora_rag"):
        rate = c.runs["full" if name == "full" else "lora"].optim.learning_rate
        return tuple(dict(config={"optim.learning_rate": rate * each}) for each in RATES)
    return tuple(dict(instruction=each) for each in INSTRUCTIONS)


def shrink(c):
    """Make every arm end within seconds on a CPU: two steps, one seed, few questions."""
    for name in c.runs:
        common.shrink(c.runs[name])
    for sections in (c.test, c.validation, c.old):
        for need in sections:
            sections[need].limit = 6
    c.seeds, c.max_new_tokens, c.latency_rows = (0,), 4, 0
    return c
