r"""Fine-tune on medical questions and answers (MedQuAD), with LoRA or in full.

    python -m experiments.train --config configs/sft_medical.py:data=DATA --workdir runs/medical
    python -m experiments.train --config configs/sft_medical.py:data=DATA,full --workdir runs/full
    python -m experiments.compare --config configs/sft_medical.py:data=DATA --workdir runs/both

`:data=DATA,drift` also measures how far the distributions moved from the base's, with adapters
(docs/forgetting.md).

DATA holds medical/medquad/{train,test}.jsonl.gz with `prompt` and `response`, and
corpus/{wiki,tinystories}/test.jsonl.gz with `text`; the environment variable FTJAX_DATA is its
default. Research on fine-tuning only: no answer of such a model is medical advice.

Two CPU cores, about two minutes a run from the embedded base. Expect eval/medical/nll 4.81 before,
3.03 after LoRA, 3.21 after full fine-tuning (one run each).
"""

from configs import common


def get_config(arg=None):
    """Return the config; `base=DIR` starts from another model."""
    arg = common.parse_domain(arg, drift=False)
    c = over(arg)
    if arg.drift:
        for name in ("medical", "wiki"):
            c.evals[f"{name}_drift"] = dict(c.evals[name], name="drift")
    return common.shrink(c, stand_in=True) if arg.runlocal else c


def over(arg):
    """Return the config for parsed arguments, for configs that vary it."""
    c = common.domain(arg)
    pairs = dict(name="jsonl", kind="prompt", fields=dict(prompt="{prompt}\n", response="response"))
    folder = f"{arg.data}/medical/medquad"
    c.data = dict(pairs, path=f"{folder}/train.jsonl.gz", max_tokens=256)
    held = dict(pairs, path=f"{folder}/test.jsonl.gz")
    c.evals.medical = dict(name="nll", group="new", data=held, rows=100)
    c.samples.prompts = ("What is glaucoma?\n", "What are the symptoms of asthma?\n")
    return c


def sweep():
    """List the variants that `experiments.compare` runs."""
    return {"LoRA": "", "full": "full"}
