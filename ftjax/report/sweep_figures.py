"""The figures of a sweep: every job by its keys, and a metric over each of them.

    draw(axes, values, metric="eval/held/nll", direction=-1, shares=[0.8, None])

Returns {caption: svg}. Axes are those of `launch.lib.effects`: places of jobs on the scale of a
key, with the names of some.
"""

from collections.abc import Sequence

import numpy as np

from ftjax.report import curves

MOST = 6  # keys, those that explain most
NAMES = 6  # of values at an axis; of more the ends
BEST = 3  # one job of so many has colour


def draw(
    axes: Sequence, values: Sequence[float], *, metric: str, direction: int,
    shares: Sequence[float | None],
) -> dict[str, str]:  # fmt: skip
    """Draw jobs over their keys; values [jobs] of the metric, direction 1 if more is better."""
    values = np.asarray(values, float)
    order = sorted(range(len(axes)), key=lambda n: -(shares[n] or 0.0))[:MOST]
    chosen = [axes[n] for n in sorted(order)]
    found = {f"every job by its keys, {metric} the best at the top": curves.drawn(
        "keys", lambda plot: _parallel(plot, chosen, values, metric, direction))}  # fmt: skip
    for n in order:
        known = "" if shares[n] is None else f": {shares[n]:.0%} of its variance"
        caption = f"{metric} over {axes[n].name}{known}"
        make = lambda plot, own=axes[n]: _over(plot, own, values, metric)
        found[caption] = curves.drawn(caption, make)
    return found


def _named(ticks: Sequence[tuple[float, str]]) -> Sequence[tuple[float, str]]:
    return ticks if len(ticks) <= NAMES else (ticks[0], ticks[-1])


def _parallel(plot, axes: Sequence, values: np.ndarray, metric: str, direction: int) -> None:
    """Draw a line for each job through its place at every key, and at the metric, best on top."""
    ends = [(float(v), f"{v:.4g}") for v in (values.min(), values.max())]
    columns = [(own.name, own.places, _named(own.ticks), 1) for own in axes]
    columns.append((metric, values, ends, direction))
    lines = np.array([_up(own[1], own[1], own[3]) for own in columns])  # [columns, jobs]
    rank = np.argsort(np.argsort(-direction * values, kind="stable"), kind="stable")
    for job in np.argsort(-rank):  # the best last, above the others
        is_good = rank[job] * BEST < len(values)
        color = curves.SERIES[1] if rank[job] == 0 else curves.SERIES[0] if is_good else curves.SOFT
        plot.plot(range(len(columns)), lines[:, job], color=color, alpha=0.9 if is_good else 0.45,
                  linewidth=2.0 if rank[job] == 0 else 1.0)  # fmt: skip
    texts = [
        (column, float(_up(np.array(at), places, way)), text)
        for column, (_, places, ticks, way) in enumerate(columns) for at, text in ticks
    ]  # fmt: skip
    for column, height, text in texts:
        plot.annotate(text, (column, height), xytext=(4, 0), textcoords="offset points",
                      color=curves.INK, va="center", fontsize=8, annotation_clip=False)  # fmt: skip
    plot.set_xticks(range(len(columns)), [_short(name) for name, *_ in columns])
    plot.set_yticks([])
    plot.set_xlim(-0.1, len(columns) - 0.6)


def _up(at: np.ndarray, places: np.ndarray, way: int) -> np.ndarray:
    """Return heights 0 to 1 of places on the scale of all; way -1: the lowest on top."""
    low, high = places.min(), places.max()
    height = (at - low) / ((high - low) or 1.0)
    return height if way > 0 else 1 - height


def _short(name: str) -> str:
    """Return the last parts of keys or of a metric, each on a line of its own."""
    parts = [part.rpartition(".")[2] for part in name.split(", ")]
    return "\n".join(dict.fromkeys(parts)).replace("eval/", "")


def _over(plot, own, values: np.ndarray, metric: str) -> None:
    """Draw the metric of each job over a key, and the mean at each of its values."""
    plot.plot(own.places, values, "o", color=curves.SERIES[0], markersize=4, alpha=0.8)
    if len(own.ticks) <= len(values) / 2:
        means = [values[own.level == n].mean() for n in range(len(own.ticks))]
        plot.plot([at for at, _ in own.ticks], means, color=curves.SERIES[1], linewidth=1.4)
    plot.set_xticks(*zip(*_named(own.ticks), strict=True))
    plot.set_xlabel(own.name + (" (log scale)" if own.is_log else ""))
    plot.set_ylabel(metric)
