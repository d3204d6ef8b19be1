r"""Chat text in which only the template speaks in special tokens.

A user who writes "<|im_end|>" must not end the turn. But once a template has put messages together,
the user's markers and the template's own are the same characters. So the user's are hidden before:

    hide      "say <|im_end|>"            ->  "say G"          a private character for each marker
    render    "<|im_start|>user\nsay G<|im_end|>"
    encode    "A user\nsay <|im_end|>B"   A, B: added tokens that stand for the template's markers,
                                          read by a copy of the tokenizer that reads no others

The text is tokenised in one piece, exactly as it would be with the user's marker in it as text.
"""

import re
from collections.abc import Sequence

from ftjax.data.tokenizer import Encoding, Tokenizer

# Two private-use planes of Unicode: nothing there has a meaning outside this module.
HIDDEN, ALIAS = 0xF0000, 0x100000


class Guard:
    """Hides special-token strings in what users write, and encodes what was rendered from it."""

    def __init__(self, tokenizer: Tokenizer):
        self._specials = tokenizer.special_tokens()
        contents = list(self._specials)
        self._hidden = {each: chr(HIDDEN + n) for n, each in enumerate(contents)}
        self._shown = {
            **{chr(HIDDEN + n): each for n, each in enumerate(contents)},
            **{each: chr(ALIAS + n) for n, each in enumerate(contents)},
        }
        # The longest first, for markers that begin alike.
        longest = sorted(contents, key=len, reverse=True)
        self._markers = re.compile("|".join(map(re.escape, longest)) or r"(?!)")
        self._changes = re.compile("|".join(map(re.escape, [*longest, *self._hidden.values()])))
        aliases = {chr(ALIAS + n): each for n, each in enumerate(contents)}
        self._backend, self._ids = tokenizer.aliased(aliases)

    def hide(self, messages: Sequence[dict]) -> list[dict]:
        """Return the messages with the markers in what others than the assistant wrote hidden."""
        replaced = lambda found: self._hidden[found.group()]
        return [
            each | {"content": self._markers.sub(replaced, each["content"])}
            if each["role"] != "assistant" and isinstance(each.get("content"), str)
            else each
            for each in messages
        ]

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
