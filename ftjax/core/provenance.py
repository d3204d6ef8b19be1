"""Where a result comes from: the command, the machine, the commit of the code, and when.

of_process(seconds=9.0)   ->  {"command": "python -m experiments.train ...", "host": ..., ...}
"""

import datetime
import os
import platform
import shlex
import subprocess
import sys

LONGEST_S = 5  # for git: a repository on a slow disk is not worth more


def of_process(*, seconds: float) -> dict[str, str | None]:
    """Return command, host, working directory, git_commit, started and ended of this process.

    seconds: since it started. git_commit: of the working directory, "(changed)" behind it where
    files differ from it; None where it is no repository. Dates are local times with their zone.
    """
    ended = datetime.datetime.now().astimezone()
    started = ended - datetime.timedelta(seconds=seconds)
    python, *rest = sys.orig_argv
    return {
        "command": shlex.join([os.path.basename(python), *rest]),
        "host": platform.node(),
        "directory": os.getcwd(),
        "git_commit": git_commit(),
        "started": started.isoformat(timespec="seconds"),
        "ended": ended.isoformat(timespec="seconds"),
    }


def git_commit() -> str | None:
    """Return the commit of the working directory, and whether files differ from it."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return (
        f"{commit} (changed)" if _git("status", "--porcelain", "--untracked-files=no") else commit
    )


def _git(*arguments: str) -> str | None:
    # A status may refresh git's index, which needs a lock that others may wait for.
    command = ["git", "--no-optional-locks", *arguments]
    options = dict(capture_output=True, text=True, timeout=LONGEST_S, check=True)
    try:
        return subprocess.run(command, **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
