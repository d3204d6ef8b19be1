"""`ftjax COMMAND ...`: the mains of `experiments` under one name.

    ftjax --help                                    the commands, one line each
    ftjax train --config sft:path=train.jsonl --workdir runs/mine
    ftjax train --config sft --help                 the config's docstring, arguments and keys
    ftjax completion bash                           a script for the shell: bash, zsh or fish

A command is a main, found on the disk: `ftjax train` is `python -m experiments.train`. Which
configs come along, `--config` knows by name.
"""

import os
import runpy
import sys
from typing import NoReturn

import ftjax
from ftjax import completion
from ftjax.core import config as conf
from ftjax.core import shipped

COMPLETION = "completion"


def main() -> None:
    """Run what the command line says."""
    argv = sys.argv[1:]
    if not argv:
        _leave(f"got no command; expected one of {conf.listed(shipped.mains())}; see ftjax --help")
    name, *rest = argv
    if name in ("--help", "-h", "help"):
        sys.stdout.write(overview())
    elif name == "--version":
        sys.stdout.write(f"ftjax {ftjax.__version__}\n")
    elif name == COMPLETION:
        _complete(rest)
    else:
        run(name, rest)


def run(name: str, arguments: list[str]) -> None:
    """Run a main as `python -m experiments.<name>` does: modules of this folder can be imported."""
    known = shipped.mains()
    if name not in known:
        near = conf.nearest(name, [*known, COMPLETION])
        _leave(f"got the command {name!r}; expected one of {conf.listed(known)}; {near}".rstrip())
    sys.path[:0] = [str(shipped.folder()), os.getcwd()]
    sys.argv[1:] = arguments
    runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)


def overview() -> str:
    """Return what `ftjax --help` prints."""
    mains = shipped.mains()
    width = max(map(len, [*mains, COMPLETION]))
    lines = [f"  {name:{width}}  {shipped.summary(path)}" for name, path in mains.items()]
    lines.append(f"  {COMPLETION:{width}}  Print a script that completes commands in a shell.")
    return (
        f"ftjax {ftjax.__version__}: fine-tune language models in JAX, and measure what they "
        "forget\n\n    ftjax COMMAND --flag=value ...\n    ftjax COMMAND --help\n\n"
        + "\n".join(lines)
        + f"\n\nconfigs for --config, beside files of yours: {conf.listed(shipped.configs())}\n"
    )


def _complete(rest: list[str]) -> None:
    if rest[:2] == ["words", "--"]:
        sys.path[:0] = [str(shipped.folder()), os.getcwd()]
        sys.stdout.writelines(f"{word}\n" for word in completion.words(rest[2:]))
        return
    if len(rest) != 1 or rest[0] not in completion.SCRIPTS:
        got = " ".join(rest) or "nothing"
        _leave(f"completion: got {got!r}; expected one of {conf.listed(completion.SCRIPTS)}")
    sys.stdout.write(completion.SCRIPTS[rest[0]])


def _leave(message: str) -> NoReturn:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
