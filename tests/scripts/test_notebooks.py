"""Notebooks are pages of the docs: each block of Python is a cell, and all of them run."""

import json
import re
import subprocess
import sys

import pytest

from scripts import notebooks
from tests.lab import ROOT, environment

PAGES = ("extend", "learn_and_forget", "python")
PAGE = '''# A page

Text with `code`.

```
ftjax train --config sft --workdir r
```

```python title="lab/a.py"
"""A file."""
X = "\\n"
```

More.

```python
from lab import a
```
'''


def read(name):
    return (ROOT / "docs" / f"{name}.md").read_text()


def test_a_page_is_cut_into_text_and_python():
    first, file, more, code = notebooks.parts(PAGE)
    assert [part.code for part in (first, file, more, code)] == [False, True, False, True]
    assert "ftjax train" in first.text  # what is no Python is text
    assert (file.title, code.title) == ("lab/a.py", None)
    assert notebooks.files_of(PAGE) == {"lab/a.py": '"""A file."""\nX = "\\n"\n'}


def test_a_file_of_a_page_is_written_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cell = notebooks.notebook(PAGE)["cells"][1]
    exec("".join(cell["source"]), {})
    assert (tmp_path / "lab" / "a.py").read_text() == notebooks.files_of(PAGE)["lab/a.py"]


@pytest.mark.parametrize("name", PAGES)
def test_the_python_of_a_page_compiles(name):
    found = [part for part in notebooks.parts(read(name)) if part.code]
    assert len(found) >= 3
    for part in found:
        compile(part.text, part.title or name, "exec")
    assert all(part.text.count("\n") < 26 for part in found)  # a page is read


def test_the_command_writes_a_notebook(tmp_path):
    command = [sys.executable, "-m", "scripts.notebooks", "docs/python.md", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    made = json.loads((tmp_path / "python.ipynb").read_text())
    assert made == notebooks.notebook(read("python"))
    ids = [cell["id"] for cell in made["cells"]]
    assert len(set(ids)) == len(ids)
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: extra docs")
    nbformat.validate(nbformat.reads(json.dumps(made), as_version=4))


def shortened(page):
    """The same page, whose runs are of two steps: it runs as it does with as many as it says."""
    short, count = re.subn(r"\bsteps=\d+", "steps=2", page)
    assert count >= 1
    return short


@pytest.mark.parametrize("name", PAGES)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: extra docs")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: extra docs")
    for key, value in environment().items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    book = nbformat.reads(json.dumps(notebooks.notebook(shortened(read(name)))), as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(book, timeout=900, resources=resources).execute()
    shown = [cell.outputs for cell in book.cells if cell.cell_type == "code"]
    assert any(shown)
    (tmp_path / "shown.json").write_text(json.dumps(shown))
