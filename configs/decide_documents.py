r"""A folder of documents and questions about them: train on the texts, retrieve, or both?

    python -m experiments.decide --workdir runs/docs
        --config configs/decide_documents.py:docs=my_docs,train=train.jsonl,held=test.jsonl,base=DIR

`docs` is a folder of texts, Markdown and web pages, or JSONL of `id` and `text`; questions are rows
as configs/decide.py has them, whose `passage_id` may name a document (its file) or be left out.
Documents are cut to 128 tokens. Beside the arms of decide.py, `lora_texts` goes on training on the
documents alone, without any answered question. The defaults are SQuAD in DATA/qa/squad; FTJAX_DATA
is the default of `data`.

Hardware: the embedded base runs on two CPU cores and answers next to nothing of the defaults.
"""

from configs import decide


def get_config(arg=None):
    """Return the config; `base=DIR` starts from another model."""
    arg = decide.parse(arg, docs="", train="", held="", asked=60, k=2, trials=1)
    squad = f"{arg.data}/qa/squad"
    c = decide.of_files(arg, squad, metric="f1")
    if arg.train:
        c.train.answers = dict(name="jsonl", path=arg.train)
    if arg.held:
        c.test.answers = dict(name="jsonl", path=arg.held)
    docs = dict(name="documents", path=arg.docs or f"{squad}/passages.jsonl.gz")
    c.passages, c.train.texts = docs, dict(docs, kind="text")
    c = decide.finish(c, arg)
    for name in ("lora", "full", "lora_rag"):
        if name in c.arms:
            c.arms[name].train = ("answers",)
    c.arms.lora_texts = dict(name="lora", trials=(), train=("texts",))
    return c
