"""Training curves as inline SVG that follows the page: its font, and its colours by day and night.

Lines are drawn in placeholder colours and these are then replaced by CSS variables, so that one
drawing serves the light and the dark page.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence

# Placeholder -> what the page decides. No two may be equal.
COLORS = {
    "#010101": "var(--ink)",
    "#020202": "var(--line)",
    "#030303": "var(--c0)",
    "#040404": "var(--c1)",
    "#050505": "var(--c2)",
    "#060606": "var(--c3)",
    "#070707": "var(--c4)",
}
INK, LINE, *SERIES = COLORS

Points = tuple[Sequence[float], Sequence[float]]


def collect(rows: Sequence[Mapping]) -> dict[str, dict[str, Points]]:
    """Group the rows of a metrics file into plots: loss, each kind of evaluation, learning rate.

    Returns {title: {series: (steps, values)}}; `time/` and `tokens` are left out.
    """
    plots: dict[str, dict[str, Points]] = {}
    for row in rows:
        for name, value in row.items():
            if name in ("step", "tokens") or name.startswith("time/") or value is None:
                continue
            title, series = _place(name)
            steps, values = plots.setdefault(title, {}).setdefault(series, ([], []))
            steps.append(row["step"])
            values.append(value)
    return dict(sorted(plots.items(), key=lambda plot: _rank(plot[0])))


def _rank(title: str) -> int:
    return 0 if title == "loss" else 1 if title.startswith("evaluation") else 2


def _place(name: str) -> tuple[str, str]:
    """Put `eval/<label>/<metric>` of all labels, and `run/<label>/<metric>` of all runs, into one
    plot of that metric.
    """
    match name.split("/", 2):
        case ["run", label, metric]:
            return metric.replace("_", " "), label
        case ["eval", label, metric]:
            return f"evaluation: {metric}", label
    return name.replace("_", " "), name


def svg(series: Mapping[str, Points], *, title: str, order: Sequence[str] = ()) -> str:
    """Draw one plot over steps and return its `<svg>` element.

    order: names that keep their colour in all plots, each the colour of its place.
    """
    return drawn(title, lambda axes: _draw(axes, series, list(dict.fromkeys([*order, *series]))))


def drawn(title: str, draw: Callable) -> str:
    """Return the `<svg>` element of what `draw(axes)` draws in the colours above."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",
        "font.size": 9,
        "svg.hashsalt": title,
        "font.family": "sans-serif",
    }
    with rc_context(style):
        figure = Figure(figsize=(4.6, 2.7), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        draw(axes)
        follow_page(axes)
        found = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(found, format="svg", metadata=nothing)
    return _inline(found.getvalue(), title)


def follow_page(axes) -> None:
    """Give axes the page's background and its colours of text and lines."""
    axes.patch.set_alpha(0)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(visible=True, color=LINE, linewidth=0.6)
    axes.tick_params(colors=INK, which="both", length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(LINE)
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(frameon=False, labelcolor=INK)


def _draw(axes, series: Mapping[str, Points], order: list[str]) -> None:
    for name, (steps, values) in series.items():
        color = SERIES[order.index(name) % len(SERIES)]
        mark = "o" if len(steps) < 25 else None
        axes.plot(steps, values, color=color, label=name, marker=mark, markersize=3, linewidth=1.4)
    axes.set_xlabel("step")


def _inline(text: str, title: str) -> str:
    """Cut the XML head off, name the drawing, keep its ids apart from other drawings' ids."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: (\d+)px [^;\"]*", r"font: \1px var(--font)", text)
    for placeholder, variable in COLORS.items():
        text = text.replace(placeholder, variable)
    mark = re.sub(r"\W+", "-", title)
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{mark}-", text)
    return text.replace("<svg ", '<svg role="img" ', 1)
