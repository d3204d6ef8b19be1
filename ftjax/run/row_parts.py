"""Which runs may cut their rows over the mesh's axis `sequence`; the others are refused by name."""

from collections.abc import Mapping

from ftjax.core import mesh as meshes
from ftjax.run.anchors import Anchor

KEY = f"mesh.{meshes.SEQUENCE}"


def check(parts, anchored: Mapping[str, Anchor]) -> None:
    """Check that rows divide, that no layer carries a state along them, and that none are sampled.

    Raises:
      ValueError: naming the key, and a length that divides.
    """
    count, s = parts.mesh.shape[meshes.SEQUENCE], parts.settings
    if count == 1:
        return
    if parts.spec.batch.sampled:
        raise ValueError(
            f"{KEY}: got {count} with objective.name={s.objective['name']!r}, whose rows are "
            "sampled token by token and have no parts; expected 1; use fsdp or tensor"
        )
    if names := stateful(parts.model):
        raise ValueError(
            f"{KEY}: got {count} with a model whose layers {', '.join(names)} carry a state from "
            "one token of a row to the next; expected 1: their rows stay on one device"
        )
    meshes.check_rows(s.data["max_tokens"], parts.mesh, where="data.max_tokens")
    for label, anchor in anchored.items():
        own = {"max_tokens": s.data["max_tokens"], **anchor.data}
        meshes.check_rows(
            own["max_tokens"], parts.mesh, where=f"anchors.{label}.data.max_tokens"
        )  # fmt: skip


def stateful(model) -> list[str]:
    """List the stacks of a model whose layers cache a state, and nothing by its place in a row."""
    own = {name: [letters for _, letters in leaves] for name, leaves in model.caches}
    return [name for name in model.stacks
            if own.get(name) and not any("S" in letters for letters in own[name])]  # fmt: skip
