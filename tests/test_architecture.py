"""The rules of the house, read off the syntax trees of all its files."""

import ast
import collections
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A room may import those of the floors below, and no other room of its own floor.
FLOORS = (
    ("core",),
    ("ops",),
    ("data", "optim", "sampling", "retrieval"),
    ("models", "adapters", "objectives", "evals"),
    ("penalties", "report"),
    ("train",),
    ("run",),
    ("rl", "launch", "decide", "serve", "studies"),
)
MAY_IMPORT = {
    room: {below for lower in FLOORS[:level] for below in lower}
    for level, floor in enumerate(FLOORS)
    for room in floor
}
ROOMS = sorted(MAY_IMPORT)
# What every module that stands directly in a plug-in folder defines, so that the names which an
# error lists are those of plug-ins alone.
PLUGINS = {
    "adapters": ("make", "EXAMPLE"),
    "objectives": ("make", "EXAMPLE"),
    "penalties": ("make", "EXAMPLE"),
    "evals": ("make", "INPUTS"),
    "data/sources": ("make",),
    "launch": ("make",),
    "launch/searches": ("make", "LEARNS"),
    "report/trackers": ("make", "PACKAGE"),
    "models/families": ("make", "from_hf", "to_hf", "NAMES", "EXAMPLE"),
}
# Folders whose modules are named after plug-ins or after the files that they read.
NAMED_AFTER_OTHERS = {"lib", "peft", "hf"}
FOLDERS = ("ftjax", "experiments", "configs", "scripts", "tests")
NNX_TRANSFORMS = {"jit", "grad", "value_and_grad", "scan", "vmap", "remat", "Optimizer"}
VAGUE = {"utils", "util", "helpers", "helper", "misc"}
MACHINE_PATH = re.compile(r"(?<![\w.~$}*/-])/(?:work|home|root|Users|mnt|scratch)/\w")

TREES = {
    path: ast.parse(path.read_text(), str(path))
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
}
SOURCE = {path: tree for path, tree in TREES.items() if path.relative_to(ROOT).parts[0] != "tests"}
PACKAGE = {p: tree for p, tree in SOURCE.items() if p.relative_to(ROOT).parts[0] == "ftjax"}


def name_of(path, node=None):
    line = f":{node.lineno}" if node is not None else ""
    return f"{path.relative_to(ROOT)}{line}"


def room_of(path):
    parts = path.relative_to(ROOT / "ftjax").parts
    return parts[0] if len(parts) > 1 else None


def files_of(room):
    return {path: tree for path, tree in PACKAGE.items() if room_of(path) == room}


