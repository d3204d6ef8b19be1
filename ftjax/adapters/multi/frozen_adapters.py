"""Adapters on top of past ones, as O-LoRA learns tasks one after the other (arXiv:2310.14152).

    w' = w + sum over past tasks of s_i a_i b_i  (frozen)  +  s a b

A stack is an `OffsetLoRA` whose frozen term holds the factors of all past tasks side by side. It
goes out as one LoRA of all ranks, so that the next task names that one as its past. That the new
subspace is orthogonal to the past ones is the penalty `penalties.olora`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from ftjax.adapters.lib import protocol
from ftjax.adapters.lora import LoRA, OffsetLoRA
from ftjax.core import einsum


def over(
    adapters: Mapping[str, Any], past: Sequence[Mapping[str, Any]], *, linears: Mapping[str, Any]
) -> dict:
    """Put a tree of fresh LoRA adapters on top of past trees, which stay as they are.

    Raises:
      ValueError: an adapter is not a LoRA, or a past one is where there is no fresh one.
    """
    fresh, found = protocol.sites(adapters), [protocol.sites(tree) for tree in past]
    _check(fresh, found)
    result: dict = {}
    for path, adapter in fresh.items():
        under = [sites[path] for sites in found if path in sites]
        stack = linears[path].stack is not None
        own = _join(linears[path].equation, adapter, under, lead=int(stack)) if under else adapter
        protocol.insert(result, path, own)
    return result


def _join(equation: str, new: LoRA, past: Sequence[LoRA], *, lead: int) -> OffsetLoRA:
    """Lay past factors side by side; each scale goes into its b, in units of the new one's."""
    e = einsum.lora(equation)
    a0 = jnp.concatenate([x.a for x in past], lead + e.a.index("R"))
    in_units = lambda x: x.b * (x.scale / new.scale).reshape(*x.scale.shape, *(1,) * len(e.b))
    b0 = jnp.concatenate([in_units(x) for x in past], lead + e.b.index("R"))
    return OffsetLoRA(new.a, new.b, a0, b0, new.scale, new.dropout)


def _check(fresh: Mapping[str, Any], past: Sequence[Mapping[str, Any]]) -> None:
    for sites in (fresh, *past):
        others = sorted(path for path, x in sites.items() if not isinstance(x, LoRA))
        if others:
            kind = type(sites[others[0]]).__name__
            raise ValueError(
                f"adapter.past: got a {kind} at {others[0]}; expected LoRA, which adds up"
            )
    lost = sorted({path for sites in past for path in sites} - fresh.keys())
    if lost:
        raise ValueError(
            f"adapter.past: got adapters at {', '.join(lost)}, where the new one is not; expected "
            "none; add these paths to adapter.where"
        )
