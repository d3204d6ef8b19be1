"""Checkpoints that a crash, a full disk or a flipped bit cannot turn into a lost or a wrong run.

A step on the disk holds `state` (plain nested dicts of arrays, see `layout`), `data` (the position
in the data and in the log, JSON), `meta` (config, frozen base, versions, tree listing, JSON) and
`digest.json`. Orbax writes it in the background into a temporary directory and commits it by one
rename, after our digest is in.

    with Checkpoints(folder, config=config, keep=2, best="eval/nll") as checkpoints:
        restored = checkpoints.restore(state)          # None in a fresh directory
        checkpoints.save(step, state, data={"next_batch": 7}, metrics={"eval/nll": 1.2})

A damaged step is renamed to `<step>.bad-<reason>`, with a warning, and the one before is used.
"""

import json
import logging
import math
import os
import pathlib
import shutil
import time
import warnings
from typing import Any, NamedTuple

import jax
from etils import epath

from ftjax.core import digest, files, processes
from ftjax.core.versions import versions
from ftjax.train import serialize

# Orbax warns of every manager that only reads, which is what it was asked to do. No other warning
# begins so: that a save or a removal is skipped is still shown.
logging.getLogger("absl").addFilter(
    lambda record: not str(record.msg).startswith("Given directory is read only")
)

Tree = Any
# What a full disk or a damaged file raises; a TypeError is a fault of ours and ends the run.
FAILURES = (OSError, ValueError, RuntimeError)


