r"""Fine-tune on programming tasks and their programs (CodeAlpaca), with LoRA or in full.

    python -m experiments.train --config configs/sft_code.py:data=DATA --workdir runs/code
    python -m experiments.train --config configs/sft_code.py:data=DATA,full --workdir runs/code_full
    python -m experiments.compare --config configs/sft_code.py:data=DATA --workdir runs/both

DATA holds code/codealpaca/{train,test}.jsonl.gz and code/mbpp/test.jsonl.gz with `prompt` and
`response`, and corpus/{wiki,tinystories}/test.jsonl.gz with `text`; the environment variable
FTJAX_DATA is its default.

Two CPU cores, about two minutes a run from the embedded base. Expect eval/code/nll 3.65 before,
1.98 after LoRA, 2.18 after full fine-tuning (one run each).
"""

from configs import common


def get_config(arg=None):
    """Return the config; `base=DIR` starts from another model."""
    arg = common.parse_domain(arg)
    c = common.domain(arg)
    pairs = dict(name="jsonl", kind="prompt", fields=dict(prompt="{prompt}\n", response="response"))
    path = lambda name: f"{arg.data}/code/{name}.jsonl.gz"
    c.data = dict(pairs, path=path("codealpaca/train"), max_tokens=256)
    for label, name in dict(code="codealpaca/test", mbpp="mbpp/test").items():
        held = dict(pairs, path=path(name))
        c.evals[label] = dict(name="nll", group="new", data=held, rows=100)
    c.samples.prompts = ("Write a Python function that adds two numbers.\n",)
    return common.shrink(c, stand_in=True) if arg.runlocal else c


def sweep():
    """List the variants that `experiments.compare` runs."""
    return {"LoRA": "", "full": "full"}
