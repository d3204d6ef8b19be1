"""Changes of a run that are compiled themselves: what makes it fit, and which mesh is fastest.

    better = suggest(settings, topology)         # where it does not fit: what needs less
    best = search(settings, topology, limit=8)    # meshes and microbatches, ranked

The order is that of the roofline, an estimate: see `rehearse`.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ftjax.core import mesh as meshes
from ftjax.optim import moments
from ftjax.run import rehearse
from ftjax.run.config import Settings
from ftjax.run.topology import GIB, Topology

LONG = 8192  # tokens of a row, of which devices may share one


def suggest(
    settings: Settings, topology: Topology, *, limit: int = 3, hbm_bytes: float | None = None
) -> list[dict]:
    """Compile up to `limit` changes that need less memory; those that fit first, the fastest first.

    Each has `change` (dotted keys) beside what `rehearse` returns.
    """
    changes = _changes(settings, topology)
    return sorted(_compiled(settings, topology, changes, limit, hbm_bytes), key=_rank)


def search(
    settings: Settings, topology: Topology, *, limit: int, hbm_bytes: float | None = None
) -> list[dict]:
    """Compile up to `limit` programs of other meshes, and of the best one's microbatches; ranked.

    Half of them are meshes, those first that send the least: the fewest shards of `tensor`, then
    the fewest copies of the weights. Each has `change` as in `suggest`.

    Raises:
      ValueError: the model and the batch divide over no mesh of these devices.
    """
    options = (settings, topology)
    # The mesh decides more than the microbatch, and so has the odd one.
    tried = _compiled(*options, _meshes(*options), (limit + 1) // 2, hbm_bytes)
    if not tried:
        raise ValueError(
            f"--search: got {topology.name} with batch_size {settings.batch_size}; expected a mesh "
            "of its devices that divides the batch and the model; use another batch_size"
        )
    best = min(tried, key=_rank)
    changes = ({**best["change"], **own} for own in _microbatches(settings, best))
    tried += _compiled(*options, changes, limit - len(tried), hbm_bytes)
    return sorted(tried, key=_rank)


def _compiled(settings, topology, changes, limit: int, hbm_bytes: float | None) -> list[dict]:
    """Compile what the run's objective, adapter, model and batch allow of changes."""
    tried: list[dict] = []
    for change in changes:
        if len(tried) == limit:
            break
        try:
            own = rehearse.changed(settings, change)
            found = rehearse.rehearse(own, topology, hbm_bytes=hbm_bytes)
        except ValueError:
            # A mesh that divides neither heads nor batch is no answer, and no fault of the user's.
            continue
        tried.append({"change": change, **found})
    return tried


def _sizes(settings: Settings, topology: Topology) -> dict[str, int]:
    """Return the size of every axis; one that is not named is 1, and `data` what is left."""
    named = dict.fromkeys(meshes.AXES, 1) | {"data": -1} | dict(settings.mesh)
    return meshes.resolve(named, topology.count)


def _meshes(settings: Settings, topology: Topology) -> Iterator[dict[str, int]]:
    """Yield meshes whose axes are powers of two; slices divide `data`, other axes stay."""
    own = _sizes(settings, topology)
    count = topology.count // (own["expert"] * own[meshes.SEQUENCE])
    # Slices and the sizes of models are multiples of these, and other numbers divide few of them.
    powers = [2**n for n in range(topology.count.bit_length())]
    pairs = sorted(itertools.product(powers, powers), key=lambda own: (own[0] * own[1], own[0]))
    for tensor, copies in pairs:
        data = copies * topology.slices
        if count % (tensor * data) == 0:
            fsdp = count // (tensor * data)
            yield {"mesh.data": data, "mesh.fsdp": fsdp, "mesh.tensor": tensor}


def _microbatches(settings: Settings, best: Mapping) -> Iterator[dict[str, int]]:
    """Yield other numbers of microbatches: fewer where the best mesh fits, else more."""
    replicas = best["devices"] // (best["mesh"]["tensor"] * best["mesh"][meshes.SEQUENCE])
    rows = settings.batch_size // replicas
    legal = [n for n in range(1, rows + 1) if rows % n == 0]
    fewer = [n for n in legal if n < settings.accumulate]
    more = [n for n in legal if n > settings.accumulate]
    yield from ({"accumulate": n} for n in (reversed(fewer) if best["fits"] else more))


def _rank(found: Mapping) -> tuple:
    seconds = (found.get("roofline") or {}).get("step_s", 0.0)
    needed = found["hbm"]["needed"]
    return not found["fits"], seconds if found["fits"] else 0.0, needed or math.inf


def _changes(settings: Settings, topology: Topology) -> Iterator[dict[str, Any]]:
    """Yield changes: the cheapest alone, then together with all before, then each dearer one."""
    sizes = _sizes(settings, topology)
    replicas = topology.count // (sizes["tensor"] * sizes[meshes.SEQUENCE])
    steps = []
    if settings.model.remat not in ("full", "full_offload"):
        steps.append({"model.remat": "full"})
    if sizes["data"] > 1:
        steps.append({"mesh.data": 1, "mesh.fsdp": sizes["data"] * sizes["fsdp"]})
    # As few rows at a time as every device can have one of.
    if (parts := settings.batch_size // replicas) > settings.accumulate:
        steps.append({"accumulate": parts})
    steps += _shared_rows(settings, sizes, replicas)
    # With an adapter moments are a few megabytes.
    averages = settings.optim["name"] in moments.AVERAGES
    if (
        averages
        and not settings.adapter.get("name")
        and settings.optim.get("state_dtype") != "int8"
    ):
        steps.append({"optim.state_dtype": "int8"})
    if settings.model.remat != "full_offload" and topology.platform != "cpu":
        steps.append({"model.remat": "full_offload"})
    if settings.adapter.get("name") and not settings.model.quantize.get("name"):
        steps.append({"model.quantize.name": "nf4"})
    together: dict[str, Any] = {}
    for step in steps:
        yield step
        if together and together | step != step:
            yield together | step
        together |= step


def _shared_rows(settings: Settings, sizes: Mapping, replicas: int) -> Iterator[dict[str, int]]:
    """Yield the change that gives a device half a long row at a time."""
    cut = sizes["data"] * sizes["fsdp"]
    if settings.data.get("max_tokens", 0) < LONG or cut % 2:
        return
    mesh = {"mesh.data": 1, "mesh.fsdp": cut // 2, f"mesh.{meshes.SEQUENCE}": 2 * sizes["sequence"]}
    yield mesh | {"accumulate": settings.batch_size // (replicas // 2)}


def summary(own: Mapping) -> str:
    """Write a suggestion in one line, as flags of a command."""
    flags = " ".join(f"--config.{key}={value}" for key, value in own["change"].items())
    fits = "fits" if own["fits"] else "does not fit"
    needed = own["hbm"]["needed"]
    line = own.get("roofline") or {}
    step = f", {line['step_s']:.3f} s a step" if line else ""
    return f"{fits} ({'?' if needed is None else f'{needed / GIB:.3f} GiB'}{step}): {flags}"
