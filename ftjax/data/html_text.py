"""The text of a web page: what a reader sees, a line for each block, and its title.

read("<title>T</title><p>A <b>bold</b> word.</p><script>...</script>")
== Page("T", "A bold word.")
"""

import html.parser
import re
from typing import NamedTuple

HIDDEN = {"script", "style", "template", "noscript", "head", "svg", "iframe", "object"}
BLOCKS = {
    "address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figcaption",
    "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main",
    "nav", "ol", "p", "pre", "section", "table", "td", "th", "tr", "ul",
}  # fmt: skip
# Between these a sentence does not go on: an empty line, which cutting into passages respects.
PARAGRAPHS = BLOCKS - {"br", "li", "dd", "dt", "td", "th", "tr"}


class Page(NamedTuple):
    """Title, "" without one, and text."""

    title: str
    text: str


def read(source: str) -> Page:
    """Read the title and the visible text of a page, however broken its markup is."""
    parser = _Reader()
    parser.feed(source)
    parser.close()
    lines = [" ".join(line.split()) for line in "".join(parser.pieces).split("\n")]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return Page(" ".join("".join(parser.title).split()), text)


class _Reader(html.parser.HTMLParser):
    """Collects text outside hidden elements."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self.title: list[str] = []
        self._hidden: list[str] = []
        self._in_title = False

    def handle_starttag(self, tag, attrs):
        self._in_title = tag == "title" and "svg" not in self._hidden
        if tag in HIDDEN:
            self._hidden.append(tag)
        elif tag == "body":  # a head that nothing closes ends here
            self._hidden.clear()
        self._break(tag)

    def handle_startendtag(self, tag, attrs):
        self._break(tag)

    def handle_endtag(self, tag):
        self._in_title = False
        if tag in self._hidden:
            del self._hidden[self._hidden.index(tag) :]
        self._break(tag)

    def handle_data(self, data):
        if self._in_title:
            self.title.append(data)
        elif not self._hidden:
            # Line ends of the file mean no more than spaces.
            self.pieces.append(re.sub(r"\s+", " ", data))

    def _break(self, tag: str) -> None:
        if tag in BLOCKS and not self._hidden:
            self.pieces.append("\n\n" if tag in PARAGRAPHS else "\n")
