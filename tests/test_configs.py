"""Every file under configs/: it loads, says how to run it, is planned, and runs two steps.

Its docstring holds its command, and so says which main runs it.
"""

import ast
import json
import pathlib
import re
import time

import pytest

import ftjax
from configs import forgetting_remedies
from experiments import online, train
from ftjax.core import config as conf
from ftjax.core import tree
from ftjax.models.hf import checkpoint
from ftjax.optim import groups
from ftjax.rl.prompts import Prompts
from ftjax.run import config as settings
from ftjax.run import objective, plan

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Those of decisions are of another form: see tests/experiments/test_decide.py.
OTHERS = ("__init__", "common")
FILES = sorted(
    p
    for p in (ROOT / "configs").glob("*.py")
    if p.stem not in OTHERS and not p.stem.startswith("decide")
)
REMEDIES = ROOT / "configs" / "forgetting_remedies.py"
WEIGHTS = pathlib.Path(ftjax.__file__).parent / "assets" / "tiny" / "model.safetensors"
LONGEST_S = 60
MAINS = {"train": train.train, "online": online.train}
each = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def load(path, *, arg=""):
    """Load a config; where the embedded base has no weights yet, with random ones of its sizes."""
    config = conf.load(f"{path}:{arg}" if arg else str(path))
    if config.model.base == "tiny" and not WEIGHTS.is_file():
        config.model.base, config.model.preset, config.tokenizer = "", "tiny", "tiny"
    return config


def test_there_are_configs():
    assert len(FILES) >= 2
    assert all(path.is_file() for path in FILES)


@each
@pytest.mark.parametrize("arg", ["", "runlocal"])
def test_it_loads_and_every_key_is_legal(path, arg):
    chosen = settings.read(load(path, arg=arg))
    assert (chosen.steps or chosen.epochs) >= 1
    assert settings.read(json.loads(json.dumps(chosen.plain))).steps == chosen.steps


def main_of(path):
    """Return the name of the main that the command in a config's docstring calls."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    name = re.escape(path.relative_to(ROOT).as_posix())
    found = re.findall(rf"python -m experiments\.(\w+) --config {name}\b", text)
    return next((main for main in found if main in MAINS), None)


@each
def test_its_docstring_holds_its_command(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert main_of(path) in MAINS
    assert len(text.splitlines()[0]) > 20


def once_a_kind():
    """Mark as slow a config of whose kind one ran before; objectives have runs of their own."""
    known = set()
    for path in FILES:
        chosen = settings.read(load(path, arg="runlocal"))
        kind = (
            main_of(path), objective.module_of(chosen).SPEC.heads, bool(chosen.model.base),
            bool(chosen.model.quantize.get("name")),
        )  # fmt: skip
        yield pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if kind in known else [])
        known.add(kind)


@each
def test_the_run_of_a_small_one_is_planned(path):
    chosen = settings.read(load(path, arg="runlocal"))
    prompts = dict(load=lambda parts, progress: Prompts(parts)) if main_of(path) == "online" else {}
    p = plan.plan(chosen, **prompts)
    assert (chosen.steps, p.length.steps) == (2, 2)
    assert p.evaluation.evaluators.keys() == dict(chosen.evals).keys()


def test_a_pattern_of_fields_has_line_ends_as_they_are_typed():
    arg = r"prompt={instruction}\n\t{input},response=a\n"
    assert conf.load(f"configs/sft.py:{arg}").data.fields.to_dict() == {
        "prompt": "{instruction}\n\t{input}", "response": r"a\n"
    }  # fmt: skip


@pytest.mark.parametrize("remedy", forgetting_remedies.REMEDIES)
def test_every_remedy_is_a_program(remedy):
    chosen = settings.read(load(REMEDIES, arg=f"runlocal,remedy={remedy}"))
    plain = settings.read(load(REMEDIES, arg="runlocal"))
    assert (chosen.plain == plain.plain) == (remedy == "none")
    plan.program(chosen)


# Two steps of an untrained skill may see equal rewards alone: then there is nothing to learn.
@pytest.mark.filterwarnings("ignore:loop. the gradient is zero")
@pytest.mark.parametrize("path", list(once_a_kind()))
def test_two_steps_run_within_a_minute(path, tmp_path, capsys):
    start = time.process_time()  # of the processor: the machine may have other work
    chosen = settings.read(load(path, arg="runlocal"))
    MAINS[main_of(path)](chosen, tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["stopped"], summary["step"]) == ("done", chosen.steps)
    assert (tmp_path / "run" / "report.html").is_file()
    assert any((tmp_path / "run" / "export").iterdir())
    assert time.process_time() - start < LONGEST_S


def has_full(path):
    """Return whether a config can fine-tune the whole model."""
    try:
        return bool(load(path, arg="full"))
    except ValueError:  # its methods are others
        return False


@pytest.mark.parametrize("family", sorted(checkpoint.families()))
def test_full_fine_tuning_finds_its_patterns_in_every_family(family):
    family = checkpoint.family_of(family)
    names = tree.paths({"model": family.make(family.from_hf(family.EXAMPLE)).abstract})
    whole = [load(path, arg="full") for path in FILES if has_full(path)]
    kinds = {tuple(c.optim.no_decay) for c in whole + [load(path) for path in FILES]}
    assert any(kinds)
    for patterns in kinds:
        found = groups.settings(names, weight_decay=0.1, no_decay=patterns)
        kept = {name for name, each in found.items() if each.weight_decay == 0}
        vectors = {name for name in names if re.search(r"norm|bias", name)}
        assert kept == (vectors if patterns else set())
