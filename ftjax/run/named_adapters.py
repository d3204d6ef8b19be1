"""Adapters by name over one base, and which of them each prompt asks for.

    given = named(["law=runs/law/export", "code=runs/code/export"])
    rows = places(asked, given)                       for each prompt its place in `given`, or BASE
    params, of_rows = over(parts, weights, given, rows)

All prompts run in one program over one base, each row with its own adapter; where all ask for the
same one it is that adapter as ever, which may then be of any method.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from ftjax.adapters.lib import protocol
from ftjax.adapters.multi import per_row
from ftjax.adapters.peft import io as peft
from ftjax.core import config as conf
from ftjax.core import mesh as meshes
from ftjax.run import build as setup
from ftjax.run import config as settings

BASE = -1  # in place of an adapter's place


def parts_over(directory: str, *, sizes: Mapping[str, int] | None = None) -> setup.Parts:
    """Build the parts of a run that does not train: a base, its tokenizer, no adapter.

    sizes: of the mesh; all devices side by side when not given.
    """
    c = settings.defaults()
    c.mesh.update(sizes or {})
    # A config must have a length and a rate; nothing here reads them.
    c.model.base, c.steps, c.optim.learning_rate = directory, 1, 0.0
    return setup.build(settings.read(c))


def named(texts: Sequence[str]) -> dict[str, pathlib.Path]:
    """Read NAME=DIR of each.

    Raises:
      ValueError: one is not of this form, or a name comes twice.
    """
    found: dict[str, pathlib.Path] = {}
    for text in texts:
        name, _, directory = text.partition("=")
        if not name or not directory or name in found:
            raise ValueError(
                f"--adapter: got {text!r}; expected NAME=DIR, each name once, such as "
                "law=runs/law/export"
            )
        found[name] = pathlib.Path(directory)
    return found


def places(asked: Sequence, given: Mapping[str, pathlib.Path]) -> list[int]:
    """Look up the adapter of each prompt; without a name it is the base, or the only adapter.

    asked: objects with `prompt` and `adapter`, see `prompting.PromptRequest`.

    Raises:
      ValueError: a prompt names an adapter that is not given.
    """
    names = list(given)
    for each in asked:
        if each.adapter is not None and each.adapter not in given:
            raise ValueError(
                f"adapter: got {each.adapter!r} for the prompt {str(each.prompt)[:40]!r}; "
                f"{conf.nearest(each.adapter, names)}expected one of {conf.listed(names)}, or no "
                f"name; pass --adapter {each.adapter}=DIR"
            )
    # Who gives one adapter means it; of several none is meant more than the others.
    unnamed = 0 if len(given) == 1 else BASE
    return [unnamed if each.adapter is None else names.index(each.adapter) for each in asked]


def over(
    parts: setup.Parts, params: Mapping, given: Mapping[str, pathlib.Path], which: Sequence[int]
) -> tuple[dict, Callable | None]:
    """Read the adapters onto a base, for prompts of these places; without any, nothing changes.

    Returns the params, and what says of them which adapter each prompt of a batch uses, see
    `sampling.text.make`; None where all use one.

    Raises:
      ValueError: an adapter is of another base, or adapters do not go together in a batch.
    """
    if not given:
        return {**params}, None
    members = list(read(parts, params["model"], given).values())
    # All are checked; those that no prompt asks for take no memory of the devices.
    used = sorted(set(which))
    trees = [{} if place == BASE else members[place] for place in used]
    if len(used) == 1:
        return {**params, "adapters": place(parts, trees[0])}, None
    stacked = stack(parts, trees)
    member = np.int32([used.index(place) for place in which])

    def of_rows(params: Mapping, index: Sequence[int]) -> dict:
        rows_B = meshes.put(member[list(index)], meshes.replicated(parts.mesh))
        return {**params, "adapters": per_row.select(params["adapters"], rows_B)}

    return {**params, "adapters": stacked}, of_rows


def read(parts: setup.Parts, weights, given: Mapping[str, pathlib.Path]) -> dict[str, dict]:
    """Read adapters onto the weights of a base, by name.

    Raises:
      ValueError: one cannot be read, or is of another base.
    """
    return {name: _read(parts, weights, name, where) for name, where in given.items()}


def stack(parts: setup.Parts, trees: Sequence[Mapping]) -> dict:
    """Lay adapters side by side on the mesh, {} the base; see `adapters.multi.per_row`.

    Raises:
      ValueError: they do not go together in a batch.
    """
    return _put(parts, per_row.stack(trees, linears=parts.model.linears))


def place(parts: setup.Parts, found: dict) -> dict | None:
    """Put one adapter onto the mesh; one without arrays is None."""
    return _put(parts, found) or None


def _read(parts: setup.Parts, weights, name: str, directory: pathlib.Path) -> dict:
    own = dict(linears=parts.model.linears, names=parts.family.NAMES)
    try:
        # Starts such as PiSSA come as a difference to the base's weights, which are read for them.
        found = peft.load(directory, weights=weights, **own)
    except ValueError as error:
        raise ValueError(
            f"--adapter: got {name}={directory}; expected an adapter of {parts.source}: {error}"
        ) from None
    return jax.tree.map(_still, found, is_leaf=protocol.is_adapter)


def _still(adapter: protocol.Adapter) -> protocol.Adapter:
    """Drop the dropout, in which adapters of one method may differ; nothing trains here."""
    fields = {field.name for field in dataclasses.fields(adapter)}
    return dataclasses.replace(adapter, dropout=0.0) if "dropout" in fields else adapter


def _put(parts: setup.Parts, found: dict) -> dict:
    letters = protocol.axes(found, parts.model.linears)
    return jax.device_put(found, meshes.shardings(letters, found, parts.mesh))
