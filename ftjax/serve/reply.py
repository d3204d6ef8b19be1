"""One answer on its way to a client: whole, or as server-sent events while it is generated.

A client that hangs up ends its jobs, so that their slots are free after the turn; so does an answer
whose stop string has come.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from ftjax.serve.answer_text import AnswerText, Delta
from ftjax.serve.engine import Job
from ftjax.serve.fields import Refusal


class Reply:
    """An ASGI response over jobs that are in the queue; see the module.

    texts: of the jobs, one after another. inbox: (index of the job, piece) as they come. on_gone:
    called when the client has hung up.
    """

    def __init__(
        self, shape: Any, jobs: Sequence[Job], texts: Sequence[AnswerText], inbox: asyncio.Queue,
        *, is_stream: bool, includes_usage: bool, on_gone: Callable[[], None],
    ):  # fmt: skip
        self._shape, self._jobs, self._texts, self._inbox = shape, jobs, texts, inbox
        self._is_stream, self._includes_usage = is_stream, includes_usage
        self._on_gone, self._is_gone, self._is_complete = on_gone, False, False

    async def __call__(self, scope, receive, send) -> None:
        """Answer."""
        watcher = asyncio.ensure_future(self._watch(receive))
        try:
            await (self._stream(send) if self._is_stream else self._whole(send))
        finally:
            watcher.cancel()
            self._cancel()

    async def _watch(self, receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if self._is_complete:  # then the server says so too
            return
        self._is_gone = True
        self._on_gone()
        self._cancel()

    def _cancel(self) -> None:
        for job in self._jobs:
            job.cancel()

    async def _deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """Yield what comes, until all jobs have ended.

        Raises:
          Refusal: one has ended without its answer.
        """
        going = len(self._jobs)
        while going:
            index, piece = await self._inbox.get()
            text = self._texts[index]
            if text.has_ended:  # by a stop string, of which the engine does not know
                yield index, text.add(piece)  # nothing
                continue
            delta = text.add(piece)
            if delta.finish not in ("", "stop", "length"):
                raise Refusal(_failure(delta.finish), status=500, kind="server_error")
            if text.has_ended:
                self._jobs[index].cancel()
                going -= 1
            yield index, delta

    def _usage(self) -> dict:
        prompts = {id(job.prompt): len(job.prompt) for job in self._jobs}  # n answers share one
        read, new = sum(prompts.values()), sum(text.count for text in self._texts)
        return dict(prompt_tokens=read, completion_tokens=new, total_tokens=read + new)

    async def _whole(self, send) -> None:
        deltas = [Delta("", [], [], [], "") for _ in self._jobs]
        status = 200
        try:
            async for index, delta in self._deltas():
                deltas[index] = _joined(deltas[index], delta)
            body = self._shape.response(deltas, self._usage())
        except Refusal as refusal:
            status, body = refusal.status, refusal.body
        if self._is_gone:
            return
        self._is_complete = True
        content = json.dumps(body, ensure_ascii=False).encode()
        headers = [(b"content-type", b"application/json"),
                   (b"content-length", str(len(content)).encode())]  # fmt: skip
        await send(dict(type="http.response.start", status=status, headers=headers))
        await send(dict(type="http.response.body", body=content))

    async def _stream(self, send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"),
                   (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]  # fmt: skip
        await send(dict(type="http.response.start", status=200, headers=headers))
        content = b""
        try:
            # What a turn has made of all choices, and what ends it, goes out at once: to write to a
            # socket, and to wake who reads it, costs more than to make an event.
            async for event in self._events():
                content += b"" if event is None else _event(event)
                if content and self._inbox.empty() and not self._has_ended():
                    await send(dict(type="http.response.body", body=content, more_body=True))
                    content = b""
        except Refusal as refusal:
            content += _event(refusal.body)
        self._is_complete = True
        await send(dict(type="http.response.body", body=content + b"data: [DONE]\n\n"))

    def _has_ended(self) -> bool:
        return all(text.has_ended for text in self._texts)

    async def _events(self) -> AsyncIterator[dict | None]:
        """Yield the events of what comes; None where it makes none."""
        more = dict(usage=None) if self._includes_usage else {}
        for index in range(len(self._jobs)):
            if (opening := self._shape.opening(index)) is not None:
                yield opening | more
        offsets = [0] * len(self._jobs)
        async for index, delta in self._deltas():
            has_logprobs = self._shape.logprobs is not None and delta.tokens
            is_shown = delta.text or delta.finish or has_logprobs
            yield self._shape.chunk(index, delta, offsets[index]) | more if is_shown else None
            offsets[index] += self._shape.width(delta)
        if self._includes_usage:
            yield self._shape.usage(self._usage())


def _event(body: dict) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


def _joined(one: Delta, other: Delta) -> Delta:
    return Delta(*(a + b for a, b in zip(one, other, strict=True)))


def _failure(end: str) -> str:
    if end == "cancelled":
        return "the server is going away; ask again"
    return end
