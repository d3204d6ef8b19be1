"""The figures of a study's report, each an inline SVG of numbers that report.json holds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from ftjax.report import curves

MARKS = "osD^vP"
DASHES = ("-", "--", ":", "-.")  # of methods that share a colour
MANY = 9  # methods that are rows of a figure rather than lines of it
COLUMNS = 4  # of names below a figure, at most
MARK_WIDTH, LETTER = 38.0, 5.4  # points that a name's mark and a letter of it take


class Point(NamedTuple):
    """A mean over runs with its interval, on both axes."""

    x: float
    y: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]


def draw(report: Mapping) -> dict[str, str]:
    """Draw all figures that the report has numbers for, by their captions."""
    figures = {
        "Learned against forgotten at the end, a point a rate": _front,
        "Forgetting at the match over the learning rate": _sweep,
        "Forgetting at the match, of every method": _ranked,
        "Drift on the new task against forgetting": lambda own: _drift(own, "kl_forward_new"),
        "Drift on old texts against forgetting": lambda own: _drift(own, "kl_forward_old"),
        "How many directions the change has": _energy,
        "Intruders after the last stage": _intruders,
    }
    sweeps = {
        f"Forgetting at the match over {axis}": lambda own, axis=axis: _axis(own, axis)
        for axis in report["axes"]
    }
    found = {caption: make(report) for caption, make in (figures | sweeps).items()}
    return {caption: drawing for caption, drawing in found.items() if drawing}


# -- figures ---------------------------------------------------------------------------------------


def _front(report: Mapping) -> str:
    series = {}
    for name, own in report["methods"].items():
        ends = [one["end"] for one in own["rates"].values() if one["end"]]
        series[name] = [_point(end["gain"], end["forgetting"]) for end in ends]

    def axes_of(axes) -> None:
        _points(axes, series)
        axes.axvline(report["match"]["fraction"], color=curves.INK, linewidth=0.8, linestyle=":")
        axes.set_xlabel("gain right after learning (1 = the top)")
        axes.set_ylabel("forgetting")
        _log_of(axes, [p for points in series.values() for p in points])
        _floor_at_end(axes, report)

    return _drawn("front", axes_of)


def _ranked(report: Mapping) -> str:
    """Draw many methods as rows, from the one that forgets least on; few are in the sweep."""
    known = {name: own["matched"] for name, own in report["methods"].items()}
    known = {name: m for name, m in known.items() if m["rate"] is not None}
    if len(known) < MANY:
        return ""
    names = sorted(known, key=lambda name: known[name]["value"], reverse=True)

    def axes_of(axes) -> None:
        rows, at = range(len(names)), [known[name]["value"] for name in names]
        ends = np.array([[known[name]["low"], known[name]["high"]] for name in names]).T
        axes.errorbar(at, rows, xerr=np.abs(ends - at), color=curves.SERIES[0], marker="o",
                      markersize=4, linestyle="", elinewidth=0.9)  # fmt: skip
        axes.set_yticks(rows, names)
        axes.set_xlabel("forgetting")

    return curves.drawn("ranked", axes_of, height=0.8 + 0.19 * len(names))


def _sweep(report: Mapping) -> str:
    series = {
        name: [
            _matched(float(rate), one["forgetting_at_match"])
            for rate, one in own["rates"].items()
            if one["forgetting_at_match"]
        ]
        for name, own in report["methods"].items()
    }
    if len(series) >= MANY and all(len(own["rates"]) < 2 for own in report["methods"].values()):
        return ""  # nothing is swept, and the methods are rows of their own figure

    def axes_of(axes) -> None:
        _band(axes, report)
        _points(axes, series)
        _log(axes, [p[0] for points in series.values() for p in points])
        axes.set_xlabel("learning rate")
        axes.set_ylabel("forgetting")
        _log_of(axes, [p for points in series.values() for p in points])

    return _drawn("sweep", axes_of)


def _axis(report: Mapping, axis: str) -> str:
    """Draw the matched forgetting of methods that differ in one number, such as a rank."""
    places = report["axes"][axis]
    known = {name: report["methods"][name]["matched"] for name in places}
    points = [_matched(places[name], m) for name, m in known.items() if m["rate"] is not None]
    if len(points) < 2:
        return ""

    def axes_of(axes) -> None:
        _band(axes, report)
        _points(axes, {axis: sorted(points)})
        if min(places.values()) > 0:
            _log(axes, places.values())
        axes.set_xlabel(axis)
        axes.set_ylabel("forgetting")

    return _drawn(f"axis {axis}", axes_of)


def _drift(report: Mapping, predictor: str) -> str:
    """Draw forgetting against a divergence, a point a cell, with the fit of the blind methods."""
    drift = report["drift"]
    if not drift or not all(predictor in point for point in drift["points"]):
        return ""
    fits = drift["fits"]["without_old_data"]
    series = {
        name: [(p[predictor], p["forgetting"]) for p in drift["points"] if p["method"] == name]
        for name in report["methods"]
    }

    def axes_of(axes) -> None:
        for n, (name, points) in enumerate(series.items()):
            if points:
                axes.plot(*zip(*points, strict=True), color=_color(n), label=name,
                          marker=MARKS[n % len(MARKS)], markersize=4, linestyle="")  # fmt: skip
        if own := fits.get(predictor):
            _curve(axes, own["coefficients"], [p[0] for points in series.values() for p in points])
        axes.set_xlabel("KL(base, model), nats per token")
        axes.set_ylabel("forgetting of the probes")

    return _drawn(predictor, axes_of)


def _curve(axes, coefficients: Sequence[float], x: Sequence[float]) -> None:
    a, b, c = coefficients
    along = np.linspace(min(x), max(x), 60)
    axes.plot(along, a + b * along + c * along**2, color=curves.INK, linewidth=0.9, linestyle="--",
              label="fit without old data")  # fmt: skip


def _energy(report: Mapping) -> str:
    """Draw the part of the change that the first k directions hold, at each method's best rate."""
    series = {}
    for name in report["methods"]:
        found = [spectrum["energy"] for spectrum in _last(report, name, best=True)]
        if found:
            series[name] = [(int(k), float(np.mean([e[k] for e in found]))) for k in found[0]]
    if not series:
        return ""

    def axes_of(axes) -> None:
        _lines(axes, series)
        axes.axhline(0.9, color=curves.INK, linewidth=0.8, linestyle=":")
        axes.set_xscale("log", base=2)
        axes.set_xlabel("first k singular values of the change")
        axes.set_ylabel("part of its energy")

    return _drawn("energy", axes_of)