def _orbax():
    """Import orbax: where nothing was saved yet, the first step does not wait for it."""
    import orbax.checkpoint as ocp

    return ocp


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message names path and cause."""


class Restored(NamedTuple):
    """What a checkpoint held."""

    step: int
    state: Tree
    data: Any
    meta: dict


class Checkpoints:
    """The checkpoints of one run, in one directory on a file system that all processes share."""

    def __init__(
        self,
        directory: os.PathLike | str,
        *,
        config: dict | None = None,
        frozen: dict | None = None,
        keep: int = 2,  # not 1: the newest may turn out to be damaged
        best: str | None = None,
        mode: str = "min",
        allow_config_change: bool = False,
        free: tuple[str, ...] = (),
        read_only: bool = False,
    ):
        """Open `directory`, creating it where it does not exist.

        config: the run's settings; a restore refuses another one (see `allow_config_change`).
        frozen: source and hash of the frozen base, checked like the config.
        keep: how many of the latest steps to keep; the best by the metric `best` stays besides.
        free: globs over config paths that may change on resume, such as "eval/**" or "workdir".
        read_only: touch nothing, for the run may be alive: no cleaning up, no setting aside.
        """
        if mode not in ("min", "max"):
            raise ValueError(f"checkpoint.mode: got {mode!r}; expected 'min' or 'max'")
        if keep < 1:
            raise ValueError(f"checkpoint.keep: got {keep}; expected 1 or more")
        # Orbax refuses relative paths, and a change of the working directory would move them.
        self.directory = pathlib.Path(directory).absolute()
        # As JSON gives it back: a tuple would differ from the list that it has become.
        self._identity = files.plain({"config": config or {}, "frozen": frozen or {}})
        self._free, self._allow_change, self._read_only = free, allow_config_change, read_only
        self._best, self._mode, self._saving = best, mode, None
        # Before the manager opens: it reads the metrics of all steps, and one damaged file would
        # end it.
        processes.on_first(self._set_aside_unscored)
        self._keep, self._manager, self.blocked_s = keep, None, 0.0
        if read_only or processes.on_first(self._is_used):
            self._open()

    def _is_used(self) -> bool:
        """Whether the directory holds anything; makes it, where it is not there."""
        self.directory.mkdir(parents=True, exist_ok=True)
        return any(self.directory.iterdir())

    def _open(self) -> None:
        options = self._options(self._keep)
        self._manager = _orbax().CheckpointManager(self.directory, options=options)

    @property
    def best(self) -> str | None:
        """The metric that ranks steps."""
        return self._best

    def save(self, step: int, state: Tree, *, data: Any = None, metrics: dict | None = None):
        """Start to write `step`; return once `state` may be donated (it is copied to the host).

        Waits for the save before. A step that exists already is left as it is.

        Raises:
          CheckpointError: this save, or the one before, failed; older steps are intact.
        """
        self.wait()
        if self._manager is None:
            self._open()
        # A run that is stopped at a step it has just saved saves it again.
        if step in self.steps():
            return
        # One save at a time: `_sign` finds the step that is being written by this one name.
        start, self._saving, ocp = time.perf_counter(), step, _orbax()
        # The listing of the tree is kept as text, so that a mismatch is named without reading
        # arrays.
        meta = {**self._identity, "versions": versions(), "tree": serialize.listing(state)}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(serialize.to_disk(state)),
            # Within an object, for `data` alone may be None.
            data=ocp.args.JsonSave(files.plain({"data": data})),
            meta=ocp.args.JsonSave(meta),
        )
        try:
            # force: the loop has decided to save, and orbax's own intervals are not asked.
            self._manager.save(step, args=items, metrics=self._score(metrics), force=True)
        except FAILURES as error:
            raise self._failed(error) from error
        self.blocked_s += time.perf_counter() - start

    def restore(
        self, like: Tree, *, step: int | None = None, partial: bool = False
    ) -> Restored | None:
        """Read the newest good step, or `step` alone, into the structure and shardings of `like`.

        like: a state, or its ShapeDtypeStructs with shardings; any mesh will do.
        partial: `like` has holes where the checkpoint has arrays that nobody needs.

        Returns None where nothing was ever saved.

        Raises:
          ValueError: another config, frozen base or tree than here; the message lists the paths.
          CheckpointError: steps exist and none of them is whole.
        """
        self.wait()
        steps = processes.on_first(self.steps)  # others may see an older state of the folder
        if step is not None and step not in steps:
            raise CheckpointError(f"{self.directory}: got step {step}; expected one of {steps}")
        for candidate in [step] if step is not None else reversed(steps):
            good = self.is_good(candidate)
            if good and (restored := self._load(candidate, like, partial=partial)):
                return restored
        # Told apart from a new run: starting anew over damaged steps would bury them.
        damaged = lambda: sorted(path.name for path in self.directory.glob("*.bad-*"))
        if bad := processes.on_first(damaged):
            raise CheckpointError(
                f"{self.directory}: no good checkpoint is left; set aside as damaged: "
                f"{', '.join(bad)}; repair one, or remove them to start anew"
            )
        return None

    def steps(self) -> list[int]:
        """List the committed steps, oldest first; a save under way counts."""
        return sorted(self._manager.all_steps()) if self._manager else []

    def drop_after(self, step: int) -> None:
        """Remove the steps after `step`; every process must call it."""
        self.wait()
        for newer in [each for each in self.steps() if each > step]:
            self._manager.delete(newer)

    def best_step(self) -> int | None:
        """Return the step with the best metric, None without one."""
        self.wait()
        return processes.on_first(self._best_step)

    def _best_step(self) -> int | None:
        # From the files, since the manager of a reader reads no metrics.
        found = {step: _scored(self.directory / str(step)) for step in self.steps()}
        return _best({step: x["value"] for step, x in found.items() if x}, self._mode)

    def wait(self) -> None:
        """Wait until the save under way is committed; CheckpointError if it failed."""
        if self._manager is None:
            return
        start = time.perf_counter()
        try:
            self._manager.wait_until_finished()
        except FAILURES as error:
            raise self._failed(error) from error
        finally:
            self.blocked_s += time.perf_counter() - start
        self._saving = None

    def close(self) -> None:
        """Wait for the save under way and free the threads."""
        self.wait()
        if self._manager:
            self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def _set_aside_unscored(self) -> None:
        """Set steps with unreadable metrics aside: orbax reads those of every step as it opens."""
        if self._read_only:
            return
        for folder in self.directory.glob("[0-9]*"):
            if folder.name.isdigit() and _scored(folder) is None:
                aside = digest.quarantine(folder, reason="metrics")
                warnings.warn(
                    f"checkpoint {folder} is damaged: its metrics cannot be read; it is renamed to "
                    f"{aside.name} and the step before is used",
                    RuntimeWarning,
                    stacklevel=4,
                )

    def _options(self, keep: int):
        ocp = _orbax()
        keepers = [ocp.checkpoint_managers.LatestN(keep), _KeepBest(self._mode)]
        return ocp.CheckpointManagerOptions(
            # Orbax stores metrics only when told to rank; `_KeepBest` ranks in its place.
            # A reader ranks nothing, and reads no metrics as it opens: they may be damaged.
            best_fn=(lambda metrics: 0.0) if self._best and not self._read_only else None,
            lightweight_initialize=self._read_only,
            preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(keepers),
            # What looks left over may be the save under way of a run that lives.
            cleanup_tmp_directories=not self._read_only,
            create=not self._read_only,
            read_only=self._read_only,
            save_interval_steps=0 if self._read_only else 1,  # else orbax warns that it sets this
            async_options=ocp.AsyncOptions(post_finalization_callback=self._sign),
        )

    def _sign(self) -> None:
        """Write the digest. Orbax calls this on the primary process, just before the rename."""
        name = str(self._saving)
        for folder in [
            *self.directory.glob(f"{name}.orbax-checkpoint-tmp*"),
            self.directory / name,
        ]:
            if folder.is_dir():
                digest.write(folder)

    def _score(self, metrics: dict | None) -> dict:
        value = (metrics or {}).get(self._best)
        # A NaN compares as neither better nor worse, so it could be kept as best for ever.
        return {} if value is None or not math.isfinite(value) else {"value": float(value)}

    def _failed(self, error: Exception) -> CheckpointError:
        """Remove the torn step, which may fill the disk, and describe the failure."""
        step, self._saving = self._saving, None
        if jax.process_index() == 0 and step is not None:
            # Errors are ignored: the one to report is that of the save.
            for torn in self.directory.glob(f"{step}.orbax-checkpoint-tmp*"):
                shutil.rmtree(torn, ignore_errors=True)
        self._manager.reload()
        # A full disk is the usual cause, and orbax's error does not say how full.
        free = shutil.disk_usage(self.directory).free / 2**20
        # After the reload, so that the torn step is not listed as good.
        last = self.steps()[-1:] or "none"
        return CheckpointError(
            f"{self.directory}/{step}: the checkpoint was not written ({free:.0f} MiB free there; "
            f"last good step: {last}): {error}"
        )

    def is_good(self, step: int) -> bool:
        """Verify the digest, in process 0; set a damaged step aside."""
        folder = self.directory / str(step)
        # In one process, or each would read all of the step from the shared disk.
        found = processes.on_first(lambda: digest.problem(folder))
        if found is not None:
            self._set_aside(step, *found)
        return found is None

    def _set_aside(self, step: int, reason: str, text: str) -> None:
        folder = self.directory / str(step)
        fate = "left out" if self._read_only else f"renamed to {step}.bad-{reason}"
        warnings.warn(
            f"checkpoint {folder} is damaged: {text}; it is {fate} and the step before is used",
            RuntimeWarning,
            stacklevel=2,
        )
        if self._read_only:
            return
        processes.on_first(lambda: digest.quarantine(folder, reason=reason))
        self._manager.reload()

    def _load(self, step: int, like: Tree, *, partial: bool) -> Restored | None:
        """Read a verified step; None, and set aside, where a process cannot read it after all."""
        found, fault = None, None
        try:
            found = self._read(step, like, partial=partial)
        except FAILURES as error:
            fault = error
        # All learn of a fault before any goes on to where they wait for each other.
        if processes.any_process(isinstance(fault, _Mismatch)):
            where = f"checkpoint {self.directory}/{step}"
            raise fault or _Mismatch(f"{where}: another process refused it, and names the cause")
        if processes.any_process(fault is not None):
            self._set_aside(step, "unreadable", str(fault or "another process cannot read it"))
            return None
        return found

    # The handlers of orbax and not its manager read: the manager ends with a barrier, in which the
    # others would wait for a process that has failed.

    def _read(self, step: int, like: Tree, *, partial: bool) -> Restored:
        folder, read = self.directory / str(step), _orbax().JsonCheckpointHandler().restore
        data, meta = (read(folder / name) for name in ("data", "meta"))
        # Before the arrays: another config is refused without reading gigabytes.
        self._check(step, meta, like, partial=partial)
        nested = self._arrays(folder / "state", serialize.abstract(like), partial=partial)
        return Restored(step, serialize.from_disk(nested, like=like), data["data"], meta)

    def _arrays(self, folder: pathlib.Path, like: dict, *, partial: bool) -> dict:
        folder, ocp = epath.Path(folder), _orbax()
        if not partial:
            args = ocp.args.StandardRestore(like)
            return ocp.StandardCheckpointHandler().restore(folder, args=args)
        # The format is the same; only this handler can leave arrays out.
        args = ocp.args.PyTreeRestore(
            like, restore_args=ocp.checkpoint_utils.construct_restore_args(like),
            partial_restore=True,
        )  # fmt: skip
        return ocp.PyTreeCheckpointHandler().restore(folder, args=args)

    def _check(self, step: int, meta: dict, like: Tree, *, partial: bool) -> None:
        where = f"checkpoint {self.directory}/{step}"
        changed = serialize.changes(meta, self._identity, self._free)
        if changed and not self._allow_change:
            raise _Mismatch(
                f"{where}: got a config other than the one it was saved with; expected the same "
                "values; restore them, choose another directory, or pass --allow_config_change "
                "(--restart_data for other data or another batch size alone):\n"
                + "\n".join(changed)
            )
        if lines := serialize.compare(meta["tree"], like, partial=partial):
            raise _Mismatch(
                f"{where}: got a state of other paths, shapes or dtypes; expected the tree that "
                "was saved; look for a changed adapter, rank, optimizer or model:\n"
                + "\n".join(lines)
            )


# A class of its own, for it is no damage: setting it aside would bury another run's weights.
class _Mismatch(ValueError):
    """The checkpoint is whole and belongs to another run."""


class _KeepBest:
    """Preserves the step with the best metric; steps without one never count."""

    def __init__(self, mode: str):
        self._mode = mode

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        scores = {info.step: info.metrics["value"] for info in checkpoints if info.metrics}
        best = _best(scores, self._mode)
        # By step: two steps with equal scores are two checkpoints, and one is enough.
        return [info.step == best for info in checkpoints]


def _best(scores: dict[int, float], mode: str) -> int | None:
    pick = min if mode == "min" else max
    return pick(scores, key=scores.__getitem__) if scores else None


def _scored(folder: pathlib.Path) -> dict | None:
    """Read the metric that a step was saved with; empty without one, None where it is damaged."""
    path = folder / "metrics" / "metrics"
    if not path.parent.is_dir():
        return {}
    try:
        found = json.loads(path.read_text())
        return {"value": float(found["value"])} if found else {}
    except (OSError, ValueError, TypeError, KeyError):
        return None
