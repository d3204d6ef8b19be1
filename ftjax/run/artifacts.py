"""The files of a run: every path of a workdir is named here, and nowhere else.

files_of = Artifacts(workdir)
files_of.metrics, files_of.checkpoints, files_of.scores(100)
"""

import pathlib

from ftjax.core import remote


class Artifacts:
    """Paths in the directory of one run; nothing is read or written.

    Raises:
      ValueError: the workdir is a URL, of which pathlib would make a folder called `gs:`.
    """

    def __init__(self, workdir: pathlib.Path | str):
        remote.check_local(workdir, where="--workdir")
        root = self.workdir = pathlib.Path(workdir)
        self.config = root / "config.json"
        self.summary = root / "summary.json"
        self.metrics = root / "metrics.jsonl"
        self.tensorboard = root / "tensorboard"
        self.profile = root / "profile"  # traces of steps
        self.report = root / "report.html"
        self.report_job = root / "report.job.json"  # what it will show, until it is drawn
        self.checkpoints = root / "checkpoints"  # what it resumes from, with a digest of its own
        self.reference = root / "reference"  # log-probabilities computed once
        self.start = root / "start.safetensors"  # factors that adapters began with
        self.evals = root / "evals"
        self.samples = root / "samples"
        self.export = root / "export"
        self.restarts = root / "data_restarts.json"  # after which steps data started afresh
        self.tracker = root / "tracker.json"  # the run's id at the service that metrics go to
        self.pins = root / "hub.json"  # which commits the names of the Hub stand for in this run
        self.lock = root / "lock.json"
        self.unit = root / "unit.json"  # how it stands, of a job of a sweep
        self.members = root / "members.json"  # of a directory of members: which there are
        self.log = root / "log.txt"  # what it printed, of a job on this machine

    def scores(self, step: int) -> pathlib.Path:
        """Return the file of every single example's scores at `step`."""
        return self.evals / f"{step}.npz"

    def answers(self, label: str, step: int) -> pathlib.Path:
        """Return the file of prompt, answer and target of each example of an evaluation."""
        return self.evals / f"{label.replace('/', '_')}_{step}.jsonl"

    def comparison(self, step: int) -> pathlib.Path:
        """Return the file that `experiments.evaluate` writes of a checkpoint."""
        return self.evals / f"compare_{step}.json"

    def harness(self, step: int) -> pathlib.Path:
        """Return the file that `experiments.evaluate --lm_eval` writes of a checkpoint."""
        return self.evals / f"lm_eval_{step}.json"

    def edit(self, name: str, step: int) -> pathlib.Path:
        """Return the file that `experiments.edit` writes of a checkpoint."""
        return self.evals / f"edit_{name}_{step}.json"

    def self_samples(self, name: str) -> pathlib.Path:
        """Return the file of rows that were sampled from what the run starts from."""
        return self.workdir / "self" / f"{name}.jsonl"

    def importance(self, label: str) -> pathlib.Path:
        """Return the file of what a penalty leaves for the run after."""
        return self.workdir / "penalties" / f"{label}.safetensors"

    def sample(self, step: int) -> pathlib.Path:
        """Return the file of the texts written at `step`."""
        return self.samples / f"{step}.json"

    def evaluated(self) -> list[int]:
        """List the steps that have scores, in order."""
        return sorted(int(path.stem) for path in self.evals.glob("*.npz") if path.stem.isdigit())

    def sampled(self) -> list[int]:
        """List the steps that have samples, in order."""
        return sorted(int(path.stem) for path in self.samples.glob("*.json") if path.stem.isdigit())

    def has_checkpoint(self) -> bool:
        """Return whether a checkpoint was committed, whole or not."""
        # Drafts of orbax and steps set aside have longer names than a number.
        return any(path.name.isdigit() for path in self.checkpoints.glob("*"))
