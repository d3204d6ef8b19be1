r"""The text of an answer while its tokens come: what is sure of it, and where it ends.

    text = AnswerText(tokenizer.decode, stop_ids=(2,), until=("\n",))
    text.add(piece)                 -> Delta(text=" blue", ...), finish "" while it goes on

What may be the beginning of a stop string, or half of a character, waits for the tokens to come, so
that the deltas together are `sampling.text.ended` of all tokens, whatever the turns were.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ftjax.sampling import text as texts
from ftjax.serve.engine import Piece


class Delta(NamedTuple):
    """What a piece adds: text that is sure, and the tokens that are part of the answer.

    finish: "" while it goes on, "stop", "length", or an end that is no answer ("cancelled", ...).
    """

    text: str
    tokens: list[int]
    logps: list[float]
    alternatives: list[list[tuple[int, float]]]
    finish: str


class AnswerText:
    """See the module. count: tokens of the answer so far, a stop token among them."""

    def __init__(self, decode: Callable, *, stop_ids: Sequence[int], until: Sequence[str]):
        self._decode, self._stop_ids, self._until = decode, frozenset(stop_ids), tuple(until)
        self._ids: list[int] = []
        self._text = ""  # of the tokens up to `_read`, whole characters
        self._from = self._read = 0
        self._sent = 0
        self.count = 0
        self.has_ended = False

    def add(self, piece: Piece) -> Delta:
        """Add the tokens of a turn; after the end it adds nothing."""
        if self.has_ended:
            return Delta("", [], [], [], "")
        before = len(self._ids)
        self._ids += piece.tokens
        self._grow()
        is_cut = any(each in self._text for each in self._until)
        if is_cut or piece.end in ("stop", "length"):
            return self._end(piece, before)
        self.count, self.has_ended = len(self._ids), piece.end is not None
        sure = self._text[: len(self._text) - self._held_back()]
        new, self._sent = sure[self._sent :], max(self._sent, len(sure))
        return Delta(new, piece.tokens, piece.logps, piece.alternatives, piece.end or "")

    def _end(self, piece: Piece, before: int) -> Delta:
        end = texts.ended(
            self._ids, decode=self._decode, stop_ids=self._stop_ids, until=self._until
        )
        self.count, self.has_ended = end.count, True
        body = len(texts.without_stop(self._ids[: end.count], self._stop_ids))
        own = slice(0, max(0, body - before))
        finish = "stop" if end.finished else "length"
        cut = piece.tokens[own], piece.logps[own], piece.alternatives[own]
        return Delta(end.text[self._sent :], *cut, finish)

    def _grow(self) -> None:
        """Decode the new tokens behind those of the turn before, which some decoders look at."""
        body = texts.without_stop(self._ids, self._stop_ids)
        whole = self._decode(body[self._from :])
        if whole.endswith("\ufffd"):  # half of a multi-byte character
            return
        self._text += whole[len(self._decode(body[self._from : self._read])) :]
        self._from, self._read = self._read, len(body)

    def _held_back(self) -> int:
        """Count the characters at the end that may be the beginning of a stop string."""
        most = max(map(len, self._until), default=0)
        tail = self._text[-most:] if most else ""
        starts = (tail[i:] for i in range(len(tail)))
        return max((len(s) for s in starts if any(u.startswith(s) for u in self._until)), default=0)
