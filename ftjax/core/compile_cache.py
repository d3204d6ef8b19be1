"""Compiled programs on the disk: the next process of the same step does not compile it again.

    use("auto")       # a folder of the user's, one for each kind of CPU
    use("programs")   # this folder
    use("")           # none

A program from the disk is the program that was compiled, so a run resumes as exactly with it as
without. Processes that are joined on CPUs compile by themselves all the same (`core.processes`).
"""

import hashlib
import os
import pathlib
import platform
import sys

import jax
from jax.experimental.compilation_cache import compilation_cache

from ftjax.core import files

AUTO = "auto"
# Seconds of compiling that are worth a file: below it, reading one takes as long.
WORTH_S = 0.2


def use(folder: str) -> None:
    """Keep compiled programs in `folder`; "auto" leaves one that was chosen already.

    Raises:
      ValueError: it cannot be written to; of "auto" that is said, and programs are not kept.
    """
    if folder == AUTO and jax.config.jax_compilation_cache_dir:
        return  # by JAX_COMPILATION_CACHE_DIR, say
    path = None
    if folder:
        path = default() if folder == AUTO else pathlib.Path(folder).expanduser().absolute()
        if not _is_usable(path, folder):
            return
        jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH_S)
    if jax.config.jax_compilation_cache_dir != (path and str(path)):
        jax.config.update("jax_compilation_cache_dir", path and str(path))
        compilation_cache.reset_cache()  # jax looks at the folder once


def default() -> pathlib.Path:
    """Return the folder of "auto": programs for a CPU with other instructions may not run here."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    kind = hashlib.sha256(f"{platform.machine()} {flags}".encode()).hexdigest()[:8]
    return pathlib.Path(home).expanduser() / "ftjax" / f"programs-{kind}"


def _is_usable(path: pathlib.Path, folder: str) -> bool:
    try:
        files.try_write(path)
    except OSError as error:
        problem = f"compile_cache: got {folder!r}, where nothing can be written ({error})"
        if folder != AUTO:
            fix = "expected a directory of yours; choose another, or '' for none"
            raise ValueError(f"{problem}; {fix}") from None
        sys.stderr.write(f"{problem}; programs are compiled anew\n")
        return False
    return True
