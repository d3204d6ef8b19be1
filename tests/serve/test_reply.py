"""What goes out of an answer while it is made, and when."""

import asyncio
import json

from ftjax.serve import openai_json
from ftjax.serve.answer_text import AnswerText
from ftjax.serve.engine import Job, Piece
from ftjax.serve.reply import Reply


def decode(ids):
    return "".join(map(chr, ids))


def streamed(turns, *, choices, until=()):
    """Stream answers whose pieces come turn by turn: the bodies that were sent, as events."""

    async def run():
        inbox, bodies = asyncio.Queue(), []

        async def send(message):
            if content := message.get("body"):
                bodies.append(content.decode().removesuffix("\n\n").split("\n\n"))

        async def receive():
            await asyncio.Event().wait()

        shape = openai_json.Completion("cmpl-1", model="base", decode=decode, logprobs=None)
        texts = [AnswerText(decode, stop_ids=(), until=until) for _ in range(choices)]
        reply = Reply(
            shape, [Job([1], 9) for _ in texts], texts, inbox, is_stream=True, includes_usage=True,
            on_gone=lambda: None,
        )  # fmt: skip
        answer = asyncio.ensure_future(reply(None, receive, send))
        for turn in turns:
            for index, said, end in turn:
                ids = list(map(ord, said))
                inbox.put_nowait((index, Piece(ids, [0.0] * len(ids), [], end)))
            for _ in range(5):  # all that can be sent is sent before the next turn
                await asyncio.sleep(0)
        await asyncio.wait_for(answer, 5)
        return bodies

    return asyncio.run(run())


def said(events):
    found = [json.loads(each.removeprefix("data: ")) for each in events if "[DONE]" not in each]
    return [(each["index"], each["text"]) for event in found for each in event["choices"]]


def test_what_a_turn_has_made_goes_out_at_once_and_the_end_with_its_counts():
    turns = [
        [(0, "a", None), (1, "x", None)],
        [(0, "b", "stop"), (1, "y", None)],
        [(1, "z", "length")],
    ]
    first, second, third = streamed(turns, choices=2)
    assert said(first) == [(0, "a"), (1, "x")]
    assert said(second) == [(0, "b"), (1, "y")]
    assert said(third) == [(1, "z")]
    assert json.loads(third[1].removeprefix("data: "))["usage"]["completion_tokens"] == 5
    assert third[2:] == ["data: [DONE]"]


def test_a_piece_waits_for_nothing_when_the_others_of_its_turn_show_nothing():
    # The first choice has ended by its stop string; the second may be the beginning of one.
    turns = [[(0, "a.", None)], [(1, "x", None), (0, "more", "cancelled")], [(1, "y", "length")]]
    bodies = streamed(turns, choices=2, until=(".",))
    assert [said(each) for each in bodies] == [[(0, "a")], [(1, "x")], [(1, "y")]]
    turns = [[(0, "a", None), (1, "<", None)], [(0, "b", "stop"), (1, "y", "stop")]]
    bodies = streamed(turns, choices=2, until=("<>",))
    assert [said(each) for each in bodies] == [[(0, "a")], [(0, "b"), (1, "<y")]]
