r"""Chat text in which only the template speaks in special tokens.

A user who writes "<|im_end|>" must not end the turn. But once a template has put messages together,
the user's markers and the template's own are the same characters. So the user's are hidden before:

    hide      "say <|im_end|>"            ->  "say G"          a private character for each marker
    render    "<|im_start|>user\nsay G<|im_end|>"
    encode    "A user\nsay <|im_end|>B"   A, B: added tokens that stand for the template's markers,
                                          read by a copy of the tokenizer that reads no others

The text is tokenised in one piece, exactly as it would be with the user's marker in it as text.
The private characters are ones that nothing to be encoded has: icon fonts use the same planes.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from ftjax.data.tokenizer import Encoding, Tokenizer

# Two private-use planes of Unicode, where a character means what two parties agree on.
PRIVATE = range(0xF0000, 0x10FFFE)
# Room for the private characters of one tokenizer, of both kinds.
BLOCK = 0x1000


def free(*values) -> int:
    """Return the beginning of a block of private characters that no text inside of `values` has."""
    taken = {ord(c) // BLOCK for text in _texts(values) for c in _high(text)}
    found = (
        n for n in range(PRIVATE.start, PRIVATE.stop - BLOCK, BLOCK) if n // BLOCK not in taken
    )
    start = next(found, None)
    if start is None:
        raise ValueError(
            "data.special: got texts with characters of every private block; expected a free one "
            "to keep special tokens apart with; set special=True or clean the texts"
        )
    return start


def _texts(value) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.items()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def _high(text: str) -> list[str]:
    return [] if text.isascii() else PRIVATE_USE.findall(text)


PRIVATE_USE = re.compile(f"[{chr(PRIVATE.start)}-{chr(PRIVATE.stop)}]")


class Guard:
    """Hides special-token strings in what users write, and encodes what was rendered from it.

    start: the first of the private characters to use, see `free`.
    """

    def __init__(self, tokenizer: Tokenizer, start: int = PRIVATE.start):
        contents = list(tokenizer.special_tokens())
        if 2 * len(contents) > BLOCK:
            raise ValueError(
                f"data.special: got a tokenizer of {len(contents)} special tokens; expected at "
                f"most {BLOCK // 2} with special=False; set special=True"
            )
        hidden, alias = start, start + BLOCK // 2
        self._hidden = {each: chr(hidden + n) for n, each in enumerate(contents)}
        self._shown = {
            **{chr(hidden + n): each for n, each in enumerate(contents)},
            **{each: chr(alias + n) for n, each in enumerate(contents)},
        }
        # The longest first, for markers that begin alike.
        longest = sorted(contents, key=len, reverse=True)
        self._markers = re.compile("|".join(map(re.escape, longest)) or r"(?!)")
        self._changes = re.compile("|".join(map(re.escape, [*longest, *self._hidden.values()])))
        aliases = {chr(alias + n): each for n, each in enumerate(contents)}
        self._backend, self._ids = tokenizer.aliased(aliases)

    def hide(self, value):
        """Return messages, or tools, with the markers in them hidden.

        Not those in the content of the assistant: it may learn to write them.
        """
        if isinstance(value, str):
            return self._markers.sub(lambda found: self._hidden[found.group()], value)
        if isinstance(value, Mapping):
            return value if value.get("role") == "assistant" else self._hidden_map(value)
        return [self.hide(each) for each in value] if isinstance(value, list | tuple) else value

    def _hidden_map(self, value: Mapping) -> dict:
        # Roles are for the template to read.
        return {key: each if key == "role" else self.hide(each) for key, each in value.items()}

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Return ids and offsets of rendered texts; the offsets count in the texts given."""
        rewritten = [self._rewrite(text) for text in texts]
        found = self._backend.encode_batch([new for new, *_ in rewritten], add_special_tokens=False)
        return [
            Encoding(
                [self._ids.get(i, i) for i in each.ids],
                [(starts[a], stops[b - 1] if b else 0) for a, b in each.offsets],
            )
            for each, (_, starts, stops) in zip(found, rewritten, strict=True)
        ]

    def _rewrite(self, text: str) -> tuple[str, list[int], list[int]]:
        """Return the text to encode, and for each of its characters where it stands in `text`."""
        pieces, starts, stops, at = [], [], [], 0
        for found in self._changes.finditer(text):
            new = self._shown[found.group()]
            pieces += [text[at : found.start()], new]
            starts += [*range(at, found.start()), *[found.start()] * len(new)]
            stops += [*range(at + 1, found.start() + 1), *[found.end()] * len(new)]
            at = found.end()
        starts += range(at, len(text) + 1)
        stops += range(at + 1, len(text) + 1)
        return "".join([*pieces, text[at:]]), starts, stops
