"""Methods of a study beside one another: differences, each beside the noise floor of the seeds.

    compared(methods)          # what each forgot at the match, less what the first one did
    padded(study, methods)     # what each that replays forgot, less its control without old rows

`methods` are those of a report. A difference below the floor is written as "not resolved".
"""

import math
from collections.abc import Mapping, Sequence

from ftjax.evals.lib import noise
from ftjax.studies.study import Study


def compared(methods: Mapping[str, Mapping]) -> dict[str, str]:
    """Compare every method with the first at the match, beside the larger of their noise floors."""
    (name, first), *others = methods.items()
    return {name: "compared with"} | {name: _at_match(own, first) for name, own in others}


def padded(study: Study, methods: Mapping[str, Mapping]) -> dict[str, dict[str, str]]:
    """Compare every method that has a padding control with it: at the match, and at the end.

    The end is after the last stage at the method's best rate, at which both took as many steps.
    """
    found = {}
    for control, name in study.padded.items():
        if name in methods:
            own, other = methods[name], methods[control]
            end = _at_end(own, other, rate=own["matched"]["rate"], seeds=len(study.seeds))
            found[name] = {"control": control, "match": _at_match(own, other), "end": end}
    return found


def _at_match(own: Mapping, other: Mapping) -> str:
    own, other = own["matched"], other["matched"]
    if other["rate"] is None or own["rate"] is None:
        return "n/a"
    floors = [each["floor"] and each["floor"]["value"] for each in (own, other)]
    n = own["floor"]["n"] if own["floor"] else 1
    return _verdict(own["value"] - other["value"], floors, seeds=n)


def _at_end(own: Mapping, other: Mapping, *, rate: float | None, seeds: int) -> str:
    ends = [each["rates"][f"{rate:g}"]["end"] for each in (own, other)] if rate else [None]
    if not all(ends):
        return "n/a"
    one, two = (end["forgetting"]["value"] for end in ends)
    return _verdict(one - two, [end["forgetting_floor"] for end in ends], seeds=seeds)


def _verdict(difference: float, floors: Sequence[float | None], *, seeds: int) -> str:
    """Write a difference beside the larger of two noise floors, which are over so many seeds."""
    if None in floors:
        return f"{difference:+.3f} (one seed: no noise floor)"
    return noise.verdict(difference, noise.Floor(max(floors), math.nan, seeds))
