r"""Medical answers, code and math one after the other: what is left of each, and of general text?

    python -m experiments.sequential --workdir runs/forgetting_medical \
        --config configs/forgetting_medical.py:data=DATA,base=runs/base/export
    python -m experiments.train --config configs/forgetting_medical.py:task=code --workdir runs/code

DATA has the folders of configs/sft_medical.py and configs/sft_code.py and math/gsm8k, with the
environment variable FTJAX_DATA as its default. `base` is a model that knows general text (the
embedded one knows little): `experiments.train --workdir runs/base --config
configs/sft_documents.py:full,steps=2000,docs=WIKI/train.jsonl.gz,held=WIKI/test.jsonl.gz`, where
WIKI is DATA/corpus/wiki (27 CPU-minutes). Three orders, in which every task has every place; 108
runs of 60 steps. Probes are texts; `choices=100` evaluates so many questions of each suite in
DATA/mc, on which this base guesses: arc_easy .29, hellaswag .27, chance .25. The 72 without replay
took 70 CPU-minutes: expect 0.219 nats lost in full, 0.418 by LoRA and 0.235 by LoRA with replay.
"""

from configs import common

TASKS = dict(medical="medical/medquad", code="code/codealpaca", math="math/gsm8k")
FIELDS = dict(
    medical=dict(prompt="{prompt}\n", response="response"),
    code=dict(prompt="{prompt}\n", response="response"),
    math=dict(prompt="{question}\n", response="{solution}"),
)  # fmt: skip
MC = ("arc_easy", "hellaswag")


def get_config(arg=None):
    """Return the config of one stage."""
    arg = common.parse_domain(arg, task="medical", replay=0.0, steps=60, choices=0)
    c = common.domain(arg)
    rows = lambda name, split: dict(name="jsonl", kind="prompt", fields=FIELDS[name],
                                    path=f"{arg.data}/{TASKS[name]}/{split}.jsonl.gz")  # fmt: skip
    c.data = dict(rows(arg.task, "train"), max_tokens=256)
    if arg.replay:
        new = dict(rows(arg.task, "train"), weight=1 - arg.replay, label="new")
        old = dict(name="jsonl", path=f"{arg.data}/corpus/wiki/train.jsonl.gz", kind="text",
                   weight=arg.replay, label="old")  # fmt: skip
        c.data = dict(name="mixture", parts=(new, old), max_tokens=256)
    for name in TASKS:
        group = "new" if name == arg.task else "old"
        c.evals[name] = dict(name="nll", group=group, data=rows(name, "test"), rows=50)
    for name in MC if arg.choices and not arg.runlocal else ():  # what stands in has no choices
        held = dict(name="jsonl", path=f"{arg.data}/mc/{name}/test.jsonl.gz")
        c.evals[name] = dict(name="choice", data=held, rows=arg.choices, template="{question} ")
    c.evals.wiki.rows = c.evals.tinystories.rows = 50
    c.optim.schedule = dict(name="constant", warmup_steps=10)
    c.batch_size, c.eval_every_steps = 8, max(arg.steps // 3, 1)
    return common.shrink(c, stand_in=True) if arg.runlocal else c


def study():
    """List what `experiments.sequential` compares."""
    return dict(
        tasks=tuple(TASKS), orders=3, seeds=2, match=dict(metric="nll", fraction=0.5),
        methods=dict(full="full", lora="", replay="replay=0.05"), sees_old=("replay",),
        rates=dict(full=(3e-4, 1e-3), lora=(3e-3, 1e-2), replay=(3e-3, 1e-2)),
        changes=("drift", "spectrum", "states"),
        parts=dict(full="full", lora="lora", replay="replay"),
    )  # fmt: skip
