r"""QLoRA (arXiv:2305.14314): LoRA over a frozen base in 4 or 8 bits, on medical answers.

    python -m experiments.train --config configs/qlora.py:data=DATA --workdir runs/nf4
    python -m experiments.train --config configs/qlora.py:data=DATA,format=int8 --workdir runs/int8
    python -m experiments.compare --config configs/qlora.py:data=DATA --workdir runs/qlora

`format` is nf4, int8 or none (the base in bfloat16, to compare with); DATA and `base=DIR` are those
of `sft_medical.py`. All linear maps of the blocks are quantised while the base is read, layer by
layer; the embedding and the norms stay in bfloat16. Trained are LoRA's factors, in float32. The
embedded base takes 2,886,912 bytes in bfloat16, 1,737,984 in int8, 1,136,352 in nf4. 200
steps bring eval/medical/nll to 3.025 over bfloat16, 3.025 over int8, 3.031 over nf4 (one run each).
"""

from configs import common, sft_medical

FORMATS = ("none", "int8", "nf4")


def get_config(arg=None):
    """Return the config of `sft_medical.py` over a base in few bits."""
    arg = common.parse_domain(arg, format="nf4")
    c = sft_medical.over(arg)
    c.model.param_dtype = "bfloat16"
    c.model.quantize.name = "" if arg.format == "none" else arg.format
    return common.shrink(c, stand_in=True) if arg.runlocal else c


def sweep():
    """List the variants that `experiments.compare` runs."""
    return {name: f"format={name}" for name in FORMATS}
