"""Retrieval in front of an endpoint: passages go into a prompt, and the answer cites them.

    source = open_source("docs", tokens=128, k=4, count=count)
    ids, citations = source.put("Who wrote Emma?", encode, room=400)
    citations[0] -> {"id": "emma#3", "document": "emma", "start": 120, "end": 310}

The best passages that there is room for stand before the question. Characters [start, end) are
those of the document. Needs `pip install 'ftjax[rag]'`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from ftjax.data.sources import documents
from ftjax.retrieval import chunks, index, passages

TEMPLATE = "Text: {passages}\n{prompt}"
SEPARATOR = " "  # between passages


class Source(NamedTuple):
    """Passages, their index, and how they go into a prompt; k: of one prompt at most."""

    passages: list[passages.Passage]
    index: index.Index
    k: int
    template: str = TEMPLATE

    def put(
        self, question: str, encode: Callable[[str], list[int]], *, room: int
    ) -> tuple[list[int], list[dict[str, Any]]]:
        """Return the tokens of a prompt with passages, and where these are from, the best first.

        encode: text of a prompt -> tokens. room: tokens of a prompt; the worst passages are left
        out where they do not fit.
        """
        [places] = self.index.search([question], k=self.k).places
        found = [self.passages[place] for place in places if place >= 0]
        while found:
            text = SEPARATOR.join(each.text for each in found)
            ids = encode(self.template.replace("{passages}", text).replace("{prompt}", question))
            if len(ids) <= room:
                return ids, [_span(each) for each in found]
            found.pop()
        return encode(question), []


def _span(own: passages.Passage) -> dict[str, Any]:
    return dict(id=own.id, document=own.document, start=own.start, end=own.end)


def open_source(
    path: str, *, tokens: int, k: int, count: Callable[[str], int], template: str = TEMPLATE
) -> Source:
    """Read documents, cut them into passages of at most `tokens`, and index these by BM25.

    path: a folder of texts, Markdown and web pages, or JSONL of `id` and `text`.

    Raises:
      ValueError: nothing to read, rows that cannot be read, a template without its places, or a
        package that is missing.
    """
    if "{passages}" not in template or "{prompt}" not in template:
        raise ValueError(
            f"--passages_template: got {template!r}; expected {{passages}} and {{prompt}} in it"
        )
    rows = documents.read(path, where="--passages")
    if rows.bad:
        raise ValueError(rows.bad[0].message)
    whole = passages.of_rows(rows, where="--passages", place=rows.where)
    found = chunks.cut(whole, count=count, budget=tokens).passages
    made = index.build(dict(name="bm25"), found, where="--passages")
    return Source(found, made, k, template)
