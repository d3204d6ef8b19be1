"""The JSON of answers, as the OpenAI API has it: whole and in the events of a stream.

make = chat if ... else completion          shape = make(identity, decode)
shape.response(choices, usage)                 choices are (text, tokens, finish) of each
shape.chunk(0, delta)                       one event
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from ftjax.serve.answer_text import Delta

MIN_LOGP = -9999.0  # JSON has no infinity


@dataclasses.dataclass
class Shape:
    """What both endpoints share.

    logprobs: None, or how many alternatives are shown. citations: of each choice the passages in
    its prompt, a field of ours at its end; None where nothing is retrieved.
    """

    identity: str
    model: str
    decode: Callable
    logprobs: int | None
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))
    citations: Sequence[list[dict]] | None = None

    def _frame(self, kind: str, choices: list, **more) -> dict:
        own = dict(id=self.identity, object=kind, created=self.created, model=self.model)
        return own | dict(choices=choices) | more

    def _cites(self, index: int, delta: Delta) -> dict:
        """Return what a choice cites, where it ends."""
        if self.citations is None or not delta.finish:
            return {}
        return dict(citations=self.citations[index])

    def width(self, delta: Delta) -> int:
        """Count the characters of a delta's tokens, where they are shown."""
        return 0 if self.logprobs is None else sum(len(self._token(t)) for t in delta.tokens)

    def _token(self, token: int) -> str:
        return self.decode([token])


class Completion(Shape):
    """Of /v1/completions."""

    def response(self, deltas: Sequence[Delta], usage: dict) -> dict:
        """Return the answer: one delta a choice, with all of it."""
        choices = [self._choice(i, delta, 0) for i, delta in enumerate(deltas)]
        return self._frame("text_completion", choices, usage=usage)

    def opening(self, index: int) -> dict | None:
        """Return what comes before the first token: nothing."""
        return None

    def chunk(self, index: int, delta: Delta, offset: int) -> dict:
        """Return one event; `offset` is where its tokens begin."""
        return self._frame("text_completion", [self._choice(index, delta, offset)])

    def usage(self, usage: dict) -> dict:
        """Return the last event, of the counts."""
        return self._frame("text_completion", [], usage=usage)

    def _choice(self, index: int, delta: Delta, offset: int) -> dict:
        own = dict(index=index, text=delta.text, finish_reason=delta.finish or None)
        return own | dict(logprobs=self._logprobs(delta, offset)) | self._cites(index, delta)

    def _logprobs(self, delta: Delta, offset: int) -> dict | None:
        if self.logprobs is None:
            return None
        tokens = [self._token(token) for token in delta.tokens]
        offsets = [offset + sum(map(len, tokens[:i])) for i in range(len(tokens))]
        best = [{self._token(t): _real(p) for t, p in row} for row in delta.alternatives]
        own = dict(tokens=tokens, token_logprobs=[_real(p) for p in delta.logps])
        return own | dict(top_logprobs=best or None, text_offset=offsets)


class Chat(Shape):
    """Of /v1/chat/completions."""

    def response(self, deltas: Sequence[Delta], usage: dict) -> dict:
        """Return the answer: one delta a choice, with all of it."""
        choices = [
            self._choice(i, delta, message=_says(delta.text) | dict(refusal=None))
            for i, delta in enumerate(deltas)
        ]
        return self._frame("chat.completion", choices, usage=usage)

    def opening(self, index: int) -> dict:
        """Return what comes before the first token: who speaks."""
        choice = dict(index=index, delta=_says(""), logprobs=None, finish_reason=None)
        return self._frame("chat.completion.chunk", [choice])

    def chunk(self, index: int, delta: Delta, offset: int) -> dict:
        """Return one event."""
        own = dict(content=delta.text) if delta.text else {}
        return self._frame("chat.completion.chunk", [self._choice(index, delta, delta=own)])

    def usage(self, usage: dict) -> dict:
        """Return the last event, of the counts."""
        return self._frame("chat.completion.chunk", [], usage=usage)

    def _choice(self, index: int, delta: Delta, /, **said) -> dict:
        shown = None if self.logprobs is None else dict(content=self._logprobs(delta), refusal=None)
        own = dict(index=index, finish_reason=delta.finish or None, logprobs=shown)
        return own | said | self._cites(index, delta)

    def _logprobs(self, delta: Delta) -> list[dict]:
        best = delta.alternatives or [[] for _ in delta.tokens]
        return [
            self._of_token(token, logp) | dict(top_logprobs=[self._of_token(*x) for x in row])
            for token, logp, row in zip(delta.tokens, delta.logps, best, strict=True)
        ]

    def _of_token(self, token: int, logp: float) -> dict[str, Any]:
        text = self._token(token)
        # Part of a character is shown as a replacement, whose bytes would be others.
        own = None if "\ufffd" in text else list(text.encode())
        return dict(token=text, logprob=_real(logp), bytes=own)


def _says(text: str) -> dict:
    return dict(role="assistant", content=text)


def _real(logp: float) -> float:
    return max(logp, MIN_LOGP)
