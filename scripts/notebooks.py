"""Make a notebook of a page of the docs: its Python is cells that run, all else is text.

    python -m scripts.notebooks docs/python.md docs/extend.md --out notebooks

A block with a file name, as ```python title="my_lab/adapter.py", is a cell that writes that file.
A notebook runs in a folder of its own, from top to bottom, on the embedded base.
"""

import argparse
import json
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

FENCE = re.compile(r'^```python(?: title="(?P<title>[^"]+)")?\n(?P<code>.*?)^```\n', re.M | re.S)


class Part(NamedTuple):
    """A piece of a page: text (`code` false), or Python, maybe of a file of the name `title`."""

    text: str
    code: bool
    title: str | None = None


def parts(page: str) -> Iterator[Part]:
    """Cut a page into text and Python."""
    end = 0
    for found in FENCE.finditer(page):
        if text := page[end : found.start()].strip():
            yield Part(text, code=False)
        yield Part(found["code"].rstrip(), code=True, title=found["title"])
        end = found.end()
    if text := page[end:].strip():
        yield Part(text, code=False)


def files_of(page: str) -> dict[str, str]:
    """Return the files that a page shows, by their names."""
    return {part.title: part.text + "\n" for part in parts(page) if part.title}


def notebook(page: str) -> dict:
    """Return the notebook of a page, in version 4.5 of the format."""
    cells = [_cell(f"part-{n}", part) for n, part in enumerate(parts(page))]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5,
    }  # fmt: skip


def _cell(name: str, part: Part) -> dict:
    source = _written(part) if part.title else part.text
    own = {"id": name, "metadata": {}, "source": source.splitlines(keepends=True)}
    if part.code:
        return own | {"cell_type": "code", "execution_count": None, "outputs": []}
    return own | {"cell_type": "markdown"}


def _written(part: Part) -> str:
    """Return Python that writes a file and whatever folder it is in: a magic would not make one."""
    quoted = part.text.replace("\\", "\\\\").replace("'''", "\\'\\'\\'")
    folder = f'pathlib.Path("{part.title}").parent.mkdir(parents=True, exist_ok=True)'
    text = f"text = '''\\\n{quoted}\n'''"
    return f'import pathlib\n\n{text}\n{folder}\npathlib.Path("{part.title}").write_text(text)'


def main() -> None:
    """Write the notebooks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pages", nargs="+", type=pathlib.Path, help="Markdown files")
    parser.add_argument("--out", default="notebooks", type=pathlib.Path, help="a folder")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for page in given.pages:
        path = given.out / f"{page.stem}.ipynb"
        path.write_text(json.dumps(notebook(page.read_text("utf-8")), indent=1), "utf-8")
        print(path)


if __name__ == "__main__":
    main()
