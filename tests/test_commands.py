"""The commands of README and docs are run as a reader types them, small, in a folder of their own.

What a page calls train.jsonl, runs/mine, DIR or DATA is made here; `runlocal` behind every config
makes a run end within seconds, and puts a stand-in in the place of data that few have. What cannot
run on any machine is under NOT_HERE with the reason: of that, flags and configs are read by
`test_docs.py`, and of scripts the --help is.

All but a few are slow: python -m pytest -m slow tests/test_commands.py
"""

import functools
import gzip
import json
import re
import shlex
import shutil
import subprocess
import sys
import time

import pytest

from tests import test_docs
from tests.lab import ASSETS, ROOT, environment

LONGEST_S = 900
# What makes a command one of another machine -> why.
NOT_HERE = {
    r"\bsrun\b": "a SLURM cluster",
    r"--coordinator": "a second host",
    r"\b(gs|s3)://": "a bucket; tests/run/test_workdirs.py has a stand-in",
    r"\borg/\w+": "the Hub; tests/run/test_hub_base.py has a stand-in",
    r"^python (convert_|-m sglang)": "programs of other projects",
    r"--lm_eval\b": "data of the Hub; tests/run/test_harness.py has a stand-in",
    r"--topology v\d": "a TPU's compiler, and minutes; tests/run/test_rehearse.py does it on CPUs",
    r"\bdocker\b": "a builder of containers; tests/test_dockerfile.py reads the file",
    r"\bpip install\b": "packages over the network; tests/test_command.py installs a wheel",
    r"^(scripts/\w+\.(sh|py)|\.ci/run|mkdocs serve)": "it sets up a machine, or never ends",
    r"^THEIRS/": "an environment with other libraries",
}
# Programs over the mains: benchmarks and tables of hours. Their --help must know the flags.
SCRIPT = re.compile(r"(?:\w+=\S+ )*python -m scripts\.(\w+)(.*)")
WRITERS = ("train", "online", "compare", "sequential", "stages", "decide", "members")
CHEAP = ("--help", "sft:path=train.jsonl,held=test.jsonl --dry_run", "sweep plan")
CHAT = "Hello\n/reset\nOnce more\n/quit\n"


def of_pages():
    """Return the commands of pages, each once: (main, words) by their text."""
    found = {}
    for main, own in test_docs.COMMANDS.items():
        for text, words in own.items():
            page, _, command = text.partition(": ")
            # Of a command that trains, one without a place is the name of a command.
            is_whole = main not in WRITERS or {"--workdir", "--dry_run", "--help"} & {*words}
            if page.endswith(".md") and is_whole:
                found.setdefault(" ".join(command.partition(" #")[0].split()), (main, words))
    return found


def is_here(command):
    return not any(re.search(pattern, command) for pattern in NOT_HERE)


COMMANDS = of_pages()
SWEEPS = [command for command, (main, _) in COMMANDS.items() if main == "sweep"]
HERE = [c for c in COMMANDS if is_here(c) and c not in SWEEPS]


def lines():
    """Return the lines of code blocks that shells take: of the mains, scripts, installers."""
    blocks = "\n".join("\n".join(test_docs.pieces(page)) for page in test_docs.PAGES)
    starts = r"(?:\w+=\S+ )*(?:srun |python |pip |docker |ftjax |scripts/|\.ci/|mkdocs |THEIRS/)"
    found = (line.strip() for line in blocks.splitlines())
    return {" ".join(line.partition(" #")[0].split()) for line in found if re.match(starts, line)}


def test_every_line_is_run_or_has_a_reason():
    others = {line for line in lines() if line not in COMMANDS and is_here(line)}
    # Programs of their own; texts in which something is left open, or that go on in another line.
    known = {line for line in others if SCRIPT.match(line) or "..." in line or "COMMAND" in line}
    known |= {line for line in others if any(whole.startswith(line) for whole in COMMANDS)}
    assert others - known - {"ftjax", "ftjax --help"} == set()  # see test_command.py
    for pattern in NOT_HERE:
        assert any(re.search(pattern, line) for line in lines()), pattern
    assert len(HERE) > 40


@pytest.mark.parametrize("name", sorted({m[1] for line in lines() if (m := SCRIPT.match(line))}))
def test_scripts_know_the_flags_that_the_pages_give_them(name):
    text = (ROOT / "scripts" / f"{name}.py").read_text()
    for line in lines():
        match = SCRIPT.match(line)
        if match and match[1] == name:
            for flag in re.findall(r"--\w+", match[2]):
                named = rf'"{flag}"|DEFINE_\w+\("{flag[2:]}"'  # by argparse, or by absl
                assert re.search(named, text), f"{line}: {flag}"