def _intruders(report: Mapping) -> str:
    series = {}
    for name, own in report["methods"].items():
        found = {rate: _last(report, name, rate=rate) for rate in own["rates"]}
        mean = lambda all_of: float(np.mean([one["intruders"] for one in all_of]))
        series[name] = [(float(rate), mean(own)) for rate, own in found.items() if own]
    if not any(series.values()):
        return ""

    def axes_of(axes) -> None:
        _lines(axes, series)
        _log(axes, [p[0] for points in series.values() for p in points])
        axes.set_xlabel("learning rate")
        axes.set_ylabel("intruders in all matrices")

    return _drawn("intruders", axes_of)


def _last(report: Mapping, method: str, *, rate: str = "", best: bool = False) -> list[Mapping]:
    """Return the spectra of a method's cells after their last stage, at a rate or its best one."""
    if best:
        own = report["methods"][method]
        chosen = own["matched"]["rate"]
        rate = next(iter(own["rates"])) if chosen is None else f"{chosen:g}"
    return [
        cell["changes"][-1]["spectrum"]
        for cell in report["cells"]
        if cell["method"] == method and f"{cell['rate']:g}" == rate and not cell["joint"]
        and cell["status"] == "done" and cell["changes"] and "spectrum" in cell["changes"][-1]
    ]  # fmt: skip


# -- parts of figures ------------------------------------------------------------------------------


