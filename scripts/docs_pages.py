"""Pages of the docs that are made from the code: every key, every error, the API.

mkdocs calls `on_files` before it builds (mkdocs.yml, hooks); nothing is written into `docs`. To
read one without building the site:

    python -m scripts.docs_pages reference/keys.md
"""

import ast
import functools
import io
import pathlib
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping, Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ftjax"
CONFIG = PACKAGE / "run" / "config.py"
# The sections whose `name` is a module of a room.
NAMED = {
    "adapter": "adapters", "objective": "objectives", "penalties.LABEL": "penalties",
    "evals.LABEL": "evals", "data": "data.sources", "tracker": "report.trackers",
}  # fmt: skip
NAMELESS = (
    "anchors.LABEL", "optim.ranks", "optim.sam", "optim.average", "optim.galore", "mesh",
)  # fmt: skip
# Rooms of which every module has an entry, and what stands above them.
ROOMS = {
    "adapters": "Adapters", "objectives": "Objectives", "penalties": "Penalties",
    "evals": "Evaluators", "data.sources": "Data sources", "optim": "Optimizers and schedules",
}  # fmt: skip
KEYS = """# Every key of a config

Set a key in a config file (`c.steps = 100`) or on the command line (`--config.steps=100`). A
section with a `name` takes the keys of what it names, which are listed further down. A key that
nothing reads is an error. `ftjax train --config sft --help` shows what one config sets.

## Types

| type | what |
|---|---|
| `Count`, `Natural` | a whole number from 1, from 0 |
| `Positive`, `NonNegative` | a number above 0, from 0 |
| `Share`; `Decay`, `Chance` | a number from 0 to 1; from 0 to below 1 |
| `Patterns` | a pattern of paths such as `"blocks/attn/*"`, or a list of them |
"""


@functools.cache  # reading all of the code takes a second
def pages() -> dict[str, str]:
    """Return the made pages by their paths in the docs."""
    from scripts import docs_rows

    made = {"reference/keys.md": keys(), "reference/errors.md": errors(), "reference/api.md": api()}
    made["reference/rows.md"] = docs_rows.page()
    return made | {f"reference/{room}.md": room_page(room) for room in ROOMS}


def on_files(files, config):
    """Add the pages; the name and the arguments are those that mkdocs calls."""
    from mkdocs.structure.files import File

    sys.path.append(str(ROOT))  # the command `mkdocs` knows its own folder alone
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


# -- keys ------------------------------------------------------------------------------------------


def keys() -> str:
    """Return the page of every key: those of `ftjax/run/config.py`, and of what a `name` names."""
    found = [KEYS]
    for heading, doc, fields in _sections():
        found.append(f"\n## {heading}\n\n{doc}\n\n| key | type | default | |\n|---|---|---|---|")
        found += [f"| {' | '.join(map(_cell, field))} |" for field in fields]
    for section, room in NAMED.items():
        found.append(_named(section, room))
    found += [_nameless(section) for section in NAMELESS]
    return "\n".join(found) + "\n"


def _sections() -> Iterator[tuple[str, str, list[tuple[str, ...]]]]:
    """Yield the heading, docstring and fields of each section, the top of a config first."""
    source = CONFIG.read_text("utf-8")
    tree, said = ast.parse(source), _comments(source)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    names = {kind: name for name, kind in _section_names(tree).items()}
    for kind in ("Settings", *(kind for kind in classes if kind != "Settings")):
        fields = [n for n in classes[kind].body if isinstance(n, ast.AnnAssign)]
        heading = "The top of a config" if kind == "Settings" else f"`{names[kind]}`"
        rows = [_field(node, said) for node in fields if node.target.id != "plain"]
        yield heading, ast.get_docstring(classes[kind]), rows
    [optim] = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "_optim"]
    keywords = optim.body[-1].value.keywords
    rows = [(f"`{k.arg}`", "", _shown(k.value), _beside(k.value, said)) for k in keywords]
    yield "`optim`", OPTIM, rows


OPTIM = """The optimizer: `name` is one of optax's, whose own keywords are keys too (such as `b2` of
`adamw`)."""


def _section_names(tree: ast.Module) -> dict[str, str]:
    """Read SECTIONS: the names of classes by the names of sections."""
    assigned = (n for n in tree.body if isinstance(n, ast.Assign))
    [table] = [n.value for n in assigned if ast.unparse(n.targets[0]) == "SECTIONS"]
    return {k.value: v.id for k, v in zip(table.keys, table.values, strict=True)}


