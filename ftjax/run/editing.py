"""Edits of a finished run: weights from weights, measured by the run's own evaluations.

    found = measure(run, evaluation, amounts=[0, 0.5, 1], edit="interpolate")
    found[0.5].after["wiki/nll"], found[0.5].estimates["wiki/nll"]

    edit              what an amount is                                  other runs
    interpolate       (1 - amount) base + amount tuned                   one, in the base's place
    dial              how far adapters are turned, along their own path  none
    reduce_intruders  what is left of every intruder                     none
    soup              the run's share of the mean, the rest in equals    one at least
    ties, dare        strength of the merged change; 0 is the base       of the same base

Of the first four 1 is the run as it is; of the first two 0 is the base.
Adapters are merged first, but for `dial`. What no edit changes is handed on as it is: at its zero
the scores of an edit are those of the run to the bit. See `ftjax/train/edits.py` for the sources.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax

from ftjax.adapters.lib import protocol
from ftjax.core import config as conf
from ftjax.run import comparison
from ftjax.run.build import Parts
from ftjax.run.reader import Run
from ftjax.train import edits


class Edit(NamedTuple):
    """An edit: its function of (run, others, amount, key), and how many others it takes."""

    make: Callable[[Run, Sequence[Run], float, jax.Array], dict]
    others: tuple[int, int | None]


def dense(parts: Parts, params: Mapping) -> dict:
    """Return the weights of a model without adapters that computes what `params` do."""
    return protocol.merge(params["model"], params["adapters"] or {}, parts.model.linears)


def _with_model(run: Run, model) -> dict:
    return {**run.params, "model": model, "adapters": None}


def _interpolate(run: Run, others: Sequence[Run], amount: float, _: jax.Array) -> dict:
    start = others[0].params if others else run.base
    # At the ends nothing is computed: a mix with 0 would round, and not be the run to the bit.
    if amount in (0, 1):
        return run.params if amount else {**run.params, **start}
    ends = dense(run.parts, start), dense(run.parts, run.params)
    return _with_model(run, edits.interpolate(*ends, amount))


def _dial(run: Run, _: Sequence[Run], amount: float, __: jax.Array) -> dict:
    # Weights have no path of their own between start and end; a straight one is `interpolate`.
    if run.parts.method is None:
        raise ValueError(
            "--edit: got 'dial' of a run without adapters; expected some; use 'interpolate'"
        )
    return {**run.params, "adapters": edits.dial(run.params["adapters"], amount)}


def _reduce_intruders(run: Run, _: Sequence[Run], amount: float, __: jax.Array) -> dict:
    if amount == 1:
        return run.params
    # Merged first: an intruder is a singular vector of the whole weight, not of an adapter's.
    ends = dense(run.parts, run.base), dense(run.parts, run.params)
    linears = run.parts.model.linears
    return _with_model(run, edits.reduce_intruders(*ends, linears, strength=amount))


def _soup(run: Run, others: Sequence[Run], amount: float, _: jax.Array) -> dict:
    if amount == 1:
        return run.params
    models = [dense(each.parts, each.params) for each in (run, *others)]
    # Shares sum to 1, so a soup of one model with itself is that model.
    rest = [(1 - amount) / len(others)] * len(others)
    return _with_model(run, edits.soup(models, [amount, *rest]))


def _ties(run: Run, others: Sequence[Run], amount: float, _: jax.Array) -> dict:
    models = [dense(each.parts, each.params) for each in (run, *others)]
    return _with_model(run, edits.ties(dense(run.parts, run.base), models, strength=amount))


def _dare(run: Run, others: Sequence[Run], amount: float, key: jax.Array) -> dict:
    models = [dense(each.parts, each.params) for each in (run, *others)]
    base = dense(run.parts, run.base)
    return _with_model(run, edits.dare(base, models, strength=amount, key=key))


EDITS: Mapping[str, Edit] = {
    "interpolate": Edit(_interpolate, (0, 1)), "dial": Edit(_dial, (0, 0)),
    "reduce_intruders": Edit(_reduce_intruders, (0, 0)), "soup": Edit(_soup, (1, None)),
    "ties": Edit(_ties, (0, None)), "dare": Edit(_dare, (0, None)),
}  # fmt: skip


def check(edit: str, others: int) -> None:
    """Check the name of an edit, and how many runs stand beside the edited one.

    Raises:
      ValueError: naming the flag.
    """
    if edit not in EDITS:
        hint = conf.nearest(edit, EDITS)
        raise ValueError(f"--edit: got {edit!r}; {hint}expected one of {', '.join(EDITS)}")
    least, most = EDITS[edit].others
    if others < least or (most is not None and others > most):
        wanted = f"{least} at least" if most is None else f"{most} at most"
        raise ValueError(f"--other: got {others} with {edit!r}; expected {wanted}")


def edited(
    run: Run, edit: str, amount: float, *, others: Sequence[Run] = (), seed: int = 0
) -> dict:  # fmt: skip
    """Return the edited params; `seed` is of DARE's draw.

    Raises:
      ValueError: the edit cannot be made of this run, or of these together.
    """
    # The same key for every amount, or a curve over amounts would be of other draws.
    return EDITS[edit].make(run, others, amount, jax.random.key(seed))


def measure(
    run: Run, evaluators: Mapping, *, edit: str, amounts: Sequence[float],
    others: Sequence[Run] = (), seed: int = 0,
) -> dict[float, comparison.Comparison]:  # fmt: skip
    """Run every evaluator on the base and on the edited weights of every amount."""

    def made() -> Iterator[tuple[float, dict]]:
        # One at a time: a list would hold a model for every amount.
        for amount in amounts:
            yield amount, edited(run, edit, amount, others=others, seed=seed)

    return comparison.against(evaluators, run.base, made())
