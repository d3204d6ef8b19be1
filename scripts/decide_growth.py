r"""Decide again and again while a task grows, and show where one arm overtakes another.

    python -m scripts.decide_growth --workdir runs/growth --over people=8,16,32,64,128,256
        --config configs/decide_tiny.py:arms=zero_shot+rag+lora,trials=1,seeds=2

Every value of the config's argument is a decision of its own in WORKDIR/<name>-<value>; those that
have ended are read back. WORKDIR/growth.html shows all of them, and a table comes out; with
`--out docs/decide.md` it goes into that document. An arm is compared with the same effort at every
value: here as many steps for 8 people as for 256.
"""

import argparse
import pathlib

from experiments import decide
from ftjax.core import compile_cache, device, files
from ftjax.decide import growth
from scripts import runs

NAME = "scripts/decide_growth.py"
PAGE = "growth.html"


def over(text: str) -> tuple[str, list[float]]:
    """Read `name=8,16,32`."""
    name, _, values = text.partition("=")
    try:
        found = sorted({float(value) for value in values.split(",")})
    except ValueError:
        found = []
    if not name or len(found) < 2:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected name=8,16,32: two values or more")
    return name, found


def config_of(config: str, name: str, value: float) -> str:
    """Return `file.py:arg` with one more argument."""
    return f"{config}{',' if ':' in config else ':'}{name}={value:g}"


def markdown(points: growth.Points, name: str) -> str:
    """Write the table of every need, and where arms change places."""
    parts = []
    for need in growth.needs(points):
        head, *rows = growth.table(points, need, name=name)
        lines = "; ".join(str(each) for each in growth.crossings(points, need))
        parts.append(
            f"{need}: {lines or 'no two arms change places'}\n\n{runs.markdown(head, rows)}"
        )
    return "\n\n".join(parts)


def main() -> None:
    """Decide at every value, and write what came out."""
    first, *rest = __doc__.split("\n\n")
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=first, epilog="\n\n".join(rest), formatter_class=form)
    p.add_argument("--config", required=True, help="file.py:arg of a decision")
    p.add_argument("--over", required=True, type=over, help="name=8,16,32: an argument of it")
    p.add_argument("--workdir", required=True, type=pathlib.Path)
    p.add_argument("--out", default="", help="Markdown file that the table goes into")
    given = p.parse_args()
    compile_cache.use("auto")
    device.reuse_memory()
    (name, values), points = given.over, {}
    for value in values:
        decision = decide.read(config_of(given.config, name, value))
        found = decide.decide(decision, given.workdir / f"{name}-{value:g}")
        if found is None:  # stopped by a signal; the same command goes on
            return
        points[value] = found
    links = {f"{name} = {value:g}": f"{name}-{value:g}/report.html" for value in values}
    page = growth.page(points, name=name, title=f"{given.workdir.name}: {name}", links=links)
    files.write_text(given.workdir / PAGE, page)
    runs.publish(markdown(points, name), given.out, name=NAME)


if __name__ == "__main__":
    main()
