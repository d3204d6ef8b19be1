r"""Questions about Wikipedia paragraphs (SQuAD): prompt, retrieve, fine-tune, or both?

    python -m experiments.decide --config configs/decide_squad.py:data=DATA --workdir runs/squad
    python -m experiments.decide --workdir runs/squad_full
        --config configs/decide_squad.py:data=DATA,base=DIR,asked=993,rows=5000,k=4

DATA holds qa/squad/{train,validation,test,passages}.jsonl.gz, questions with `answers` and a
`passage_id`; FTJAX_DATA is its default. Paragraphs stay whole. Training has other articles than the
test: nothing that is asked can be learned but how to answer, so that passages are what counts.
Retrieval is measured over all test questions; arms answer `asked` of them.

Hardware: the embedded base and its 512 positions hold one paragraph (`k=1`) and answer next to
none: expect recall@1 of .765 and recall@5 of .923 with BM25, F1 of .00 to .03, and zero-shot as the
cheapest of arms of which none is better. Of 60 questions, with rows=400,steps=30,seeds=1, all of it
took 7 minutes of one core. Any other base of Hugging Face's files takes the same command.
"""

from configs import decide


def get_config(arg=None):
    """Return the config; `base=DIR` starts from another model."""
    arg = decide.parse(arg, asked=60, rows=1000, k=1, trials=1)
    folder = f"{arg.data}/qa/squad"
    c = decide.of_files(arg, folder, metric="f1")
    c.passages = dict(name="jsonl", path=f"{folder}/passages.jsonl.gz")
    c.passage_tokens = 1 << 16  # as they are
    c.test.answers.cluster = "{passage_id}"  # questions about a paragraph are drawn together
    return decide.finish(c, arg)
