"""The anchors of a run: terms of its loss on other data, each with a loader of its own.

    c.anchors.old = dict(name="kl_forward", weight=1.0, rows=4, data=dict(name="jsonl", path=...))

Every step sees `rows` rows of each, as batch["anchors"][label], beside the batch of the objective;
`weight` times the mean over their targets is added to the loss, and the metric `anchor/<label>` is
that mean. `data` is a section as `c.data` is, of the run's length unless it says otherwise. Terms
are those of `objectives.losses.anchor`; an anchor of weight 0 is left out.

    c.anchors.old.use = "projection"

An anchor with this use is no term of the loss: its gradient says which steps would raise it, and
`weight` times what points there is taken out of each step (A-GEM, see `ftjax/optim/agem.py`).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ftjax.core import config as conf
from ftjax.core import mesh as meshes
from ftjax.core.typed import Count, NonNegative, Positive
from ftjax.data import kinds
from ftjax.data import loader as loaders
from ftjax.objectives.losses import anchor as terms

# A term is a part of the loss; a projection (A-GEM) is of gradients, and enters no loss.
USES = ("term", "projection")


class Anchor(NamedTuple):
    """One anchor: its term and what that counts, its rows a step, and the section of its data."""

    name: str
    weight: float
    rows: int
    data: Mapping[str, Any]
    temperature: float
    use: str

    @property
    def term(self) -> Callable:
        """Return `(policy, reference, batch, key) -> Mean`."""
        return terms.make(self.name, temperature=self.temperature)


def read(settings) -> dict[str, Anchor]:
    """Read the anchors of a config by label, less those of weight 0.

    Raises:
      ValueError: naming anchors.<label> and its key.
    """
    found = {
        label: conf.call(
            section, spec, where=f"anchors.{label}", extra={"where": f"anchors.{label}"}
        )
        for label, spec in settings.anchors.items()
    }
    # 0 times a term is not no term: it costs its passes, and keeps a NaN.
    return {label: anchor for label, anchor in found.items() if anchor.weight}


def section(
    *, where: str, data: Mapping, rows: Count, weight: NonNegative, name: str,
    temperature: Positive = 1.0, use: str = "term",
) -> Anchor:  # fmt: skip
    """Read one anchor, whose keys these are; `where` is its place in the config."""
    for key, given, legal in (("name", name, terms.TERMS), ("use", use, USES)):
        if given not in legal:
            raise ValueError(
                f"{where}.{key}: got {given!r}; {conf.nearest(given, legal)}expected one of "
                f"{', '.join(legal)}"
            )
    if name == "nll" and temperature != 1:
        raise ValueError(
            f"{where}.temperature: got {temperature} with 'nll'; expected none, since the data have"
            " no distribution to soften; drop it, or take kl_forward"
        )
    # An end of its data would end the run, and which of the two ended would be luck.
    if data.get("epochs") is not None:
        raise ValueError(
            f"{where}.data.epochs: got {data['epochs']}; expected none: an anchor's data go on as "
            "long as the run; drop it"
        )
    loaders.check_types(data, where=f"{where}.data")
    return Anchor(name, weight, rows, data, temperature, use)


def by_use(found: Mapping[str, Anchor]) -> tuple[dict[str, Anchor], ...]:
    """Split anchors by what they are used for, in the order of USES."""
    of = lambda use: {label: anchor for label, anchor in found.items() if anchor.use == use}
    return tuple(of(use) for use in USES)


def compare(settings) -> bool:
    """Return whether an anchor compares the policy with the reference."""
    return any(anchor.name != "nll" for anchor in read(settings).values())


def check(found: Mapping[str, Anchor], parts) -> None:
    """Check that rows divide as the batch does, and that the reference has distributions.

    Raises:
      ValueError: they do not, or it has none.
    """
    for label, anchor in found.items():
        try:
            # An anchor's rows are cut as the batch is: over the same microbatches and devices.
            meshes.check_batch(anchor.rows, parts.settings.accumulate, parts.mesh)
        except ValueError as error:
            raise ValueError(f"anchors.{label}.rows: {error}") from error
        # A cache has a number for each target of the run's own rows, and no whole distributions.
        if anchor.name != "nll" and parts.reference.name == "cached":
            raise ValueError(
                f"anchors.{label}.name: got {anchor.name!r} with reference.name='cached', of which "
                "log-probabilities of the run's own targets alone are kept; expected another "
                "reference, such as 'frozen'; or name='nll'"
            )


def load(found: Mapping[str, Anchor], parts, *, shared=None) -> dict[str, loaders.Loader]:
    """Open and encode the data of every anchor.

    Raises:
      ValueError: anything wrong with them, naming anchors.<label>.data.
    """
    own = {}
    for label, anchor in found.items():
        where, s = f"anchors.{label}.data", parts.settings
        given = dict(
            tokenizer=parts.tokenizer, batch_size=anchor.rows, seed=s.seed.data,
            local_rows=meshes.local_rows(anchor.rows, parts.mesh),
        ) | ({"load": shared.data} if shared else {})  # fmt: skip
        data = {"max_tokens": s.data["max_tokens"], **anchor.data}
        own[label] = loaders.opened(data, where=where, **given)
        if kinds.BATCHES[kind := own[label].data.kind].judged:
            raise ValueError(
                f"{where}.kind: got data of kind {kind!r}; expected "
                f"{kinds.names_of(kinds.TOKENS)}: sequences and not answers to compare; change it"
            )
    return own
