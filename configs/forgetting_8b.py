r"""The public forgetting cell of PEFT, for a pod: Llama-3.2-3B on MetaMathQA, its loss on GSM8K.

    python -m experiments.sequential --workdir runs/pod \
        --config configs/forgetting_8b.py:base=DIR,data=DATA
    python -m experiments.train --config configs/forgetting_8b.py:base=DIR,data=DATA \
        --workdir runs/one --dry_run

DATA holds metamathqa/train.jsonl.gz with `query` and `response`, math/gsm8k and corpus/wiki. PEFT's
method comparison has, of one seed: LoRA of rank 32 on queries and values at 1e-4 gets 0.478 of
GSM8K and 0.050 nats more on text, full fine-tuning at 1e-5 gets 0.472 and 0.030. Rates are swept
around these, with three seeds. `base` may be of any size. Not yet run; its LoRA step compiled for a
TPU that is not here, by libtpu 0.0.52:

    python -m experiments.rehearse --config configs/forgetting_8b.py --topology v5e-4
    2.11 of 15.75 GiB a device; 0.07 s a step by the roofline, bound by compute
"""

from configs import common


def get_config(arg=None):
    """Return the config of one run."""
    arg = common.parse_arg(
        arg, base="Llama-3.2-3B", data=common.data_folder(), task="math", full=False, rank=32,
        steps=5000, tensor=1, runlocal=False,
    )  # fmt: skip
    c = common.base()
    c.model.base = arg.base
    c.model.param_dtype = c.model.compute_dtype = "bfloat16"
    c.model.remat, c.model.chunk = "full", 512
    common.tune(c, full=arg.full, rank=arg.rank)
    if not arg.full:
        c.adapter.where = "blocks/attn/{q,v}"
    math = dict(name="jsonl", kind="prompt", fields=dict(prompt="{query}\n", response="response"))
    c.data = dict(math, path=f"{arg.data}/metamathqa/train.jsonl.gz", max_tokens=768)
    held = dict(name="jsonl", path=f"{arg.data}/math/gsm8k/test.jsonl.gz", kind="prompt",
                fields=dict(prompt="{question}\n", response="{solution}"))  # fmt: skip
    text = dict(name="jsonl", path=f"{arg.data}/corpus/wiki/test.jsonl.gz", kind="text", loss="all")
    c.evals.math = dict(name="nll", group="new", data=held, rows=512)
    c.evals.wiki = dict(name="nll", group="old", data=text, rows=512)
    c.optim.schedule = dict(name="cosine", warmup_ratio=0.05)
    c.optim.weight_decay = 0.1
    c.mesh = dict(data=1, fsdp=-1, expert=1, sequence=1, tensor=arg.tensor)
    c.steps, c.batch_size = arg.steps, 4
    c.eval_every_steps = max(arg.steps // 10, 1)
    if arg.runlocal:
        c.model.base, c.mesh = "tiny", dict(data=-1, fsdp=1, expert=1, sequence=1, tensor=1)
        c.adapter.where = "blocks/**"
        common.shrink(c, stand_in=True)
    return c


def study():
    """List what `experiments.sequential` compares."""
    return dict(
        tasks=("math",), seeds=3, match=dict(metric="nll", fraction=0.8),
        methods=dict(full="full", lora=""), changes=("drift", "spectrum"),
        rates=dict(full=(3e-6, 1e-5, 3e-5), lora=(3e-5, 1e-4, 3e-4)),
        parts=dict(full="full", lora="lora"),
    )  # fmt: skip