def imports(tree):
    """Yield the node and the dotted name of everything that a module imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import; write it from ftjax"
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def functions(tree):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return (node for node in ast.walk(tree) if isinstance(node, kinds))


def test_the_walk_sees_every_room_and_folder():
    assert set(ROOMS) == {
        p.name for p in (ROOT / "ftjax").iterdir() if (p / "__init__.py").exists()
    }
    for folder in FOLDERS:
        assert any(path.is_relative_to(ROOT / folder) for path in TREES), folder
    assert len(PACKAGE) > len(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room):
    files = files_of(room)
    legal = MAY_IMPORT[room] | {room}
    wrong = []
    for path, tree in files.items():
        for node, name in imports(tree):
            parts = name.split(".")
            outside = parts[0] in ("experiments", "configs", "tests")
            across = parts[0] == "ftjax" and len(parts) > 1 and parts[1] not in legal
            if outside or across:
                wrong.append(f"{name_of(path, node)} imports {name}")
    assert files
    assert not wrong, f"{room} may import ftjax.{sorted(legal)} only"


def test_no_module_imports_itself_through_others():
    modules = {module_of(path): tree for path, tree in PACKAGE.items()}
    graph = {
        module: {name if name in modules else name.rpartition(".")[0] for _, name in imports(tree)}
        & modules.keys() - {module}
        for module, tree in modules.items()
    }
    while leaves := {module for module, needs in graph.items() if not needs}:
        graph = {module: needs - leaves for module, needs in graph.items() if module not in leaves}
    assert graph == {}  # what is left imports a circle, or is on one


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("folder", PLUGINS)
def test_plugin_folders_hold_plugins_alone(folder):
    files = [p for p in sorted((ROOT / "ftjax" / folder).glob("*.py")) if p.stem != "__init__"]
    wrong = {
        name_of(path): sorted(lacking)
        for path in files
        if (lacking := set(PLUGINS[folder]) - top_level_names(PACKAGE[path]))
    }
    assert len(files) > 1
    assert wrong == {}


def top_level_names(tree):
    """Return what a module defines at its top level: functions, classes and assigned names."""
    targets = [
        target
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    assigned = {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    imported = {name.rpartition(".")[2] for _, name in imports(tree)}
    return assigned | imported | {node.name for node in tree.body if isinstance(node, kinds)}


def test_no_name_of_a_module_is_used_twice():
    found = collections.defaultdict(list)
    for path in PACKAGE:
        folder = path.parent.relative_to(ROOT / "ftjax")
        if path.stem not in ("__init__", "config") and not NAMED_AFTER_OTHERS & set(folder.parts):
            found[path.stem].append(folder.as_posix())
    twice = {name: folders for name, folders in found.items() if len(folders) > 1}
    # Plug-ins of different kinds may share a name: an objective and an evaluator called `reward`.
    assert {n: f for n, f in twice.items() if not set(f) <= set(PLUGINS)} == {}


def test_attributes_are_not_read_through_vars():
    wrong = [
        name_of(path, node)
        for path, tree in SOURCE.items()
        for node in ast.walk(tree)
        if is_constant_lookup(node)
    ]
    assert wrong == []


def is_constant_lookup(node):
    """Return whether a node is `vars(x)["name"]` or `vars(x).get("name")`."""
    if isinstance(node, ast.Subscript):
        holder, key = node.value, node.slice
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        holder, key = node.func.value, node.args[0]
    else:
        return False
    is_vars = isinstance(holder, ast.Call) and identifier(holder.func) == "vars"
    return is_vars and isinstance(key, ast.Constant)


def test_forms_of_one_backend_stand_behind_their_seam():
    """What binds a program to a backend is in `ops/fast`, whose modules nobody else imports."""
    bound = {
        name_of(path)
        for path, tree in PACKAGE.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in ("optimization_barrier", "platform_dependent")
    }
    assert bound == {f"ftjax/ops/fast/{name}.py" for name in ("by_platform", "cpu", "portable")}
    past_it = [
        name_of(path, node)
        for path, tree in SOURCE.items()
        for node, name in imports(tree)
        if name.startswith("ftjax.ops.fast.") and path.parent.name != "fast"
    ]
    assert past_it == []


def test_only_core_config_imports_ml_collections():
    users = {
        name_of(path)
        for path, tree in TREES.items()
        for _, name in imports(tree)
        if name.split(".")[0] == "ml_collections"
    }
    assert users == {"ftjax/core/config.py"}


def test_functions_are_at_most_40_lines():
    lengths = {
        f"{name_of(path, node)} {node.name}": node.end_lineno - node.lineno + 1
        for path, tree in TREES.items()
        for node in functions(tree)
    }
    assert len(lengths) > 100
    assert {name: n for name, n in lengths.items() if n > 40} == {}


def test_modules_are_at_most_400_lines_and_mains_300():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in TREES}
    del lengths["scripts/mutations.py"]  # a list, and no program
    limit = lambda name: 300 if name.startswith("experiments/") else 400
    assert {name: n for name, n in lengths.items() if n > limit(name)} == {}


def test_getattr_and_hasattr_are_rare():
    lines = sum(len(path.read_text().splitlines()) for path in SOURCE)
    calls = [
        name_of(path, node)
        for path, tree in SOURCE.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id in ("getattr", "hasattr")
    ]
    assert len(calls) <= 0.5 * lines / 1000, calls


def test_no_module_is_called_utils():
    assert [name_of(path) for path in TREES if path.stem in VAGUE] == []


def test_every_module_has_a_docstring():
    assert [name_of(path) for path, tree in SOURCE.items() if not ast.get_docstring(tree)] == []


def test_no_boolean_is_positional():
    is_bool = lambda node: isinstance(node, ast.Constant) and isinstance(node.value, bool)
    wrong = []
    for path, tree in SOURCE.items():
        for function in functions(tree):
            given = function.args.posonlyargs + function.args.args
            kinds = [identifier(argument.annotation) for argument in given]
            if len(given) > 1 and ("bool" in kinds or any(map(is_bool, function.args.defaults))):
                wrong.append(f"{name_of(path, function)} {function.name}")
    assert wrong == []


def identifier(annotation):
    return annotation.id if isinstance(annotation, ast.Name) else None


def test_no_broad_except():
    wrong = [
        name_of(path, node)
        for path, tree in SOURCE.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or identifier(node.type) in ("Exception", "BaseException"))
    ]
    assert wrong == []


def test_nnx_defines_and_jax_transforms():
    banned = lambda attr: attr in NNX_TRANSFORMS or attr.startswith("LoRA")
    used = [
        f"{name_of(path, node)} nnx.{node.attr}"
        for path, tree in PACKAGE.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and identifier(node.value) == "nnx" and banned(node.attr)
    ]
    taken = [
        f"{name_of(path, node)} {name}"
        for path, tree in PACKAGE.items()
        for node, name in imports(tree)
        if name.startswith("flax.nnx.") and banned(name.split(".")[2])
    ]
    assert used + taken == []


def test_no_path_of_one_machine_is_committed():
    suffixes = {".py", ".sh", ".md", ".toml", ".txt", ".yaml", ".yml", ".cfg"}
    hidden = lambda path: any(p.startswith(".") for p in path.relative_to(ROOT).parts)
    top = [p for p in ROOT.iterdir() if p.is_file() and p.suffix in suffixes]
    inner = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.suffix in suffixes]
    files = [p for p in top + inner if not hidden(p)]
    assert len(files) >= len(TREES)
    found = [
        f"{name_of(path)}:{number}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("text", ["open('{}home/me/x')", "# see {}work/notes", "path={}root/x"])
def test_the_path_pattern_finds_paths(text):
    assert MACHINE_PATH.search(text.format("/"))  # written apart, or this file would be found


@pytest.mark.parametrize("text", ["model{}work/q", "gs://b{}home/x", "$HOME{}work/x", "~{}work/x"])
def test_the_path_pattern_leaves_other_text(text):
    assert not MACHINE_PATH.search(text.format("/"))
