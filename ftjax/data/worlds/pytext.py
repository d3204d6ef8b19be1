"""Real English and real code that every CPython carries: its own standard library.

`english` is the prose of the docstrings, the block comments and the language reference behind
`help()`; `code` is the source without them. The text is read from the interpreter that runs, when
it runs, and never stored: it belongs to the Python Software Foundation and differs a little between
Python versions, so results on these two domains compare exactly only on the same version.

A file goes to train, validation or test by the checksum of its module's name, in both domains:
the splits share no file.
"""

import ast
import functools
import inspect
import os
import pathlib
import re
import sysconfig
import warnings

from ftjax.data.worlds import generated

BUCKETS = ("test",) * 2 + ("validation",) + ("train",) * 17
# Tests, demos, tables of characters, vendored packages and what the build of one machine wrote.
SKIPPED = frozenset(
    (
        *("test", "tests", "idlelib", "idle_test", "turtledemo", "lib2to3", "ensurepip"),
        *("site-packages", "dist-packages", "lib-dynload", "__pycache__", "__phello__"),
        *("encodings", "entities", "locale", "pydoc_data", "msilib", "antigravity", "this"),
    )
)
LICENCE = re.compile(r"copyright|licen[sc]ed? |all rights reserved|warrant", re.IGNORECASE)


def make(
    *,
    domain: str,
    split: str = "train",
    rows: int | None = None,
    seed: int = 0,
    characters: int = 500,
):
    """Make {"text"} rows of the "english" or "code" of the standard library.

    A row is a run of paragraphs or blocks of one file, at most `characters` long; `seed` shuffles
    the rows and `rows` keeps the first. "module" names the file. Raises ValueError where
    Python has no sources.
    """
    generated.legal(split, generated.SPLITS, f"{domain}: split")
    if characters < 100:
        raise ValueError(f"{domain}: got characters={characters}; expected 100 or more; try 500")
    every = _chunks(domain, split, characters)
    if not every:
        folder = sysconfig.get_path("stdlib")
        raise ValueError(
            f"{domain}: got no Python source below {folder}; expected the standard library as "
            ".py files; use a Python that has them, or another domain"
        )
    order = generated.generator(domain, split, seed).permutation(len(every))
    count = len(every) if rows is None else min(rows, len(every))

    def draw(index):
        module, text = every[int(order[index])]
        return {"text": text, "module": module}

    return generated.Generated(draw, count=count, name=f"{domain}/{split}")


def split_of(module: str) -> str:
    """Return the split that a module belongs to."""
    return BUCKETS[generated.bucket(module, len(BUCKETS))]


@functools.lru_cache(maxsize=8)
def _chunks(domain, split, characters):
    found = []
    if domain == "english":
        found += _topics(split)
    for module, path in _modules():
        if split_of(module) == split:
            found += [(module, text) for text in _read(domain, path)]
    return [
        (module, chunk)
        for module, text in found
        for chunk in cut(text, characters)
        if chunk.isascii() and not LICENCE.search(chunk)
    ]


def _modules():
    """Return (dotted name, path) of every source file of the standard library, in order."""
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    found = []
    for folder, below, names in os.walk(root):
        # Cut here: what is installed below is many times larger than the library.
        below[:] = [name for name in below if _is_kept(name)]
        for path in (pathlib.Path(folder, name) for name in names if name.endswith(".py")):
            if _is_kept(path.stem):
                parts = path.relative_to(root).with_suffix("").parts
                found.append((".".join(parts), path))
    return sorted(found)


def _is_kept(part: str) -> bool:
    return part not in SKIPPED and not part.startswith(("_sysconfig", "config-"))


def _topics(split):
    from pydoc_data import topics  # large, and needed here alone

    names = sorted(topics.topics)
    wanted = [name for name in names if split_of(f"pydoc_data.topics:{name}") == split]
    return [(f"pydoc_data.topics:{name}", plain(topics.topics[name])) for name in wanted]


def plain(text: str) -> str:
    """Return reference text without its typesetting: rulers, and stars and backquotes."""
    kept = [
        line for line in text.splitlines() if not re.fullmatch(r"\s*([*=~^\"-])\1{3,}\s*", line)
    ]
    return re.sub(r"[`*]{1,2}(?=\w)|(?<=[\w)])[`*]{1,2}", "", "\n".join(kept))


def _read(domain, path):
    """Return the texts of one file: its docstrings and comments, or its code without them."""
    try:
        source = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in a library file are not our business
            tree = ast.parse(source)
    except (SyntaxError, UnicodeDecodeError):  # sources of another encoding or another Python
        return []
    spans = _docstrings(tree)
    if domain == "english":
        return [inspect.cleandoc(text) for _, _, text in spans] + _comments(source)
    drop = {line for first, last, _ in spans for line in range(first, last + 1)}
    lines = [line.rstrip() for i, line in enumerate(source.splitlines(), 1) if i not in drop]
    return ["\n".join(line for line in lines if not line.lstrip().startswith("#"))]


def _docstrings(tree):
    """Return (first line, last line, text) of every docstring."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False):
            text = node.body[0]
            found.append((text.lineno, text.end_lineno, text.value.value))
    return sorted(found)


def _comments(source):
    """Return the comments of three lines or more, their marks taken off."""
    blocks = re.findall(r"(?:^[ \t]*# .*\n){3,}", source, re.MULTILINE)
    return [re.sub(r"^[ \t]*# ", "", block, flags=re.MULTILINE).strip() for block in blocks]


def cut(text: str, characters: int) -> list[str]:
    """Cut text into runs of whole paragraphs of at most `characters`; drop those under 40."""
    chunks, size = [[]], 0
    for part in _parts(text, characters):
        if size + len(part) + 2 > characters:
            chunks.append([])
            size = 0
        chunks[-1].append(part)
        size += len(part) + 2
    joined = ["\n\n".join(chunk) for chunk in chunks]
    return [chunk for chunk in joined if len(chunk) >= 40]


def _parts(text, characters):
    """Return the paragraphs; one that is too long is cut between its lines."""
    for paragraph in re.split(r"\n\s*\n", text):
        lines, size = [], 0
        for line in paragraph.strip("\n").splitlines():
            line = line[: characters - 3]
            if size + len(line) + 1 > characters - 2:
                yield "\n".join(lines)
                lines, size = [], 0
            lines.append(line)
            size += len(line) + 1
        if lines:
            yield "\n".join(lines)
