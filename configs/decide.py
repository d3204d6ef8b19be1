r"""Prompt, retrieve, fine-tune, or both, for any task in JSONL: every arm, and a verdict.

    python -m experiments.decide --workdir runs/decide
        --config configs/decide.py:task=train.jsonl,held=test.jsonl,passages=docs.jsonl,base=DIR

Rows have `prompt` or `question`, and `answers`, `answer` or `response`; maybe `id`, `passage_id`
and `need`, which sorts them into verdicts. Passages are rows of `id` and `text`, or a folder of
texts, Markdown and web pages; without them the arms that retrieve are left out. Where fields have
other names `question=q,answer=a,gold=source` and, of passages, `id=doc,text=body` say so (gold: the
passage that answers). `validation=FILE` gives every arm three trials, among which it chooses.
Training goes three times through the rows, in 50 steps at least; `steps=200` is taken as it is.
Prices: `queries=1000000,updates=0` and `flop=`, `device_hour=`, `label=`; without them costs are in
FLOPs. docs/decide.md has all keys.

Hardware: the embedded base runs on two CPU cores. On the default files, of six people, nothing but
the plumbing is to be seen: expect every arm to run, and no verdict to be resolved.
"""

import pathlib

from configs import common, sft
from ftjax.decide import config as decisions

EXAMPLE = pathlib.Path(__file__).with_name("decide_example")
ARMS = ("zero_shot", "prompt_search", "few_shot", "rag", "rag_oracle", "lora", "full", "lora_rag",
        "few_shot_rag")  # fmt: skip
# Three ways to set each arm up, the usual one first; a fourth would be a fourth for all.
INSTRUCTIONS = ("", "Answer in a few words.", "Answer as briefly as you can.")
SHORT = "{prompt} In short:"
RATES = (1.0, 0.3, 3.0)  # times the rate of the base's size


def get_config(arg=None):
    """Return the config."""
    arg = common.parse_arg(
        arg, task=f"{EXAMPLE}/train.jsonl", held=f"{EXAMPLE}/test.jsonl", validation="",
        passages=f"{EXAMPLE}/passages.jsonl", question="", answer="", gold="", id="", text="",
        base="tiny", arms="+".join(ARMS), chat=False,
        metric="exact_match", steps=0, rank=16, seeds=3, max_tokens=512, max_new_tokens=32, k=4,
        queries=1000.0, updates=0.0, flop=None, device_hour=None, label=None, runlocal=False,
    )  # fmt: skip
    c = decisions.defaults()
    c.base, c.chat, c.metric, c.max_new_tokens = arg.base, arg.chat, arg.metric, arg.max_new_tokens
    named = named_fields(question=arg.question, answer=arg.answer, passage_id=arg.gold)
    rows = lambda path: dict(name="jsonl", path=path, **named)
    c.train.task, c.test.task = rows(arg.task), rows(arg.held)
    if arg.validation:
        c.validation.task = rows(arg.validation)
    if arg.passages:
        own = named_fields(id=arg.id, text=arg.text)
        c.passages = dict(name="documents", path=arg.passages, **own)
    return finish(c, arg)


def named_fields(**names) -> dict:
    """Return a section's `fields`, where rows call something by another name."""
    found = {ours: theirs for ours, theirs in names.items() if theirs}
    return dict(fields=found) if found else {}


def finish(c, arg):
    """Set runs, arms and prices by the arguments that all configs of a task have."""
    for name in ("lora", "full"):
        c.runs[name] = run(arg, full=name == "full")
    for name in arg.arms.split("+"):
        trials = trials_of(name, c, k=arg.k)[: 3 if c.validation else 1]
        c.arms[name] = dict(name=name, trials=trials)
    c.seeds = tuple(range(arg.seeds))
    c.prices = dict(queries=arg.queries, updates=arg.updates)
    given = dict(flop=arg.flop, device_hour=arg.device_hour, label=arg.label)
    for key, price in given.items():
        if price is not None:
            c.prices[key] = float(price)
    return shrink(c) if arg.runlocal else c


def parse(arg, **own):
    """Parse what the configs of real data have in common; own: more arguments, or other defaults.

    `rows` are questions of training, `asked` those of the test that every arm answers, `k` passages
    in a prompt.
    """
    every = dict(
        base="tiny", arms="+".join(ARMS), chat=False, steps=200, rank=16, seeds=3, max_tokens=512,
        max_new_tokens=16, rows=1000, asked=100, trials=3, k=4, data=common.data_folder(),
        queries=1000.0, updates=0.0, flop=None, device_hour=None, label=None, runlocal=False,
    )  # fmt: skip
    return common.parse_arg(arg, **every | own)


def of_files(arg, folder: str, *, metric: str = "exact_match", need: str = "answers", **section):
    """Return the config of a folder of {train,validation,test}.jsonl.gz, without passages yet."""
    c = decisions.defaults()
    c.base, c.chat, c.metric, c.max_new_tokens = arg.base, arg.chat, metric, arg.max_new_tokens
    split = lambda name, limit: dict(
        section, name="jsonl", path=f"{folder}/{name}.jsonl.gz", limit=limit
    )
    c.train[need], c.test[need] = split("train", arg.rows), split("test", arg.asked)
    if arg.trials > 1:
        c.validation[need] = split("validation", arg.asked)
    for name in ("facts", "skills"):
        held = dict(name="embedded", domain=name, split="test", limit=64)
        c.old[name] = dict(held, normalize="none" if name == "skills" else "squad")
    return c


def run(arg, *, full: bool):
    """Return the config of a trained arm's runs; its data are the decision's."""
    c = common.base()
    c.model.base = arg.base
    common.tune(c, full=full, rank=arg.rank)
    c.data.max_tokens = arg.max_tokens
    c.batch_size = 16
    sft.length(c, epochs=0.0, steps=arg.steps)
    c.optim.schedule = dict(name="cosine", warmup_ratio=0.05)
    return c


def trials_of(name: str, c, *, k: int) -> tuple[dict, ...]:
    """Return three trials of an arm; k: passages that the first one reads."""
    if name == "prompt_search":
        found = dict(instruction=INSTRUCTIONS[1]), dict(template=SHORT, instruction=INSTRUCTIONS[2])
        return *found, dict(rewrite=True)
    if name == "few_shot":
        return dict(shots=4), dict(shots=16), dict(shots=4, nearest=True)
    if name in ("rag", "few_shot_rag"):
        return dict(k=k), dict(k=max(1, k // 4)), dict(k=2 * k)
    if name in ("lora", "full", "lora_rag"):
        rate = c.runs["full" if name == "full" else "lora"].optim.learning_rate
        own = dict(k=k) if name == "lora_rag" else {}
        return tuple(dict(own, config={"optim.learning_rate": rate * each}) for each in RATES)
    return tuple(dict(instruction=each) for each in INSTRUCTIONS)


def shrink(c):
    """Make every arm end within seconds on a CPU: two steps, one seed, few questions."""
    for label in c.arms:
        c.arms[label].trials = ()
    c.validation = {}
    for name in c.runs:
        common.shrink(c.runs[name])
    for sections in (c.test, c.validation, c.old, c.changed.test):
        for need in sections:
            sections[need].limit = 6
    c.seeds, c.max_new_tokens, c.latency_rows = (0,), 4, 0
    c.changed.config = {"steps": 2}
    return c
