"""A trained reward model as the judge of sampled texts.

    c.rewards.learned = dict(name="model", workdir="runs/reward_hh")

An answer is encoded behind its prompt as the pairs were that the reward model learned from, and
worth what the scalar head says at its last token, which is an end token only where the answer came
to an end (`finished` of its row). The weights are read when the first answer is
judged; whether there are any is checked when the reward is made.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from ftjax.core import mesh as meshes
from ftjax.data import encode
from ftjax.evals import preference
from ftjax.run import prompting, reader
from ftjax.run.artifacts import Artifacts
from ftjax.sampling import rewards

# The name under which the objective of reward models trains its head.
HEAD = "reward"
# How rows of its pairs were encoded; keys of packing and length mean nothing for one answer.
ENCODING = ("append_eos", "special")
BATCH = 16


def make(specs: Mapping[str, Mapping], *, faults: str = "raise", mesh=None) -> rewards.Rewards:
    """Make the rewards of a config, trained models among them; see `sampling.rewards.make`."""
    return rewards.make(specs, faults=faults, known={"model": model}, mesh=mesh)


def model(*, workdir: str, checkpoint: str = "latest", mesh=None) -> rewards.BatchReward:
    """Make the reward that a run of objective "reward" learned.

    Args:
      workdir: of the run. checkpoint: "latest", "best" or a step.
      mesh: to judge on; the run's own when not given.

    Raises:
      ValueError: the directory holds no run, or one that trains no reward head.
    """
    return rewards.BatchReward(
        Judge(pathlib.Path(workdir), checkpoint, mesh).score, collective=True
    )


# Two: one may judge the samples that a run learns from, and another those of an evaluation.
@functools.lru_cache(maxsize=2)
def _load(workdir: pathlib.Path, checkpoint: str, mesh, saved: int) -> reader.Run:
    """Load a run; training and its evaluation share one copy, as long as nothing newer is saved."""
    del saved
    return reader.load(workdir, checkpoint=checkpoint, mesh=mesh)


class Judge:
    """Scores answers; reads its weights when they are first needed."""

    def __init__(self, workdir: pathlib.Path, checkpoint: str, mesh):
        self._workdir, self._checkpoint, self._mesh = workdir, checkpoint, mesh
        parts = reader.parts_of(workdir, mesh=mesh)
        if HEAD not in parts.heads:
            raise ValueError(
                f"rewards: got workdir {str(workdir)!r}, whose objective is "
                f"{parts.settings.objective['name']!r}; expected a run that trains a reward head; "
                "see configs/reward_hh.py"
            )

    def score(self, texts: Sequence[str], rows: Sequence[Mapping]) -> np.ndarray:
        """Score answers to the `prompt`s of rows, [B]."""
        examples = [self._encode(*pair) for pair in zip(texts, rows, strict=True)]
        return self._rewards(self._run.params, examples)

    @functools.cached_property
    def _run(self) -> reader.Run:
        # A folder's time changes with every step that is committed into it.
        saved = Artifacts(self._workdir).checkpoints.stat().st_mtime_ns
        return _load(self._workdir, self._checkpoint, self._mesh, saved)

    @functools.cached_property
    def _rewards(self):
        mesh = self._run.parts.mesh
        return preference.make_rewarder(
            self._run.parts.model, batch_size=meshes.round_up_to_replicas(BATCH, mesh), mesh=mesh
        )

    def _encode(self, text: str, row: Mapping) -> tuple[np.ndarray, np.ndarray]:
        """Encode an answer as `data` of the run does, cut to the length that it knows."""
        tokenizer, data = self._run.parts.tokenizer, self._run.parts.settings.data
        prompt, answer = row["prompt"], text
        tools = None
        if not isinstance(prompt, str):
            prompt, tools = prompting.conversation(prompt)
            answer = [{"role": "assistant", "content": text}]
        (example,) = encode.examples(
            [{"prompt": prompt, "response": answer, "tools": tools, "weight": 1.0}], tokenizer,
            template=prompting.template_of(tokenizer, data),
            unfinished=not row.get("finished", True),
            **{key: data[key] for key in ENCODING if key in data},
        )  # fmt: skip
        return tuple(part[: data["max_tokens"]] for part in example)