# -- the folder of a reader ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make a folder with the files and the runs that the pages speak of."""
    root = tmp_path_factory.mktemp("reader")
    (root / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(ASSETS, root / "base")
    rows = [dict(prompt=f"What is {i} + 1?\n", response=f" {i + 1}\n") for i in range(24)]
    write = lambda name, own: (root / name).write_text("\n".join(map(json.dumps, own)))
    write("train.jsonl", rows)
    write("test.jsonl", [dict(row, prompt=f"Now: {row['prompt']}") for row in rows[:12]])
    example = ROOT / "configs" / "decide_example"
    write("docs.jsonl", [{"text": f"Page {i} says that {i} is a number."} for i in range(12)])
    for name in ("passages", "train", "test"):
        shutil.copy(example / f"{name}.jsonl", root / f"decide_{name}.jsonl")
        packed = root / "DATA" / "qa" / "squad" / f"{name}.jsonl.gz"
        packed.parent.mkdir(parents=True, exist_ok=True)
        packed.write_bytes(gzip.compress((example / f"{name}.jsonl").read_bytes()))
    write("q.jsonl", [dict(prompt="The sky is"), dict(prompt="2 + 2 =")])
    return root


@pytest.fixture(scope="module")
def runs(folder):
    """Train the runs that the pages read."""
    keys = ["--config.checkpoint.best=eval/held/nll", "--config.checkpoint.every_steps=1"]
    config = "configs/sft.py:path=train.jsonl,held=test.jsonl,general=none,runlocal"
    for name, arg in dict(mine="", full=",full").items():
        done = run(folder, "train", ["--config", config + arg, f"--workdir=runs/{name}", *keys])
        assert done.returncode == 0, done.stderr
    for name in ("law", "code", "a", "b", "dora", "lora", "decide/arms/lora/trial0-seed0"):
        shutil.copytree(folder / "runs" / "mine", folder / "runs" / name)
    for name in ("law", "code"):
        shutil.copytree(folder / "runs" / "mine" / "export", folder / name)
    return folder


def run(folder, main, words, *, stdin="", devices=1):
    """Run `python -m experiments.<main>` in the folder; returns what subprocess does."""
    own = environment(devices) | dict(PYTHONPATH=str(ROOT), FTJAX_CACHE="")
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{main}", *words], cwd=folder, env=own, input=stdin,
        capture_output=True, text=True, timeout=LONGEST_S, check=False,
    )  # fmt: skip


def devices_of(command):
    """Return how many devices a command asks for, or says that it is for others than are here."""
    match = re.search(r"\bJAX_NUM_CPU_DEVICES=(\d+)", command)
    return int(match[1]) if match else 8 if "--mesh" in command else 1


@functools.cache
def number_of(command):
    return list(COMMANDS).index(command)


def prepared(command):
    """Return main and words of a command, with what is made here in the place of what is named."""
    main, words = COMMANDS[command]
    words = [part for word in words for part in (word.split("=", 1) if is_flag(word) else [word])]
    for i, word in enumerate(words):
        before = words[i - 1] if i else ""
        if before == "--config" and "--help" not in words:
            words[i] = small(word)
        elif before == "--workdir" and main in WRITERS:
            words[i] = f"made/{number_of(command)}"
        elif before == "--out":
            words[i] = f"made/out{number_of(command)}"
        elif "@" in word:
            words[i] = word.partition("@")[0] + "@2"
    return main, words


def is_flag(word):
    return re.match(r"--(config|workdir|out)=", word)


def small(config):
    """Return a config with `runlocal`, and files of this folder."""
    path, _, arg = config.partition(":")
    arg = arg.replace("base=DIR", "base=base")
    if "decide" in path:  # whose questions have answers in the passages
        arg = re.sub(r"\b(train|test)\.jsonl", r"decide_\1.jsonl", arg)
        arg = arg.replace("docs.jsonl", "decide_passages.jsonl")
    return f"{path}:{','.join(filter(None, [arg, 'runlocal']))}"


def marked():
    for command in HERE:
        is_cheap = any(text in command for text in CHEAP)
        yield pytest.param(command, marks=[] if is_cheap else [pytest.mark.slow])


@pytest.mark.parametrize("command", list(marked()))
def test_a_command_of_the_pages_runs(command, folder, request):
    main, words = prepared(command)
    needs_runs = main not in WRITERS and main not in ("sweep", "rehearse")
    if needs_runs:
        request.getfixturevalue("runs")
    if main == "serve":
        serve(folder, words)
        return
    stdin = CHAT if "--chat" in words else ""
    done = run(folder, main, words, stdin=stdin, devices=devices_of(command))
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    assert done.stdout.strip() or "--workdir" in words


def serve(folder, words):
    """Start a server, until it says where it is; then it is asked to end."""
    own = environment() | dict(PYTHONPATH=str(ROOT), FTJAX_CACHE="")
    command = [sys.executable, "-m", "experiments.serve", *words, "--port", "0"]
    with open(folder / "serve.txt", "w+") as said:
        process = subprocess.Popen(command, cwd=folder, env=own, stdout=said, stderr=said)
        try:
            end = time.monotonic() + LONGEST_S
            while "http://" not in (text := (folder / "serve.txt").read_text()):
                assert process.poll() is None, text
                assert time.monotonic() < end
                time.sleep(0.2)
        finally:
            process.terminate()
            assert process.wait(60) == 0, (folder / "serve.txt").read_text()


@pytest.mark.slow
def test_the_commands_of_a_sweep_run_one_after_another(folder):
    order = ["plan", "launch", "status", "resume", "collect"]
    done = {}
    for command in sorted(SWEEPS, key=lambda own: order.index(COMMANDS[own][1][0])):
        main, words = prepared(command)
        found = run(folder, main, words)
        assert found.returncode == 0, f"{command}\n{found.stderr}"
        done[words[0]] = found.stdout
    assert done.keys() == set(order)
    assert "2 done" in done["status"]
