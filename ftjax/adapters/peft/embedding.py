"""What PEFT does with embedding and head alone: copies in files, one weight that is both."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ftjax.adapters.lib import protocol, token_rows
from ftjax.adapters.peft.format import Module
from ftjax.core import tree

COPIED = ("base_layer.weight", "weight")


def copies(candidates: list[Module]) -> dict[str, tuple[int, ...]]:
    """List the copies of embedding and head that PEFT puts beside adapters of them, by tensor."""
    once = [m for m in candidates if m.layer is None]
    return {m.key(suffix): m.linear.shape for m in once for suffix in COPIED}


def check_copies(
    directory: str | os.PathLike, found: Mapping[str, np.ndarray], *, candidates: list[Module],
    weights: Mapping[str, Any] | None,
) -> None:  # fmt: skip
    """Check that copies of the base's weights in a file are those of this base."""
    once = [m for m in candidates if m.layer is None]
    paths = {m.key(suffix): m.path for m in once for suffix in COPIED}
    for name, copy in found.items():
        if weights is None:
            raise ValueError(
                f"{directory}: got {name}, a copy of the base's weight; expected it to be compared "
                "with the base; give the weights"
            )
        own = np.asarray(tree.paths(weights)[paths[name]])
        if not np.array_equal(copy.astype(own.dtype), own):
            raise ValueError(
                f"{directory}: got {name}, which differs from the base's weight; expected a copy "
                "of it; load the base that the adapter was trained on"
            )


def check_tied(found: Mapping[str, protocol.Adapter], linears: Mapping[str, Any]) -> None:
    """Check that no adapter is on an embedding that is the head too.

    PEFT adds it to the lookup alone; with `ensure_weight_tying` to both, and then merges it into
    other numbers. Rows of an embedding that train are tied by PEFT.

    Raises:
      ValueError: one is.
    """
    tied = not any(m.layers is None and not m.is_lookup for m in linears.values())
    for path in sorted(found.keys() & linears.keys()) if tied else ():
        if linears[path].is_lookup and not isinstance(found[path], token_rows.Tokens):
            raise ValueError(
                f"adapters/{path}: got an adapter on an embedding that is the output head too; "
                "expected none, since PEFT adapts one of the two and other numbers would come out; "
                "merge it into the model instead"
            )
