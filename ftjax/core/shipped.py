"""The mains and the configs that come with the package, wherever it lies.

    mains()       {"train": .../experiments/train.py, ...}
    configs()     {"sft": .../configs/sft.py, ...}

In a checkout they are folders beside `ftjax`: programs over a library. In an installed package they
lie inside of it, as `ftjax/bundled`, because top-level packages called `configs` and `experiments`
would stand in the way of everybody else's.
"""

import ast
import pathlib
import re

PACKAGE = pathlib.Path(__file__).parents[1]
BUNDLED = PACKAGE / "bundled"
NO_CONFIGS = ("__init__", "common")


def folder() -> pathlib.Path:
    """Return the folder that `experiments` and `configs` are in."""
    return BUNDLED if BUNDLED.is_dir() else PACKAGE.parent


def configs() -> dict[str, pathlib.Path]:
    """Return the files of the configs by name."""
    found = sorted((folder() / "configs").glob("*.py"))
    return {path.stem: path for path in found if path.stem not in NO_CONFIGS}


def mains() -> dict[str, pathlib.Path]:
    """Return the files of the mains by name: of the modules that run as programs."""
    found = sorted((folder() / "experiments").glob("*.py"))
    return {path.stem: path for path in found if _is_main(ast.parse(path.read_text("utf-8")))}


def _is_main(tree: ast.Module) -> bool:
    tests = (ast.unparse(node.test) for node in tree.body if isinstance(node, ast.If))
    return "__name__ == '__main__'" in tests


def summary(main: pathlib.Path) -> str:
    """Return the first line of a main's docstring."""
    text = ast.get_docstring(ast.parse(main.read_text("utf-8"))) or ""
    return text.partition("\n")[0]


def as_typed(text: str) -> str:
    """Return a text with its commands as they are typed here: `ftjax train`, once installed."""
    if folder() != BUNDLED:
        return text
    text = re.sub(r"python -m experiments\.(\w+)", r"ftjax \1", text)
    return re.sub(r"\bconfigs/(\w+)\.py\b", r"\1", text)