def _comments(source: str) -> dict[int, tuple[str, bool]]:
    """Return the comments by line, and whether each has its line for itself."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        t.start[0]: (t.string.lstrip("# "), not t.line[: t.start[1]].strip())
        for t in tokens
        if t.type == tokenize.COMMENT
    }


def _field(node: ast.AnnAssign, said: Mapping) -> tuple[str, str, str, str]:
    """Return name, type, default and comment of a field, each as Markdown."""
    line, above = node.lineno - 1, []
    while line in said and said[line][1]:
        above.insert(0, said[line][0])
        line -= 1
    default = "required" if node.value is None else _default(node.value)
    kind = f"`{ast.unparse(node.annotation)}`"
    return f"`{node.target.id}`", kind, default, " ".join([*above, _beside(node, said)]).strip()


def _beside(node: ast.AST, said: Mapping) -> str:
    """Return the comments in the lines of a node."""
    return " ".join(said[n][0] for n in range(node.lineno, node.end_lineno + 1) if n in said)


def _default(value: ast.expr) -> str:
    """Return a default; of `field(default_factory=...)`, of what is made."""
    if not (isinstance(value, ast.Call) and ast.unparse(value.func) == "field"):
        return _shown(value)
    [made] = [k.value for k in value.keywords if k.arg == "default_factory"]
    if isinstance(made, ast.Lambda):
        return _shown(made.body)
    return "`{}`" if ast.unparse(made) == "dict" else "a section, below"


def _shown(value: ast.expr) -> str:
    text = ast.unparse(value)
    return "required" if "required=True" in text else f"`{text}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _named(section: str, room: str) -> str:
    """Return the part of a section whose `name` is a module of `room`."""
    from ftjax.core import config as conf

    names = conf.room(room)
    legal = {name: _legal(section, name) for name in names}
    known = [set(own) for own in legal.values() if own is not None]
    shared = set.intersection(*known)
    lines = [f"\n## `{section}`, by its `name`\n", f"Of all: {_listed(shared)}.\n"]
    lines += ["| `name` | what | keys besides |", "|---|---|---|"]
    for name in names:
        own = "any" if legal[name] is None else _listed(set(legal[name]) - shared)
        lines.append(f"| `{name}` | {_cell(_summary(room, name))} | {own} |")
    return "\n".join(lines)


def _nameless(section: str) -> str:
    return f"\n## `{section}`\n\n{_listed(_legal(section, ''))}."


def _legal(section: str, name: str) -> Mapping | None:
    """Return the keys that a section may have; None where it is any."""
    from ftjax.core import config as conf
    from ftjax.run import keys as keys_lib

    path, config = section.split("."), conf.create()
    conf.put(config, [*path, "name"], name)
    return keys_lib.legal_at(config, path)


def _listed(names) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _summary(room: str, name: str) -> str:
    """Return the first sentence of a module's docstring."""
    path = PACKAGE.joinpath(*room.split(".")) / f"{name}.py"
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


# -- errors ----------------------------------------------------------------------------------------


def errors() -> str:
    """Return the page of every message of a ValueError, as the code has it, room by room."""
    found = [ERRORS]
    for room in sorted(p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists()):
        own = [line for path in sorted((PACKAGE / room).rglob("*.py")) for line in _raised(path)]
        if own:
            found += [f"\n## {room}\n", *own]
    return "\n".join(found) + "\n"


ERRORS = """# Every error

What you can mend is a `ValueError`, which a command prints as one line, with exit code 2. Almost
all have the form *where: got this; expected that; what to do*. Below are the messages as they stand
in the code, by the folder that they come from; what stands in braces is filled in. Anything else,
with a traceback, is a fault of ftjax: please report it.
"""


def _raised(path: pathlib.Path) -> Iterator[str]:
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and (text := _message(node.exc)):
            name = path.relative_to(ROOT).as_posix()
            yield f"- {_code(text)} *{name}*"


def _message(node: ast.expr | None) -> str | None:
    """Return the message of `ValueError(...)` where it is written out."""
    is_call = isinstance(node, ast.Call) and ast.unparse(node.func) == "ValueError"
    if not is_call or not node.args:
        return None
    given = node.args[0]
    if isinstance(given, ast.Constant):
        return str(given.value)
    if not isinstance(given, ast.JoinedStr):
        return None
    return "".join(
        str(part.value) if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}"
        for part in given.values
    )


def _code(text: str) -> str:
    """Return a text as code, in more backticks than it has."""
    flat = " ".join(text.split())
    ticks = "`" * (1 + max(map(len, re.findall("`+", flat)), default=0))
    space = " " if "`" in flat else ""
    return f"{ticks}{space}{flat}{space}{ticks}"


# -- the API ---------------------------------------------------------------------------------------


def api() -> str:
    """Return the page of `ftjax.api`."""
    return "# Python API\n\n::: ftjax.api\n    options:\n      show_root_heading: false\n"


def room_page(room: str) -> str:
    """Return the page of a room: every module that stands directly in it."""
    files = sorted(PACKAGE.joinpath(*room.split(".")).glob("*.py"))
    names = [path.stem for path in files if not path.stem.startswith("_")]
    return "\n".join([f"# {ROOMS[room]}\n", *(f"::: ftjax.{room}.{name}\n" for name in names)])


def main(argv: Sequence[str]) -> None:
    """Print a page, or the names of all."""
    made = pages()
    sys.stdout.write(made[argv[1]] if argv[1:] else "\n".join(made) + "\n")


if __name__ == "__main__":
    main(sys.argv)
