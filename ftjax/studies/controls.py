"""Controls: what a study compares its methods with, beside one another.

    none      the base without training: always there
    joint     one run on all tasks together, by the first method
    padding   each method of `sees_old`, with rows of the new task in the place of the old ones

Joint is the most that can be learned. Padding says what of a remedy is owed to the old rows and not
to what comes with them: as many rows and steps, at the same rates (the control by which replay is
judged). Which rows are new, the label "new" of a part of a mixture says.
"""

import inspect
from collections.abc import Mapping, Sequence

from ftjax.data import loader as loaders
from ftjax.data import prepare

CONTROLS = NONE, JOINT, PADDING = ("none", "joint", "padding")
NEW = "new"
# Keys of a data section that are of the whole stream; the others are of a part of a mixture.
OF_STREAM = {
    name
    for function in (loaders.make, prepare.load)
    for name in inspect.signature(function).parameters
} - {"name", "kind", "fields", "form", "source", "examples"}


def joined(plains: Mapping[str, Mapping]) -> dict:
    """Join the configs of tasks to one run on all of them, as long as all stages together.

    Raises:
      ValueError: they differ in more than the data.
    """
    first = next(iter(plains.values()))
    if any(plain["steps"] is None for plain in plains.values()):
        raise ValueError("study.controls: got 'joint' with epochs; expected steps; set steps")
    free = ("data", "steps", "evals")
    for task, plain in plains.items():
        if wrong := [k for k in plain if k not in free and plain[k] != first[k]]:
            raise ValueError(
                f"study.controls: got 'joint', and the config of the task {task!r} differs in "
                f"{', '.join(wrong)} from that of {next(iter(plains))!r}; expected tasks that "
                "differ in their data and steps alone; drop the control"
            )
    data = joint_data({task: plain["data"] for task, plain in plains.items()})
    steps = sum(plain["steps"] for plain in plains.values())
    return dict(first, data=data, steps=steps)


def joint_data(sections: Mapping[str, Mapping]) -> dict:
    """Mix data sections, each with an equal share of the examples.

    Raises:
      ValueError: what is of the whole stream, such as its width, differs.
    """
    wanted = _of_stream(next(iter(sections.values())))
    parts = []
    for task, data in sections.items():
        if _of_stream(data) != wanted:
            raise ValueError(
                f"study.controls: got 'joint', and data of the task {task!r} with "
                f"{_of_stream(data)}; expected {wanted} as of the others; set the same, or drop "
                "the control"
            )
        parts += _parts(data, task)
    return dict(name="mixture", parts=tuple(parts), **wanted)


def padded(plain: Mapping) -> dict:
    """Return a config that reads rows of the new task wherever this one reads old ones.

    These are the parts of a mixture that are not labelled "new", and the data of anchors, penalties
    and the adapter's start. A config that reads none comes back equal.

    Raises:
      ValueError: a mixture without a part that is labelled so.
    """
    parts = _parts(plain["data"], NEW)
    kept = [part for part in parts if part.get("label") == NEW]
    if not kept:
        raise ValueError(
            f"study.controls: got 'padding' and a mixture with the labels "
            f"{', '.join(repr(part.get('label')) for part in parts)}; expected {NEW!r} at the part "
            "of the new task; set label='new' there"
        )
    total = sum(part["weight"] for part in kept)
    kept = [dict(part, weight=part["weight"] / total) for part in kept]
    mixed = lambda own: dict(name="mixture", parts=tuple(kept), **_of_stream(own))
    source = {key: value for key, value in kept[0].items() if key not in ("weight", "label")}
    swap = lambda own: dict(source, **_of_stream(own)) if len(kept) == 1 else mixed(own)
    reread = lambda spec: dict(spec, data=swap(spec["data"])) if spec.get("data") else spec
    every = lambda specs: {label: reread(spec) for label, spec in specs.items()}
    return dict(
        plain,
        data=plain["data"] if len(kept) == len(parts) else mixed(plain["data"]),
        anchors=every(plain["anchors"]), penalties=every(plain["penalties"]),
        adapter=reread(plain["adapter"]),
    )  # fmt: skip


def _of_stream(data: Mapping) -> dict:
    return {key: value for key, value in data.items() if key in OF_STREAM}


def _parts(data: Mapping, label: str) -> Sequence[dict]:
    """Return the parts of a section with shares that sum to 1; one of its own has the label."""
    own = {key: value for key, value in data.items() if key not in OF_STREAM}
    if own["name"] != "mixture":
        return [dict(own, weight=1.0, label=label)]
    shared = {key: own[key] for key in ("kind", "fields", "form") if key in own}
    total = sum(part["weight"] for part in own["parts"])
    return [{**shared, **part, "weight": part["weight"] / total} for part in own["parts"]]
