r"""Llama 3.1 8B with LoRA on a TPU pod slice: bfloat16 base, fsdp, packed rows of 4096 tokens.

    python -m experiments.train --config configs/sft_llama3_8b.py:base=DIR,path=train.jsonl \
        --workdir shared_folder/llama3

Run the same command on every host; the processes find each other. `base` is a Hugging Face
directory, read straight into shards. Hardware: v5e-16 or larger, or 8 GPUs of 80 GB. Not yet
run on a TPU; by libtpu 0.0.52:

    python -m experiments.rehearse --config configs/sft_llama3_8b.py --topology v5e-16
    5.89 of 15.75 GiB a device; 3.37 s a step by the roofline, bound by compute
"""

from configs import common


def get_config(arg=None):
    """Return the config."""
    arg = common.parse_arg(
        arg, base="Llama-3.1-8B", path="train.jsonl", held="", kind="chat", rank=16, steps=2000,
        tensor=1, runlocal=False,
    )  # fmt: skip
    c = common.base()
    c.model.base = arg.base
    c.model.param_dtype = c.model.compute_dtype = "bfloat16"
    c.model.remat, c.model.chunk = "full", 512
    common.tune(c, full=False, rank=arg.rank)
    c.optim.learning_rate = 2e-4
    c.optim.schedule = dict(name="cosine", warmup_ratio=0.05)
    c.data = dict(name="jsonl", path=arg.path, kind=arg.kind, max_tokens=4096)
    if arg.held:
        held = dict(name="jsonl", path=arg.held, kind=arg.kind)
        c.evals.held = dict(name="nll", group="new", data=held, rows=512)
    c.mesh = dict(data=1, fsdp=-1, expert=1, sequence=1, tensor=arg.tensor)
    c.steps, c.batch_size, c.accumulate = arg.steps, 64, 2
    c.checkpoint.every_steps, c.eval_every_steps = 100, 500
    if arg.runlocal:
        c.model.base = "tiny"
        c.mesh = dict(data=-1, fsdp=1, expert=1, sequence=1, tensor=1)
        common.shrink(c, stand_in=True)
    return c
