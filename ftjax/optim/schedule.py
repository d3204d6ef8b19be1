"""Learning rates as pure functions of the step: a linear warm-up, then one of five shapes.

    lr(n) = learning_rate * n / warmup_steps                      for n < warmup_steps
    lr(n) = learning_rate * shape((n - warmup) / (total - warmup))   after it

n counts finished optimizer steps, so with a warm-up the first step has learning rate 0. `linear`,
`cosine` and `inverse_sqrt` agree with `get_*_schedule` of Hugging Face transformers up
to `total_steps`; past it they stay at their last value. `warmup_ratio` and `decay_ratio` say
`warmup_steps` and `decay_steps` as a part of all steps, so that they follow the length of a run.
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from ftjax.core import config as conf
from ftjax.core import typed
from ftjax.core.typed import Natural, Share

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]
DECAYS = {
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + jnp.cos(jnp.pi * progress)),
    "sqrt": lambda progress: 1.0 - jnp.sqrt(progress),
}


def make(schedule: str | Mapping, *, learning_rate, total_steps: int, where: str) -> Schedule:
    """Return the schedule by name, `"linear"` or `dict(name="cosine", warmup_steps=100)`.

    learning_rate: the peak, a number or a scalar array; the result maps an integer step to float32.
    `warmup_ratio` and `decay_ratio` (from 0 to 1, of all steps, rounded down) may take the place of
    `warmup_steps` and `decay_steps`. Raises ValueError for an unknown name or key, and for more
    warm-up than steps.
    """
    spec = {"name": schedule} if isinstance(schedule, str) else dict(schedule)
    name = spec.pop("name", None)
    if not isinstance(name, str) or name not in SCHEDULES:
        fix = conf.nearest(name, SCHEDULES)
        raise ValueError(f"{where}.name: got {name!r}; {fix}expected one of {', '.join(SCHEDULES)}")
    spec = _in_steps(spec, total_steps, where=where)
    shape = conf.call(SCHEDULES[name], spec, where=where, extra={"total_steps": total_steps})
    peak = jnp.asarray(learning_rate, jnp.float32)
    return lambda step: peak * shape(jnp.asarray(step, jnp.float32))


def _in_steps(spec: Mapping, total_steps: int, *, where: str) -> dict:
    """Return a spec without ratios, whose warm-up is known to fit into the steps."""
    found = {key: value for key, value in spec.items() if key not in RATIOS}
    for key, name in RATIOS.items():
        ratio = spec.get(key)
        if ratio is None:
            continue
        conf.check(ratio, Share, where=f"{where}.{key}")
        if found.get(name):
            raise ValueError(
                f"{where}.{key}: got {ratio} beside {name} = {found[name]}; expected one of them"
            )
        # 0.29 * 100 is 28.999999999999996: it is meant whole.
        found[name] = math.floor(ratio * total_steps + 1e-6)
    found = {key: value for key, value in found.items() if value is not None or key not in STEPS}
    warmup = found.get("warmup_steps", 0)
    conf.check(warmup, Natural, where=f"{where}.warmup_steps")
    if warmup > total_steps:
        raise ValueError(
            f"{where}.warmup_steps: got {warmup}; expected 0 to total_steps = {total_steps}, or "
            "the peak is never reached; shorten the warm-up, or give it as warmup_ratio"
        )
    return found


def constant(*, warmup_steps: Natural = 0) -> Schedule:
    """Stay at the peak."""
    return _warm(lambda step: jnp.ones_like(step), warmup_steps)


def linear(*, total_steps: int, warmup_steps: Natural = 0, final_fraction: Share = 0.0) -> Schedule:
    """Fall in a straight line to `final_fraction` of the peak at `total_steps`."""
    return _fall("linear", warmup_steps, total_steps, warmup_steps, final_fraction)


def cosine(*, total_steps: int, warmup_steps: Natural = 0, final_fraction: Share = 0.0) -> Schedule:
    """Fall along half a cosine to `final_fraction` of the peak (arXiv:1608.03983)."""
    return _fall("cosine", warmup_steps, total_steps, warmup_steps, final_fraction)


def wsd(
    *,
    total_steps: int,
    decay_steps: Natural,
    warmup_steps: Natural = 0,
    final_fraction: Share = 0.0,
    decay: str = "linear",
) -> Schedule:
    """Warm up, stay, then fall during the last `decay_steps` (arXiv:2404.06395, 2405.18392).

    decay: "linear", "cosine" or "sqrt" (1 - sqrt of the progress).
    """
    if decay not in DECAYS:
        raise ValueError(f"schedule.decay: got {decay!r}; expected one of {', '.join(DECAYS)}")
    start = total_steps - decay_steps
    if start < warmup_steps:
        raise ValueError(
            f"schedule.decay_steps: got {decay_steps}; expected at most "
            f"{total_steps - warmup_steps}, total_steps - warmup_steps; shorten the decay"
        )
    return _fall(decay, start, total_steps, warmup_steps, final_fraction)


def inverse_sqrt(*, warmup_steps: Natural = 0, timescale: typed.Count | None = None) -> Schedule:
    """Fall as 1 / sqrt(step); `timescale` is where the peak is, the warm-up or else 10 000."""
    # 10 000 is Hugging Face's, for schedules without a warm-up.
    scale = timescale or warmup_steps or 10_000
    return _warm(lambda step: jax.lax.rsqrt((step + scale - warmup_steps) / scale), warmup_steps)


RATIOS = {"warmup_ratio": "warmup_steps", "decay_ratio": "decay_steps"}
STEPS = tuple(RATIOS.values())
SCHEDULES = {each.__name__: each for each in (constant, linear, cosine, wsd, inverse_sqrt)}


def _fall(decay: str, start: int, stop: int, warmup_steps: int, final_fraction: float) -> Schedule:
    if not 0 <= warmup_steps <= stop:
        raise ValueError(
            f"schedule.warmup_steps: got {warmup_steps}; expected 0 to total_steps = {stop}"
        )

    def shape(step):
        # max: a decay of no steps would divide by zero.
        progress = jnp.clip((step - start) / max(1, stop - start), 0.0, 1.0)
        return final_fraction + (1.0 - final_fraction) * DECAYS[decay](progress)

    return _warm(shape, warmup_steps)


def _warm(shape: Schedule, warmup_steps: int) -> Schedule:
    # jnp.where computes both branches: a shape must not see steps before its start.
    return lambda step: jnp.where(
        step < warmup_steps, step / max(1, warmup_steps), shape(jnp.maximum(step, warmup_steps))
    )
