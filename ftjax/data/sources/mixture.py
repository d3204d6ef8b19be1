"""Several sources in one stream, in given shares.

    make(parts=[dict(name="jsonl", path="task.jsonl", weight=0.9),
                dict(name="documents", path="web", kind="text", weight=0.1)])

Weights are shares of EXAMPLES drawn, not of tokens: with the above one example in ten comes from
the web whatever its length. One epoch is one pass over the first part; the others are drawn in
proportion, each through its own shuffled passes, so a small part repeats and a large one goes on
where the last epoch stopped.
"""

import bisect
import inspect
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from ftjax.core import config as conf
from ftjax.data import forms
from ftjax.data import rows as rows_lib
from ftjax.data.rows import Rows


class Part(NamedTuple):
    """One source of a stream: a name for the summary, its checked rows, its share of examples."""

    name: str
    rows: Rows
    share: float


class Mixture(Rows):
    """The rows of all parts, one part after the other; `parts` tells them apart."""

    def __init__(self, parts: Sequence[Part]):
        self.parts = tuple(parts)
        self._ends = list(accumulate(len(part.rows) for part in parts))
        self.bad = [bad for part in parts for bad in part.rows.bad]
        self.weighted = False

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, i: int) -> dict:
        part, n = self._locate(i)
        return part.rows[n]

    def where(self, i: int) -> str:
        """Return the place of row `i` in its own source."""
        part, n = self._locate(i)
        return part.rows.where(n)

    def _locate(self, i: int) -> tuple[Part, int]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        p = bisect.bisect_right(self._ends, i)
        return self.parts[p], i - (self._ends[p - 1] if p else 0)


def make(
    *, parts, kind: str = "prompt", fields: Mapping | None = None, on_bad_row: str = "error",
    form: str = "auto", roles: Mapping | None = None, turns: str = "all",
    on_duplicate: str = "keep",
):  # fmt: skip
    """Open every part by its `name` and check its rows.

    parts: dicts of `name`, `weight` (above 0; only ratios matter), optionally `label` for the
    summary, `kind`, `fields` and `form` (else those given here), and the keywords of that source.
    The other arguments are those of `rows.check`.
    Raises ValueError naming the part.
    """
    if not parts:
        raise ValueError("data.parts: got no part; expected a list of dicts; add one")
    reading = {"on_bad_row": on_bad_row, "roles": roles, "turns": turns}
    reading["on_duplicate"] = on_duplicate
    opened = [
        _part(dict(spec), n, kind=kind, fields=fields, form=form, **reading)
        for n, spec in enumerate(parts)
    ]
    total = sum(part.share for part in opened)
    return Mixture([part._replace(share=part.share / total) for part in opened])


def files(*, parts) -> list[str] | None:
    """Return the files that the parts read; None where one of them does not say."""
    named = [spec for spec in parts if isinstance(spec, Mapping) and "name" in spec]
    if len(named) < len(parts):
        return None
    found = [files_of(spec["name"], spec, where=f"data.parts[{n}]") for n, spec in enumerate(named)]
    return None if None in found else [file for own in found for file in own]


def files_of(name: str, source: Mapping, *, where: str) -> list[str] | None:
    """Return the files that the rows of a source come from; None where it does not say.

    A source says so by a function `files` beside its `make`, with the same keywords.
    """
    listed = conf.attribute(name, "data.sources", "files", where=f"{where}.name")
    if listed is None or not isinstance(source, Mapping):
        return None
    known = inspect.signature(listed)
    taken = {key: value for key, value in source.items() if key in known.parameters}
    needed = {p.name for p in known.parameters.values() if p.default is p.empty}
    return listed(**taken) if needed <= taken.keys() else None  # opening it says what is missing


def _part(spec: dict, n: int, *, kind, fields, form, **reading) -> Part:
    where = f"data.parts[{n}]"
    weight = spec.pop("weight", None)
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not weight > 0:
        raise ValueError(
            f"{where}.weight: got {weight!r}; expected a number above 0: this part's share of the "
            "examples drawn; set it or take the part out"
        )
    label = spec.pop("label", None) or f"{spec.get('name')}:{n}"
    # The shared field map belongs to the shared kind: a part of another kind starts from none.
    fields = spec.pop("fields", None if "kind" in spec else fields)
    form = "auto" if "kind" in spec else form
    if "form" in spec and not forms.of_source(spec.get("name"), where=f"{where}.name"):
        form = spec.pop("form")
    kind = spec.pop("kind", kind)
    source = conf.build(spec, "data.sources", where=where)
    checked = rows_lib.check(source, kind, fields=fields, form=form, **reading)
    return Part(label, checked, float(weight))
