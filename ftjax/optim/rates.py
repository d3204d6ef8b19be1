"""Learning rates to begin with, by the size of what is fine-tuned.

LoRA's best rate is about ten times that of full fine-tuning ("LoRA Without Regret", Schulman et al.
2025), and both fall as models grow. From 300 million parameters on, the rates are those of the
alignment handbook's recipes for Zephyr 7B (arXiv:2310.16944): 2e-4 and 2e-5 for supervised
fine-tuning, 5e-6 and 5e-7 for DPO. Those below are interpolations toward the embedded base of 1.5
million, whose own were found by search. A start, not an optimum: sweep around it.
"""

from typing import NamedTuple

FAR = 10.0  # times the usual rate
BIG = 300_000_000  # parameters from which a base counts as big


class Rates(NamedTuple):
    """Peak learning rates of one size."""

    lora: float
    full: float
    preference_lora: float
    preference_full: float


# (parameters below which it holds, rates); the last holds for all larger ones.
TABLE = (
    (20_000_000, Rates(3e-3, 3e-4, 1e-3, 3e-5)),
    (BIG, Rates(1e-3, 1e-4, 5e-5, 5e-6)),
    (20_000_000_000, Rates(2e-4, 2e-5, 5e-6, 5e-7)),
    (float("inf"), Rates(1e-4, 1e-5, 5e-6, 5e-7)),
)


def usual(parameters: int, *, full: bool, preference: bool = False) -> float:
    """Return the rate to begin with for a base of so many parameters."""
    rates = next(rates for below, rates in TABLE if parameters < below)
    if preference:
        return rates.preference_full if full else rates.preference_lora
    return rates.full if full else rates.lora


def note(rate: float, parameters: int, *, full: bool, preference: bool = False) -> str:
    """Return a warning where a rate is far above the usual one of a larger base, else ""."""
    expected = usual(parameters, full=full, preference=preference)
    if is_tiny(parameters) or rate <= FAR * expected:
        return ""
    return (
        f"optim.learning_rate: got {rate:g} for a base of {parameters:,} parameters; such runs "
        f"usually take about {expected:g} and may diverge above"
    )


def is_tiny(parameters: int) -> bool:
    """Return whether a base is of the embedded one's size, for which the configs' rates are."""
    return parameters < TABLE[0][0]
