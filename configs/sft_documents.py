r"""Go on training on a folder of documents: continued pretraining, with LoRA or in full.

    python -m experiments.train --config configs/sft_documents.py:docs=my_docs --workdir runs/docs
    python -m experiments.compare --config configs/sft_documents.py:docs=my_docs --workdir runs/both

`docs` is a folder of text files, or JSONL with a `text` field; every token is learned, and long
documents are split. `held` is what the new domain is measured on. The defaults are Shakespeare in
DATA/corpus/shakespeare, and DATA/corpus/{wiki,tinystories}/test.jsonl.gz are the old domains;
the environment variable FTJAX_DATA is the default of `data`.

Two CPU cores, about a minute a run from the embedded base. Expect eval/documents/nll 5.23 before,
3.65 after LoRA, 3.68 after full fine-tuning (one run each).
"""

from configs import common


def get_config(arg=None):
    """Return the config; `base=DIR` starts from another model."""
    arg = common.parse_domain(arg, docs="", held="")
    c = common.domain(arg)
    plays = f"{arg.data}/corpus/shakespeare"
    c.data = dict(
        name="documents", kind="text", path=arg.docs or f"{plays}/train.jsonl.gz", max_tokens=256,
        loss="all",
    )  # fmt: skip
    held = dict(c.data.to_dict(), path=arg.held or f"{plays}/test.jsonl.gz")
    c.evals.documents = dict(name="nll", group="new", data=held, rows=100)
    c.samples.prompts = ("KING HENRY:\n",)
    return common.shrink(c, stand_in=True) if arg.runlocal else c


def sweep():
    """List the variants that `experiments.compare` runs."""
    return {"LoRA": "", "full": "full"}
