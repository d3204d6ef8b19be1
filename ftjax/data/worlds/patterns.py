"""Text that repeats itself: the plainest way to teach a small model to copy from its context.

Two kinds, half of the rows each. A *cycle* says a list of nonsense words two to four times over;
a *recall* gives pairs and then the same pairs in another order, so that each value has to be
looked up by its key:

    cycle:  "List: mako tu red lupi mako tu red lupi mako tu red lupi"
    recall: "List: mako red, lupi 7, tano goat. lupi 7, tano goat, mako red."
"""

import string

from ftjax.data.worlds import generated, names, relations

KINDS = ("cycle", "recall")
VALUES = tuple(
    value for r in relations.PEOPLE.values() for value in r.values if not value.isdigit()
) + tuple(string.digits)
LETTERS = tuple(string.ascii_lowercase)


def make(
    *,
    split: str = "train",
    rows: int | None = None,
    seed: int = 0,
    kind: str | None = None,
    items: tuple[int, int] = (3, 10),
):
    """Make text rows of `items` words or pairs (a closed range), repeated; `kind` picks one kind.

    A row also carries "kind" and "items", the words or pairs in the order of their first mention.
    """
    generated.legal(split, generated.SPLITS, "patterns: split")
    if kind is not None:
        generated.legal(kind, KINDS, "patterns: kind")
    key = ("patterns", split, seed)

    def draw(index):
        rng = generated.generator(*key, index)
        chosen = kind or generated.pick(rng, KINDS)
        return (_cycle if chosen == "cycle" else _recall)(rng, generated.between(rng, items))

    rows = generated.ROWS[split] if rows is None else rows
    return generated.Generated(draw, count=rows, name=f"patterns/{split}")


def _item(rng) -> str:
    kind = rng.random()
    if kind < 0.4:
        return names.word(rng)
    return generated.pick(rng, VALUES if kind < 0.8 else LETTERS)


def _cycle(rng, count):
    items = [_item(rng) for _ in range(count)]
    text = " ".join(["List:", *items * generated.between(rng, (2, 4))])
    return {"text": text, "kind": "cycle", "items": items}


def _recall(rng, count):
    keys = list(dict.fromkeys(_item(rng) for _ in range(count)))
    pairs = [f"{key} {generated.pick(rng, VALUES)}" for key in keys]
    parts = [pairs] + [generated.sample(rng, pairs, len(pairs)) for _ in range(2)]
    text = " ".join(["List:", *(", ".join(part) + "." for part in parts)])
    return {"text": text, "kind": "recall", "items": pairs}
