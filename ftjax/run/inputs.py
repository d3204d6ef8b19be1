"""What a run trains on: its data, encoded and in batches, and those batches on the mesh.

loader = load(parts, progress)
batches = Batches(loader, parts.mesh)
"""

from collections.abc import Callable, Mapping

import jax

from ftjax.core import mesh as meshes
from ftjax.data import kinds, prepare
from ftjax.data import loader as loaders
from ftjax.objectives.losses import spec as specs
from ftjax.run import new_tokens, reference
from ftjax.run.build import Parts
from ftjax.run.shared import Shared


def load(
    parts: Parts, progress=None, *, eval_texts: Mapping | None = None, shared: Shared | None = None
) -> loaders.Loader:
    """Open and encode the data of a run; `progress(rows done, rows)` is called meanwhile.

    eval_texts: texts of the evaluations by label, which are looked for in the data.
    shared: keeps the encoded data for other runs.

    Raises:
      ValueError: anything wrong with them, or they are of another kind than the objective's.
    """
    # A cached reference is filled into the data, which are then this run's alone.
    has_own = shared is None or parts.reference.name == "cached"
    loader = _loader(parts, progress, prepare.load if has_own else shared.data, eval_texts or {})
    # Only now: rows are of a kind that the source may be the first to know.
    _check_kind(loader.data.kind, parts.objective)
    # Room for its log-probabilities, before batches are made of the store.
    reference.reserve(parts.reference, loader.data.store)
    return loader


def _loader(parts: Parts, progress, load: Callable, eval_texts: Mapping) -> loaders.Loader:
    s = parts.settings
    given = dict(
        tokenizer=parts.tokenizer, batch_size=s.batch_size, seed=s.seed.data, progress=progress,
        load=load, local_rows=meshes.local_rows(s.batch_size, parts.mesh), eval_texts=eval_texts,
    )  # fmt: skip
    data = {key: value for key, value in s.data.items() if key != new_tokens.KEY}
    return loaders.opened(data, where="data", **given)


def _check_kind(kind: str, objective) -> None:
    wanted = specs.of(objective).batch
    if wanted.sampled:
        raise ValueError(
            f"objective.name: got {objective.__name__}, which learns from samples that it takes "
            "itself; expected one that learns from data; run experiments.online, or change it"
        )
    if kind != wanted.name:
        raise ValueError(
            f"data.kind: got data of kind {kind!r} for {objective.__name__}; expected "
            f"{kinds.names_of(wanted)}; change one of them"
        )


class Batches:
    """A loader whose batches go to the mesh; knows where it is, as the loader does.

    anchors: loaders of other data by label, whose batches travel as batch["anchors"][label].
    """

    def __init__(self, loader: loaders.Loader, mesh, *, anchors: Mapping | None = None):
        self._loader, self._mesh, self._anchors = loader, mesh, anchors or {}

    def __iter__(self):
        return self

    def __next__(self):
        batch = self._put(self._loader)  # first: where the data end, no anchor moves on
        if not self._anchors:
            return batch
        return batch | {"anchors": {label: self._put(own) for label, own in self._anchors.items()}}

    def abstract(self) -> dict:
        """Return the shapes of a batch, laid out on the mesh; the position stays where it is."""
        beside = {label: self._shapes(own) for label, own in self._anchors.items()}
        return self._shapes(self._loader) | ({"anchors": beside} if beside else {})

    def _shapes(self, loader: loaders.Loader) -> dict:
        rows = loader.batch(0)
        places = meshes.batch_shardings(rows, self._mesh)
        shape = lambda x: (loader.batch_size, *x.shape[1:])
        whole = lambda x, place: jax.ShapeDtypeStruct(shape(x), x.dtype, sharding=place)
        return jax.tree.map(whole, rows, places)

    def _put(self, loader: loaders.Loader) -> dict:
        return meshes.put_local(next(loader), self._mesh, rows=loader.batch_size)

    @property
    def loaders(self) -> dict[str, loaders.Loader]:
        """The loaders by the label of an anchor; that of the run itself has none, ""."""
        return {"": self._loader, **self._anchors}

    def state(self) -> dict:
        """Return the loaders' positions."""
        beside = {label: own.state() for label, own in self._anchors.items()}
        return self._loader.state() | ({"anchors": beside} if beside else {})

    def restore(self, position: dict) -> None:
        """Go to a position."""
        self._loader.restore(position)
        for label, own in self._anchors.items():
            own.restore(position["anchors"][label])
