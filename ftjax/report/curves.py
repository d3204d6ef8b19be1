"""Training curves as inline SVG that follows the page: its font, and its colours by day and night.

Lines are drawn in placeholder colours and these are then replaced by CSS variables, so that one
drawing serves the light and the dark page. A line is named at its end, and not in a legend.
"""

import html
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
    "#080808": "var(--soft)",
}
INK, LINE, *SERIES, SOFT = COLORS
WIDTH = 4.6  # inches; the page scales a drawing to the column that it stands in
FEW = 3  # points that make a curve: two of an evaluation are in the figures of `changes`
GAP = 9.0  # points between the names of two lines, at least

Points = tuple[Sequence[float], Sequence[float]]


def collect(rows: Sequence[Mapping]) -> dict[str, dict[str, Points]]:
    """Group the rows of a metrics file into plots: loss, each kind of evaluation, learning rate.

    Returns {title: {series: (steps, values)}}; `time/` and `tokens` are left out, and evaluations
    of fewer than FEW steps.
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
    plots = {title: _long(title, series) for title, series in plots.items()}
    found = {title: series for title, series in plots.items() if series}
    return dict(sorted(found.items(), key=lambda plot: _rank(plot[0])))


def _long(title: str, series: Mapping[str, Points]) -> dict[str, Points]:
    few = FEW if title.startswith("evaluation") else 0
    return {name: points for name, points in series.items() if len(points[0]) >= few}


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


def drawn(title: str, draw: Callable, *, height: float = 2.7) -> str:
    """Return the `<svg>` element of what `draw(axes)` draws in the colours above.

    height: in inches, beside a width of WIDTH. What `draw` returns is called once all has its
    place, to put names beside it; it returns whether any moved.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",
        "font.size": 9,
        "svg.hashsalt": title,
        "font.family": "sans-serif",
    }
    with rc_context(style):
        figure = Figure(figsize=(WIDTH, height), dpi=72, layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        finish = draw(axes)
        follow_page(axes)
        layout = figure.get_layout_engine()
        layout.execute(figure)
        if finish is not None and finish():
            layout.execute(figure)  # names that moved may need more room
        figure.set_layout_engine("none")  # which drawing would have place all once more
        found = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        # Not `savefig`, which draws a figure twice, the first time for its layout alone.
        FigureCanvasSVG(figure).print_svg(found, metadata=nothing)
    return _inline(found.getvalue(), title)


def follow_page(axes) -> None:
    """Give axes the page's background and its colours of text and lines."""
    axes.patch.set_alpha(0)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(visible=True, color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, which="both", length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(LINE)
    if len(axes.get_legend_handles_labels()[1]) > 1 and axes.get_legend() is None:
        axes.legend(frameon=False, labelcolor=INK)


def _draw(axes, series: Mapping[str, Points], order: list[str]) -> Callable | None:
    ends = []
    for name, (steps, values) in series.items():
        color = SERIES[order.index(name) % len(SERIES)]
        mark = "o" if len(steps) < 25 else None
        # No label: the name stands at the end of the line.
        axes.plot(steps, values, color=color, marker=mark, markersize=3, linewidth=1.4)
        ends.append((steps[-1], values[-1], name, color))
    axes.set_xlabel("step")
    if len(ends) < 2:
        return None
    names = [
        axes.annotate(name, (x, y), xytext=(5, 0), textcoords="offset points", color=color,
                      va="center", annotation_clip=False)
        for x, y, name, color in ends
    ]  # fmt: skip
    return lambda: spread(names)


def spread(names: Sequence) -> bool:
    """Move annotations up or down until none stands on another; returns whether any moved."""
    if not names:
        return False
    axes = names[0].axes
    place = lambda each: axes.transData.transform(each.xy)[1] * 72 / axes.figure.dpi
    wanted = lambda each: place(each) + each.get_position()[1]
    above, moved = None, False
    for each in sorted(names, key=wanted):
        if above is not None and wanted(each) < above + GAP:
            each.set_position((each.get_position()[0], above + GAP - place(each)))
            moved = True
        above = wanted(each)
    return moved


def _inline(text: str, title: str) -> str:
    """Cut the XML head off, name the drawing, keep its ids apart from other drawings' ids."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: (\d+)px [^;\"]*", r"font: \1px var(--font)", text)
    for placeholder, variable in COLORS.items():
        text = text.replace(placeholder, variable)
    mark = re.sub(r"\W+", "-", title)
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{mark}-", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)