def _drawn(title: str, draw: Callable) -> str:
    """Draw a figure with the names below it, where they hide nothing."""
    # How many there are is known once it is drawn: an empty one is drawn for that.
    known = Figure().add_subplot()
    draw(known)
    names = known.get_legend_handles_labels()[1]
    columns = _columns([len(name) for name in names])
    rows = -(-len(names) // columns)

    def named(axes) -> None:
        draw(axes)
        if rows:
            axes.figure.legend(
                *axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns,
                frameon=False, labelcolor=curves.INK, columnspacing=1.2, handletextpad=0.4,
                handlelength=2.6,
            )  # fmt: skip
            axes.legend([], [], frameon=False)

    return curves.drawn(title, named, height=2.5 + 0.2 * rows)


def _color(n: int) -> str:
    return curves.SERIES[n % len(curves.SERIES)]


def _columns(lengths: Sequence[int]) -> int:
    """Return how many columns of names, in letters, fit below a figure; they are filled down."""
    for columns in range(min(COLUMNS, len(lengths)), 1, -1):
        # As matplotlib parts them: six names in four columns are two, two, one and one.
        longest = [max(part) for part in np.array_split(lengths, columns)]
        if sum(MARK_WIDTH + LETTER * n for n in longest) <= 72 * curves.WIDTH:
            return columns
    return 1


def _dashes(n: int) -> str:
    return DASHES[n // len(curves.SERIES) % len(DASHES)]


def _point(x: Mapping, y: Mapping) -> Point:
    return Point(x["value"], y["value"], (x["low"], x["high"]), (y["low"], y["high"]))


def _matched(x: float, estimate: Mapping) -> Point:
    return Point(x, estimate["value"], (x, x), (estimate["low"], estimate["high"]))


def _points(axes, series: Mapping[str, Sequence[Point]]) -> None:
    """Draw means joined in order, with intervals where there are several runs."""
    for n, (name, points) in enumerate(series.items()):
        if not points:
            continue
        x, y = np.array([(p.x, p.y) for p in points]).T
        around = lambda at, ends: np.abs(np.array(ends).T - at)
        axes.errorbar(
            x, y, xerr=around(x, [p.x_range for p in points]),
            yerr=around(y, [p.y_range for p in points]), color=_color(n), label=name,
            marker=MARKS[n % len(MARKS)], markersize=4, linewidth=1.2, elinewidth=0.9,
            linestyle=_dashes(n),
        )  # fmt: skip


def _lines(axes, series: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    for n, (name, points) in enumerate(series.items()):
        if points:
            axes.plot(*zip(*points, strict=True), color=_color(n), label=name,
                      marker=MARKS[n % len(MARKS)], markersize=4, linewidth=1.2,
                      linestyle=_dashes(n))  # fmt: skip


def _log(axes, places: Iterable[float]) -> None:
    """Set a logarithmic axis whose ticks are the places that were measured."""
    axes.set_xscale("log")
    axes.set_xticks(sorted(set(places)), [f"{x:g}" for x in sorted(set(places))])
    axes.minorticks_off()


def _log_of(axes, points: Sequence[Point]) -> None:
    """Set a logarithmic axis of forgetting: methods differ by factors. Not where it is negative."""
    lows = [min(p.y, p.y_range[0]) for p in points]
    if lows and min(lows) > 0:
        axes.set_yscale("log")
        axes.set_ylim(min(lows) / 1.5, 1.15 * max(max(p.y, p.y_range[1]) for p in points))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())


def _band(axes, report: Mapping) -> None:
    """Shade what is as far from the first method as the noise of its seeds reaches."""
    first = next(iter(report["methods"].values()))["matched"]
    if first["rate"] is None or not first["floor"]:
        return
    value, floor = first["value"], first["floor"]["value"]
    axes.axhspan(value - floor, value + floor, color=curves.SERIES[0], alpha=0.12, linewidth=0,
                 label="noise floor")  # fmt: skip


def _floor_at_end(axes, report: Mapping) -> None:
    """Draw a bar as long as the noise floor of forgetting, the median over methods and rates."""
    floors = [
        one["end"]["forgetting_floor"]
        for own in report["methods"].values()
        for one in own["rates"].values()
        if one["end"] and one["end"]["forgetting_floor"] is not None
    ]
    if floors:
        low, (left, right) = axes.get_ylim()[0], axes.get_xlim()
        half = float(np.median(floors)) / 2
        x, y = left + 0.03 * (right - left), max(low, 0) * 1.1 + half
        axes.errorbar([x], [y], yerr=[half], color=curves.INK, linestyle="", elinewidth=1.2,
                      capsize=3, label="noise floor")  # fmt: skip
