r"""DPO of Llama 3.1 8B with LoRA on a TPU pod slice: bfloat16 base, fsdp, packed pairs.

    python -m experiments.train --config configs/dpo_llama3_8b.py:base=DIR,path=pairs.jsonl \
        --workdir shared_folder/llama3_dpo

Run the same command on every host; the processes find each other. `base` is a Hugging Face
directory of an instruction-tuned model, whose chat template renders the messages; a line of `path`
has `prompt`, `chosen` and `rejected`. The reference is the base with adapters off: nothing more is
held in memory. Hardware: v5e-16 or larger, or 8 GPUs of 80 GB. Not yet
run on a TPU; by libtpu 0.0.52:

    python -m experiments.rehearse --config configs/dpo_llama3_8b.py --topology v5e-16
    3.85 of 15.75 GiB a device; 2.31 s a step by the roofline, bound by compute
"""

from configs import common


def get_config(arg=None):
    """Return the config."""
    arg = common.parse_arg(
        arg, base="Llama-3.1-8B-Instruct", path="pairs.jsonl", held="", rank=16, steps=2000,
        beta=0.1, tensor=1, runlocal=False,
    )  # fmt: skip
    c = common.base()
    c.model.base = arg.base
    c.model.param_dtype = c.model.compute_dtype = "bfloat16"
    c.model.remat, c.model.chunk = "full", 512
    common.tune(c, full=False, rank=arg.rank)
    c.optim.learning_rate = 5e-6
    c.optim.schedule = dict(name="linear", warmup_ratio=0.1)
    c.objective = dict(name="dpo", beta=arg.beta)
    c.data = dict(name="jsonl", path=arg.path, kind="preference", max_tokens=2048)
    if arg.held:
        held = dict(name="jsonl", path=arg.held, kind="preference")
        c.evals.pairs = dict(name="preference", group="new", beta=arg.beta, data=held, rows=512)
    c.mesh = dict(data=1, fsdp=-1, expert=1, sequence=1, tensor=arg.tensor)
    c.steps, c.batch_size, c.accumulate = arg.steps, 32, 2
    c.checkpoint.every_steps, c.eval_every_steps = 100, 500
    if arg.runlocal:
        c.model.base = "tiny"
        c.mesh = dict(data=-1, fsdp=1, expert=1, sequence=1, tensor=1)
        common.shrink(c, stand_in=True, kind="preference")
    return c
