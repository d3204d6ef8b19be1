"""Which names requests may ask for, and the queue that answers each.

    models = build(parts, {"base": base, "law": law, "code": code}, count=16, length=512, ...)
    models["law"].engine, models["law"].member

Models of the same weights share one queue, and each of its rows has its own adapter: many adapters
cost little more than one. What cannot share (other weights, adapters that are merged or of another
method) has a queue of its own, and that is said.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ftjax.adapters.multi import per_row
from ftjax.core import mesh as meshes
from ftjax.run import build as setup
from ftjax.run import named_adapters
from ftjax.sampling import generation, slots
from ftjax.serve.engine import Engine


class Model(NamedTuple):
    """A name's queue, and its place among the adapters there."""

    engine: Engine
    member: int


class _Share(NamedTuple):
    """Models that one queue answers."""

    names: Sequence[str]
    params: dict[str, Any]


def build(
    parts: setup.Parts, models: Mapping[str, Mapping], *, count: int, length: int,
    stop_ids: Sequence[int], max_queue: int, max_queue_tokens: int,
) -> dict[str, Model]:  # fmt: skip
    """Make the engines of these models: {"model", "adapters"} of each by name.

    count, length: slots of each queue, and their positions. The other arguments are the engine's.
    """
    found = {}
    for share in _shares(parts, models):
        programs = slots.make(
            parts.model, count=count, length=length, stop_ids=stop_ids,
            of_rows=_choose if len(share.names) > 1 else _same,
            out_shardings=meshes.replicated(parts.mesh),
        )  # fmt: skip
        engine = Engine(
            programs, share.params, count=count, stop_ids=stop_ids, max_queue=max_queue,
            max_queue_tokens=max_queue_tokens, context=lambda: jax.set_mesh(parts.mesh),
            reads_beside=parts.mesh.size == 1,
        )  # fmt: skip
        found |= {name: Model(engine, place) for place, name in enumerate(share.names)}
    return {name: found[name] for name in models}


def _choose(params, member_B):
    return {**params, "adapters": per_row.select(params["adapters"], member_B)}


def _same(params, member_B):
    return params


def _shares(parts: setup.Parts, models: Mapping[str, Mapping]) -> Iterator[_Share]:
    groups: list[list[str]] = []
    for name, params in models.items():
        same = (g for g in groups if _is_same(models[g[0]]["model"], params["model"]))
        if group := next(same, None):
            group.append(name)
        else:
            groups.append([name])
    for names in groups:
        # Every token reads all weights: from a copy in the type of the computation.
        weights = parts.model.cast(models[names[0]]["model"])
        yield from _shares_of(parts, weights, {n: models[n].get("adapters") for n in names})


def _is_same(one, other) -> bool:
    """Return whether two trees hold the very same arrays."""
    pair = jax.tree.leaves(one), jax.tree.leaves(other)
    return len(pair[0]) == len(pair[1]) and all(a is b for a, b in zip(*pair, strict=True))


def _shares_of(parts: setup.Parts, weights, adapters: Mapping[str, Any]) -> Iterator[_Share]:
    """Yield one share of all these adapters if they go together, or one of each."""
    names = list(adapters)
    if len(names) > 1:
        try:
            stacked = named_adapters.stack(parts, [own or {} for own in adapters.values()])
            params = {"model": weights, "adapters": stacked}
            _check_rows(parts, params)
        except ValueError as error:
            sys.stderr.write(f"{', '.join(names)} have a queue each: {error}\n")
        else:
            yield _Share(names, params)
            return
    for name, own in adapters.items():
        placed = named_adapters.place(parts, own) if own else None
        yield _Share([name], {"model": weights, "adapters": placed})


def _check_rows(parts: setup.Parts, params) -> None:
    """Raise ValueError where the model merges a weight, of which rows would have one each."""

    def read(params):
        rows = jnp.zeros(1, jnp.int32)
        own = _choose(params, rows)
        return generation.prefill(parts.model, own, rows[None], rows + 1, length=2)

    with jax.set_mesh(parts.mesh):
        jax.eval_shape(read, params)
