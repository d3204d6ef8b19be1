"""Reading a run back: its config, its model, and the weights of one of its checkpoints.

run = load(workdir, checkpoint="latest")      # or "best", or a step
run.params                                    # {"model": ..., "adapters": ...} on the mesh
run.base                                      # what the run started from, adapters off
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping

import jax
import optax

from ftjax.core import config as conf
from ftjax.core import mesh as meshes
from ftjax.core import processes
from ftjax.run import (
    adapter_init,
    saved_state,
)
from ftjax.run import (
    build as setup,
)
from ftjax.run import (
    config as settings,
)
from ftjax.run.artifacts import Artifacts
from ftjax.train import state as states


@dataclasses.dataclass(frozen=True)
class Run:
    """A run with its weights as they were at `step`; step 0 without a checkpoint = the base."""

    parts: setup.Parts
    params: dict
    base: dict
    step: int


def parts_of(
    workdir: pathlib.Path, *, mesh=None, sizes: Mapping[str, int] | None = None
) -> setup.Parts:
    """Build the parts of the run that `workdir` holds, on the devices that are there.

    Args:
      mesh: another one than the run's own. sizes: of one over all devices here. Without either the
        run's sizes are fitted to the devices.

    Raises:
      ValueError: the directory holds no run, or the sizes do not fit.
    """
    path = Artifacts(workdir).config
    if not path.is_file():
        raise ValueError(
            f"--workdir: got {str(workdir)!r}, which has no config.json; expected the directory of "
            "a run of experiments.train"
        )
    config = json.loads(path.read_text(encoding="utf-8"))
    run = settings.read(config)
    if mesh is None:
        mesh = conf.call(meshes.make, sizes or _fitted(run.mesh), where="--mesh")
    return setup.build(run, mesh=mesh)


def _fitted(sizes: Mapping[str, int]) -> dict[str, int]:
    """Fit a run's mesh to the devices here; what that changes is said."""
    count = jax.device_count()
    try:
        # Sizes that are not named are 1, and `data` is what is left, as for a run.
        meshes.resolve(dict.fromkeys(meshes.AXES, 1) | {"data": -1} | dict(sizes), count)
        return dict(sizes)
    except ValueError:
        # A run of a pod is read on a laptop too: as many of its axes as the devices here allow.
        found = meshes.fit(sizes, count)
    if processes.is_first():
        sys.stderr.write(
            f"mesh: the run's is {dict(sizes)}; read on {count} devices as {found}; --mesh chooses "
            "another\n"
        )
    return found


def base_of(parts: setup.Parts) -> dict:
    """Load what a run starts from, adapters off."""
    return setup.weights(parts) | {"adapters": None}


def load(workdir: pathlib.Path, *, checkpoint: str = "latest", mesh=None, sizes=None) -> Run:
    """Load a run with the weights of a checkpoint: "latest", "best" or a step.

    mesh, sizes: see `parts_of`.

    Raises:
      ValueError: there is no run, or no such checkpoint.
    """
    parts = parts_of(workdir, mesh=mesh, sizes=sizes)
    folder = Artifacts(workdir).checkpoints
    found = None
    if folder.is_dir():
        # A run may have gone on with another config: its arrays are what must fit.
        options = dict(read_only=True, allow_config_change=True)
        with saved_state.open_checkpoints(parts, workdir, **options) as checkpoints:
            step = step_of(checkpoints, checkpoint)
            found = checkpoints.restore(wanted(parts), step=step, partial=True)
    if found is None:
        raise ValueError(
            f"--workdir: got {str(workdir)!r}, which has no checkpoint; expected a run that has "
            "saved one; for what it started from, pass --base"
        )
    # What trains is read too, since `base` has it as the run started.
    first = setup.weights(parts, lambda _: adapter_init.read(parts, pathlib.Path(workdir)))
    params = saved_state.params_of(found.state, states.split(first, parts.patterns)[1])
    return Run(parts, params, first | {"adapters": None}, found.step)


def wanted(parts: setup.Parts) -> states.State:
    """Describe what a reader needs of a state: the weights and their average."""
    trainable, _ = states.split(parts.abstract, parts.patterns)
    # Any optimizer will do: the moments, twice the weights, stay on the disk.
    state = saved_state.abstract_state(parts, trainable, optax.identity())
    return state._replace(step=None, opt_state=None, key=None)


def step_of(checkpoints, name: str) -> int | None:
    """Return the step that `name` means; None is the newest good one.

    Raises:
      ValueError: it means none.
    """
    if name == "latest":
        return None
    if name == "best":
        best = checkpoints.best_step()
        if best is None:
            raise ValueError(
                "--checkpoint: got 'best', but the run names no metric to choose by; expected "
                "checkpoint.best in its config; use 'latest' or a step"
            )
        return best
    steps = checkpoints.steps()
    if not name.isdigit() or int(name) not in steps:
        known = ", ".join(map(str, steps)) or "none is saved"
        raise ValueError(f"--checkpoint: got {name!r}; expected latest, best or a step: {known}")
    return int(name)
