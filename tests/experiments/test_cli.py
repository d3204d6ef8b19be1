"""What every command shares: flags of the processes and of the mesh, and one line for an error."""

import ast
import pathlib
import subprocess
import sys

import pytest

from experiments import cli
from tests.lab import environment

ROOT = pathlib.Path(__file__).resolve().parents[2]
MAINS = {
    path.stem: ast.parse(path.read_text())
    for path in sorted((ROOT / "experiments").glob("*.py"))
    if "__main__" in path.read_text() and path.stem != "cli"
}

# They start other processes, and take no device from them.
LAUNCHERS = ("sweep",)


def called(tree, *names):
    """List where a module calls `a.b`, as line numbers."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [call.lineno for call in calls if ast.unparse(call.func) in names]


def imported(function, *packages):
    """List the lines on which a function imports one of these packages."""
    nodes = (n for n in ast.walk(function) if isinstance(n, ast.Import | ast.ImportFrom))
    name = lambda n: n.module if isinstance(n, ast.ImportFrom) else n.names[0].name
    return [node.lineno for node in nodes if name(node).split(".")[0] in packages]


@pytest.mark.parametrize("name", [name for name in MAINS if name not in LAUNCHERS])
def test_every_main_starts_its_process_before_it_uses_jax(name):
    (main,) = (n for n in MAINS[name].body if isinstance(n, ast.FunctionDef) and n.name == "main")
    (started,) = called(main, "cli.start")
    assert all(line > started for line in imported(main, "jax", "ftjax"))
    assert called(MAINS[name], "cli.run")


@pytest.mark.parametrize("name", MAINS)
def test_every_main_that_reads_a_run_takes_a_mesh(name):
    reads = called(MAINS[name], "reader.load", "reader.parts_of")
    assert bool(reads) <= bool(called(MAINS[name], "cli.define_mesh"))


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_touches_no_device(name):
    assert not called(MAINS[name], "cli.start")
    assert not imported(MAINS[name], "jax")


def test_the_walk_sees_the_mains():
    assert {"train", "evaluate", "generate", "export", "compare", "online"} <= MAINS.keys()


@pytest.mark.parametrize(
    ("given", "sizes"),
    [([], None), (["fsdp=2"], dict(fsdp=2)), (["data=-1", "tensor=4"], dict(data=-1, tensor=4))],
)
def test_the_mesh_of_the_command_line(given, sizes):
    assert cli.mesh_of(given) == sizes


@pytest.mark.parametrize("text", ["fsdp", "fsdp=", "fsdp=two", "rows=2", "fsdp=-2", "2"])
def test_a_mesh_of_another_form_is_an_error(text):
    told = f"--mesh: got '{text}'; expected AXIS=SIZE of data, member, fsdp"
    with pytest.raises(ValueError, match=told):
        cli.mesh_of([text])


def run(name, *arguments, **variables):
    command = [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=environment() | variables, capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip


def test_a_batch_script_without_its_launcher_ends_in_one_line():
    done = run("evaluate", "--workdir", "nowhere", SLURM_JOB_ID="7", SLURM_NTASKS="2")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        line for line in done.stderr.splitlines() if line.startswith("error: SLURM_NTASKS: got 2;")
    ]
    assert "start the command with srun" in done.stderr


def test_windows_is_told_of_wsl_at_once(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit) as left:
        cli.run(lambda argv: pytest.fail("it began"))
    assert left.value.code == 2
    assert "wsl --install" in capsys.readouterr().err
