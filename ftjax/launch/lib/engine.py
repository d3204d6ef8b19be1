"""What a launcher is: jobs become files and commands, which are shown, or written and run.

engine = make(**options)
submission = engine.submission(jobs, root)     # a pure function: what --dry_run shows
engine.check()                                 # the cluster's tool is here
engine.submit(submission, jobs)
"""

import pathlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ftjax.core import files
from ftjax.launch.lib.jobs import Job


class Submission(NamedTuple):
    """Files to write and commands to run after that, in order."""

    files: Mapping[pathlib.Path, str]
    commands: Sequence[Sequence[str]]

    def text(self) -> str:
        """Show all of it."""
        parts = [f"# {path}\n{content}" for path, content in self.files.items()]
        return "\n".join([*parts, *map(shlex.join, self.commands)]) + "\n"


class Engine(NamedTuple):
    """A launcher. tool: the program that it needs, "" for none."""

    tool: str
    submission: Callable[[Sequence[Job], pathlib.Path], Submission]
    submit: Callable[[Submission, Sequence[Job]], None]

    def check(self) -> None:
        """Check that the tool is on this machine.

        Raises:
          ValueError: it is not.
        """
        if self.tool and shutil.which(self.tool) is None:
            raise ValueError(
                f"--engine: found no {self.tool!r} on this machine; expected it on the PATH; "
                "launch where the cluster's commands are, or pass --dry_run to see what would be "
                "submitted"
            )


def run(submission: Submission, jobs: Sequence[Job]) -> None:
    """Write the files and run the commands.

    Raises:
      RuntimeError: a command fails.
    """
    for path, content in submission.files.items():
        files.write_text(path, content)
    for command in submission.commands:
        if code := subprocess.run(command, check=False).returncode:
            raise RuntimeError(f"--engine: {shlex.join(command)} ended with code {code}")


def show(submission: Submission, jobs: Sequence[Job]) -> None:
    """Print the commands, for who runs them by hand."""
    sys.stdout.write(submission.text())
