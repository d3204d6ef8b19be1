r"""Fine-tune on medical questions and answers with any adapter method, each at several rates.

    python -m experiments.train --config configs/adapters_medical.py:method=vera --workdir runs/vera
    python -m scripts.adapters_table --arg data=DATA --workdir runs/adapters --out docs/adapters.md

Model, data and evaluations are those of `configs/sft_medical.py`, at half its steps, and all
methods adapt all linear maps with settings comparable with LoRA's of `rank`. "full" trains all
weights, "norms" the norms alone; STARTS are LoRA from other starts, "loftq" over a base in nf4. The
learning rate of a method is chosen on eval/choice, a part of the data that no other number comes
from.

Two CPU cores, about a minute a run. Expect eval/medical/nll 4.81 before and about 3.5 after LoRA.
"""

from configs import common, sft_medical
from ftjax.adapters.multi import catalogue

STARTS = dict(  # LoRA that begins elsewhere, or has another scale
    rslora=dict(rslora=True), pissa=dict(init="pissa"), milora=dict(init="milora"),
    olora=dict(init="olora"), eva=dict(init="eva", batches=4),
    lora_ga=dict(init="lora_ga", batches=1), loftq=dict(init="loftq", iterations=1),
)  # fmt: skip
BASE = {"full": ("model/**",), "norms": ("model/**norm",)}  # what trains where there is no adapter
RATES = (1e-3, 3e-3, 1e-2)
SLOW, FAST = (1e-4, 3e-4, 1e-3), (3e-3, 1e-2, 3e-2)
OTHER_RATES = {"full": SLOW} | dict.fromkeys(("norms", "vera", "ia3", "fourierft", "boft"), FAST)


def get_config(arg=None):
    """Return the config; `rate=0` is the middle one of the method's."""
    arg = common.parse_arg(
        arg, data=common.data_folder(), base="tiny", method="lora", rate=0.0, rank=8, steps=100,
        runlocal=False,
    )  # fmt: skip
    c = sft_medical.get_config(f"data={arg.data},base={arg.base},steps={arg.steps},full")
    c.trainable, c.optim.no_decay = BASE.get(arg.method, ()), ()
    if arg.method not in BASE:
        name = "lora" if arg.method in STARTS else arg.method
        own = catalogue.example(name, rank=arg.rank) | STARTS.get(arg.method, {})
        c.adapter = dict(name=name, where="" if catalogue.is_of_model(name) else "blocks/**", **own)
    if arg.method == "loftq":  # over a base in four bits, which it repairs
        c.model.quantize.name = "nf4"
    full = arg.method in BASE
    c.optim.learning_rate = arg.rate or common.rate(arg.base, rates(arg.method)[1], full=full)
    held = dict(c.evals.medical.data, path=f"{arg.data}/medical/medquad/validation.jsonl.gz")
    c.evals.choice = dict(c.evals.medical, data=held)
    c.samples.prompts = ()
    return common.shrink(c, stand_in=True) if arg.runlocal else c


def rates(method: str) -> tuple[float, ...]:
    """List the learning rates that a method is tried at."""
    return OTHER_RATES.get(method, RATES)


def sweep():
    """List every method at each of its learning rates."""
    return {
        f"{method}-{rate:g}": f"method={method},rate={rate:g}"
        for method in (*catalogue.names(), *STARTS, *BASE)
        for rate in rates(method)
    }
