"""The evaluators of a run at work: what they say of some weights, and where it is kept.

    numbers = evaluation.run(params, step=0, workdir=workdir)

Runs that begin with the same weights, under the same evaluators, may share what is said of them.
"""

import dataclasses
import hashlib
import io
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ftjax.core import files
from ftjax.data import copies
from ftjax.report import table as tables
from ftjax.run.artifacts import Artifacts

# Of weights that are told apart by their hash. Larger ones are evaluated, which then costs less
# than moving them to the host.
MOST_BYTES = 2**29


class Found(NamedTuple):
    """What evaluators say of some weights.

    numbers: the metrics. arrays: scores of examples. answers: what was written, by label. samples:
    of the run's own prompts.
    """

    numbers: Mapping[str, float]
    arrays: Mapping[str, np.ndarray]
    answers: Mapping[str, list]
    samples: list


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Evaluators by label, the group of each, and a function that continues the sample prompts.

    texts: of the rows of each, to be looked for in training data. stated: what its module says of
    the metrics of each.
    """

    evaluators: Mapping[str, Any]
    groups: Mapping[str, str]
    sample: Callable | None
    texts: Mapping[str, copies.Texts]
    stated: Mapping[str, Mapping[str, tables.Metric]] = dataclasses.field(default_factory=dict)

    def run(
        self, params, *, step: int, workdir: pathlib.Path, seed: int = 0, shared=None
    ) -> dict[str, float]:  # fmt: skip
        """Evaluate, keep the scores of every example and the samples, and return the metrics.

        seed: of the samples. shared: a `run.shared.Shared`, which may know these weights.
        """
        measure = lambda: self.measure(params, seed=seed)
        found = shared.scores(self, params, seed, measure) if shared else measure()
        if jax.process_index() == 0:
            # All processes have the same numbers; two writers of one file would tear it.
            _save(found, workdir, step)
        return dict(found.numbers)

    def measure(self, params, *, seed: int = 0) -> Found:
        """Evaluate, and sample with a seed."""
        numbers, arrays, answers = {}, {}, {}
        for label, evaluator in self.evaluators.items():
            # An evaluator of somebody's own may have no such half.
            if (answered := getattr(evaluator, "answered", None)) is not None:
                found, answers[label] = answered(params)
            else:
                found = evaluator.examples(params)
            arrays |= {f"{label}/{name}": np.asarray(value) for name, value in found.items()}
            for name, value in evaluator.summary(found).items():
                numbers[f"eval/{label}/{name}"] = value
        samples = self.sample(params, seed=seed) if self.sample else []
        return Found(numbers, arrays, answers, samples)


def _save(found: Found, workdir: pathlib.Path, step: int) -> None:
    own = Artifacts(workdir)
    # In memory first: np.savez to the file itself could leave half of one behind.
    packed = io.BytesIO()
    np.savez(packed, **found.arrays)
    files.write_bytes(own.scores(step), packed.getvalue())
    files.write_json(own.sample(step), found.samples)
    # JSON lines, which people and other tools read; the scores are for NumPy alone.
    for label, told in found.answers.items():
        lines = (json.dumps(files.plain(each), ensure_ascii=False) for each in told)
        files.write_text(own.answers(label, step), "".join(f"{line}\n" for line in lines))


def digest(params) -> str | None:
    """Hash a tree of arrays, its paths, shapes and types too; None where that costs too much."""
    leaves, structure = jax.tree.flatten(params)
    # Of joined processes none has all.
    if jax.process_count() > 1 or sum(leaf.nbytes for leaf in leaves) > MOST_BYTES:
        return None
    found = hashlib.sha256(str(structure).encode())
    for leaf in leaves:
        found.update(f"{leaf.shape} {leaf.dtype}".encode())
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()
