"""What an objective states about itself: one record, `SPEC`, beside its `make`.

    SPEC = Spec(data="preference", reference=True)

Whoever builds a run reads it from here: which data fit, what has to be held in memory, which keys
of a config mean something, and what cannot be cut into microbatches.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from ftjax.data import kinds


@dataclasses.dataclass(frozen=True)
class Spec:
    """The record of one objective.

    Attributes:
      data: the kind of batch that it learns from, a name in `kinds.BATCHES`.
      reference: whether it compares the policy with a reference.
      teacher: whether that is what the policy is to become, and not what it comes from: adapters
        off are then the base, whatever the run starts from.
      heads: names of the scalar heads that it trains.
      couples_rows: whether the loss of a row depends on other rows of its microbatch (or device),
        so that it is another loss when a batch is cut; or a function of the keywords of `make`
        that returns it.
      rival: of data with a rival, the share of the reference in the policy that its answers come
        from.
      ratio: whether it compares the policy with the sampler, so that `make` takes the sampling
        `temperature`, under which both have their log-probabilities.
      hyper: keywords of `make` that may be traced scalars, since nothing in Python asks for their
        value: a sweep over them is one program.
      kl_scale: whether its `make_advantages` has a `kl_weight` that a controller may steer.
    """

    data: str
    reference: bool = False
    teacher: bool = False
    heads: tuple[str, ...] = ()
    couples_rows: bool | Callable[..., bool] = False
    rival: float = 1.0
    ratio: bool = False
    hyper: tuple[str, ...] = ()
    kl_scale: bool = False

    def __post_init__(self):
        if self.data not in kinds.BATCHES:
            raise ValueError(
                f"SPEC.data: got {self.data!r}; expected one of {', '.join(kinds.BATCHES)}"
            )

    @property
    def batch(self) -> kinds.BatchKind:
        """What its batches hold."""
        return kinds.BATCHES[self.data]

    def couples(self, keywords: Mapping[str, Any]) -> bool:
        """Return whether rows are coupled with these keywords of `make`."""
        if isinstance(self.couples_rows, bool):
            return self.couples_rows
        return self.couples_rows(**keywords)


def of(module: ModuleType) -> Spec:
    """Return the record of an objective's module.

    Raises:
      ValueError: it has none.
    """
    try:
        return module.SPEC
    except AttributeError as error:
        raise ValueError(
            f"objective.name: got {module.__name__!r}, which has no SPEC; expected a record of "
            "what it learns from, as `SPEC = Spec(data='tokens')`; see objectives/losses/spec.py"
        ) from error
