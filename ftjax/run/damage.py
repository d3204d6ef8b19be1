"""Damage in what a run has left, looked for before it goes on, not when it has ended.

    set_aside(Artifacts(workdir))      # evals/0.npz -> evals/0.npz.bad-unreadable, with a warning

Checkpoints, the cached reference and start.safetensors carry digests and are checked where they are
read; here are the files that only the reports need.
"""

import json
import pathlib
import warnings
import zipfile

import jax

from ftjax.core import digest
from ftjax.run.artifacts import Artifacts


def set_aside(artifacts: Artifacts) -> None:
    """Rename scores and samples that cannot be read; the reports do without them."""
    # One renames for all; the others would not find what they look at.
    if jax.process_index() != 0:
        return
    for step in artifacts.evaluated():
        _check(artifacts.scores(step), _bad_scores)
    for step in artifacts.sampled():
        _check(artifacts.sample(step), _bad_samples)


def _check(path: pathlib.Path, problem) -> None:
    if found := problem(path):
        aside = digest.quarantine(path, reason="unreadable")
        warnings.warn(
            f"{path}: got a file that cannot be read ({found}); it is renamed to {aside.name}, and "
            "reports do without it",
            RuntimeWarning,
            stacklevel=3,
        )


def _bad_scores(path: pathlib.Path) -> str:
    try:
        with zipfile.ZipFile(path) as file:
            # np.load reads a member when it is asked for: only checksums find damage now.
            damaged = file.testzip()  # the first member whose checksum is wrong
    except (OSError, zipfile.BadZipFile) as error:
        return str(error)
    return f"damaged {damaged}" if damaged else ""


def _bad_samples(path: pathlib.Path) -> str:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        # What reports read of it.
        [(row["prompt"], row["text"]) for row in rows]
    except (OSError, ValueError, TypeError, KeyError) as error:
        return str(error) or type(error).__name__
    return ""
