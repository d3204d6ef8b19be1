"""A page of rendered rows in which what is learned is coloured, to be looked at before a run.

    write(plan, count=50, path="mask.html")

One file without anything from the network; spaces and line ends are as the tokens have them.
"""

import html
import pathlib
from collections.abc import Iterator

import numpy as np

from ftjax.data import answer_groups, stops
from ftjax.run import plan as running

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What is learned</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid #8886; padding: .8rem; }
mark { background: #2a93; color: inherit; box-shadow: inset 0 -2px #2a9; }
figure { margin: 0 0 1.5rem; } figcaption { opacity: .7; }
</style></head><body>
<h1>What is learned</h1>
<p>COUNTED. Learned tokens are <mark>marked</mark>; the rows are in the order of the data.</p>
ROWS
</body></html>
"""


def write(plan: running.Plan, *, count: int, path: pathlib.Path) -> int:
    """Write the first `count` examples of the data to `path`; returns how many there were."""
    found = []
    for tokens, weights in _examples(plan):
        found.append(_figure(plan, len(found) + 1, tokens, weights))
        if len(found) == count:
            break
    data = plan.loader.data
    counted = f"{len(found)} shown of {len(data.store)} examples; {stops.describe(data.turns)}"
    # replace and not format: the style has braces.
    page = PAGE.replace("COUNTED", html.escape(counted)).replace("ROWS", "\n".join(found))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return len(found)


def _examples(plan: running.Plan) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield tokens and weights of one example after the other; the answers of a group in turn."""
    store = plan.loader.data.store
    for i in range(len(store)):
        yield from store[i].answers if isinstance(store[i], answer_groups.Group) else [store[i]]


def _figure(plan: running.Plan, number: int, tokens: np.ndarray, weights: np.ndarray) -> str:
    targets = weights > 0
    edges = np.flatnonzero(np.diff(targets)) + 1
    pieces = []
    for piece in np.split(np.arange(len(tokens)), edges):
        text = html.escape(plan.parts.tokenizer.decode(tokens[piece].tolist()))
        pieces.append(f"<mark>{text}</mark>" if targets[piece[0]] else text)
    told = f"{number}: {len(tokens)} tokens, {int(targets.sum())} learned"
    # 1 is the weight of nearly all tokens, and not worth a word.
    scales = sorted({round(float(each), 4) for each in weights[targets]} - {1.0})
    told += f", weights {', '.join(map(str, scales))}" if scales else ""
    # A browser drops one line end behind <pre>.
    caption = f"<figcaption>{html.escape(told)}</figcaption>"
    return f"<figure>{caption}<pre>\n{''.join(pieces)}</pre></figure>"
