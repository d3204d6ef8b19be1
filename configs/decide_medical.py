r"""Yes or no from the abstract of a study (PubMedQA): prompt, retrieve, fine-tune, or both?

    python -m experiments.decide --config configs/decide_medical.py:data=DATA --workdir runs/medical
    python -m experiments.decide --workdir runs/medical_big
        --config configs/decide_medical.py:data=DATA,base=DIR,asked=300,k=2

DATA holds medical/pubmedqa/{train,validation,test}.jsonl.gz, whose `context` is the abstract that
answers a `question`, and whose `label` is yes, no or maybe; FTJAX_DATA is its default. All
abstracts are passages, cut to 128 tokens. Three trials an arm, chosen on validation. Research
only: no answer of such a model is medical advice.

Hardware: two CPU cores for the embedded base, which reads no abstracts; 58 % of the test rows say
yes, which is what an arm gets that has learned no more: with `asked=60,steps=30,seeds=1,trials=1`,
7 minutes of processor time, LoRA .60, in full .62, with retrieval .37, and what is not trained
nothing.
"""

from configs import decide

ROW = dict(fields=dict(answer="label", passage_id="id"), template="{question} yes, no or maybe?\n")


def get_config(arg=None):
    """Return the config; `base=DIR` starts from another model."""
    arg = decide.parse(arg, rows=440, asked=60, k=2, max_new_tokens=4)
    folder = f"{arg.data}/medical/pubmedqa"
    c = decide.of_files(arg, folder, **ROW)
    c.passages = dict(
        name="jsonl", path=[f"{folder}/{name}.jsonl.gz" for name in ("train", "validation", "test")]
    )
    return decide.finish(c, arg)
