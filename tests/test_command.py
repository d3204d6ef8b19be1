"""`ftjax` is one command over the mains: from a checkout, and from a wheel in an empty folder."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

import ftjax
from ftjax import command, completion
from ftjax.core import shipped

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = ("ftjax", "configs", "experiments", "pyproject.toml", "setup.py", "README.md", "LICENSE")


def run(*words, cwd=ROOT, program=("-m", "ftjax.command"), path=ROOT):
    return subprocess.run(
        [sys.executable, *map(str, program), *map(str, words)], cwd=cwd, timeout=200,
        env=os.environ | {"PYTHONPATH": str(path), "JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_commands_are_the_mains_that_are_there():
    files = (ROOT / "experiments").glob("*.py")
    expected = {p.stem for p in files if p.stem not in ("__init__", "cli")}
    assert set(shipped.mains()) == expected >= {"train", "online", "compare", "stages"}
    text = command.overview()
    for name, path in shipped.mains().items():
        assert f"  {name} " in text
        assert shipped.summary(path) in text
        assert shipped.summary(path).endswith(".")


WRONG = [
    (["trian"], "error: got the command 'trian'; expected one of compare, "),
    (["trian"], "did you mean 'train'?"),
    (["complete"], "did you mean 'completion'?"),
    ([], "error: got no command; expected one of "),
    (["completion", "tcsh"], "error: completion: got 'tcsh'; expected one of bash, fish, zsh"),
    (["train", "--config", "sftt", "--dry_run"], "did you mean 'sft'? there is no such file"),
    (["train", "--config", "LICENSE", "--dry_run"], "got 'LICENSE'; expected a Python file with"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_wrong_usage_is_one_line(words, message):
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_help_of_a_command_shows_the_config_flag():
    done = run("train", "--help")
    assert done.returncode == 0
    for text in ("Fine-tune a model", "--config: file.py", "--workdir", "--coordinator"):
        assert text in done.stdout
    assert "config_key" not in done.stdout  # how --config.key=value is passed on


def test_help_beside_a_config_shows_what_it_takes():
    done = run("train", "--help", "--config=sft:rank=4")
    assert done.returncode == 0
    for text in (
        "Supervised fine-tuning on any JSONL file", "\n  rank=16\n", "\n  data.kind=prompt\n",
        "\n  adapter.rank=4\n", "\n  optim.learning_rate=0.003\n", "on_bad_row", "clip_norm",
    ):  # fmt: skip
        assert text in done.stdout, text


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ([""], {"train", "evaluate", "completion"}),
        (["tr"], {"train"}),
        (["train", "--dry"], {"--dry_run"}),
        (["train", "--config", "sft_m"], {"sft_medical"}),
        (["train", "--config="], {"--config=sft"}),
        (["train", "--config", "="], {"sft"}),
        (["train", "--config", "=", "sft_c"], {"sft_code"}),
        (["export", "--me"], {"--merge", "--mesh"}),
        (["completion", "b"], {"bash"}),
        (["absent", "--"], set()),
        (["train", "--workdir", "r"], set()),
    ],
)
def test_completion(typed, expected, monkeypatch):
    monkeypatch.setattr(completion, "flags_of", {"train": ["--dry_run"], "absent": []}.get)
    if typed[0] == "export":
        monkeypatch.setattr(completion, "flags_of", lambda name: ["--merge", "--mesh", "--out"])
    found = set(completion.words(typed))
    assert expected <= found
    assert all(word.startswith(typed[-1].removeprefix("=")) for word in found)
    assert not expected or len(found) < len(shipped.configs()) + 5


@pytest.mark.parametrize("name", ["train", "export"])
def test_flags_come_from_the_commands(name):
    done = run("completion", "words", "--", name, "--")
    assert {"--workdir", "--help", "--coordinator"} <= set(done.stdout.split())
    assert ("--dry_run" in done.stdout) == (name == "train")
    assert ("--merge" in done.stdout) == (name == "export")
    assert "config_key" not in done.stdout


@pytest.mark.parametrize("shell", completion.SCRIPTS)
def test_scripts_are_of_their_shell(shell, tmp_path):
    if not (program := shutil.which(shell)):
        pytest.skip(f"no {shell} here")
    script = tmp_path / "script"
    script.write_text(run("completion", shell).stdout)
    subprocess.run([program, "-n", script], check=True)


def test_bash_completes(tmp_path):
    (tmp_path / "ftjax").write_text(f'#!/bin/sh\nexec {sys.executable} -m ftjax.command "$@"\n')
    (tmp_path / "ftjax").chmod(0o755)
    script = completion.SCRIPTS["bash"] + (
        "COMP_WORDS=(ftjax train --config sft_m); COMP_CWORD=3; _ftjax; echo ${COMPREPLY[@]}\n"
        "COMP_WORDS=(ftjax ev); COMP_CWORD=1; _ftjax; echo ${COMPREPLY[@]}\n"
    )
    path = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], env=path, capture_output=True, text=True)
    assert done.stdout.split() == ["sft_medical", "evaluate"]


# -- the wheel -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of a copy of the sources: a build leaves files behind."""
    pytest.importorskip("setuptools", minversion="77")
    source, out = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    leave = shutil.ignore_patterns("__pycache__")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name, **({"ignore": leave} if (ROOT / name).is_dir() else {}))
    command = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", out, source]
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """The wheel, installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    command = ["-m", "pip", "install", "--no-deps", "--no-index", "-q", "--target", folder, wheel]
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return folder


def test_a_wheel_holds_everything_under_one_name(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"ftjax", f"ftjax-{ftjax.__version__}.dist-info"}
    for folder, inside in (("ftjax", "ftjax"), *((f, f"ftjax/bundled/{f}") for f in SOURCES[1:3])):
        files = (p for p in (ROOT / folder).rglob("*") if p.is_file() and p.suffix != ".pyc")
        expected = {f"{inside}/{p.relative_to(ROOT / folder).as_posix()}" for p in files}
        assert expected <= names


def test_the_installed_command_lists_and_helps(site, tmp_path):
    installed = dict(cwd=tmp_path, program=[site / "bin" / "ftjax"], path=site)
    done = run("--help", **installed)
    assert (done.returncode, done.stderr) == (0, "")
    assert "  train " in done.stdout
    done = run("evaluate", "--help", **installed)
    assert "    ftjax evaluate --workdir runs/mine" in done.stdout
    assert "python -m experiments" not in done.stdout


def test_the_installed_command_trains_in_an_empty_folder(site, tmp_path):
    (tmp_path / "lab.py").write_text("STEPS = 0\n")
    (tmp_path / "mine.py").write_text(
        "import lab\nfrom configs import sft\n\n\ndef get_config(arg=None):\n"
        "    c = sft.get_config('runlocal')\n    c.steps = lab.STEPS\n    return c\n"
    )
    rows = [{"prompt": f"What is {n}?", "response": f" {n}"} for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    installed = dict(cwd=tmp_path, program=[site / "bin" / "ftjax"], path=site)
    done = run("train", "--config", "sft:path=rows.jsonl,runlocal", "--workdir=out", **installed)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out/summary.json").read_text())["step"] == 2
    assert (tmp_path / "out/report.html").is_file()
    done = run("train", "--config=mine.py", "--dry_run", **installed)  # its imports resolve
    assert done.stderr.startswith("error: config.steps: got 0; expected at least 1")


API = """
import ftjax
from ftjax import api
assert api._settings("sft:steps=7", {"data.on_bad_row": "skip"}).steps == 7
assert "bundled" in api._main("train").__file__
"""


def test_the_installed_package_trains_from_python_too(site, tmp_path):
    done = run(cwd=tmp_path, program=["-c", API], path=site)
    assert done.returncode == 0, done.stderr
