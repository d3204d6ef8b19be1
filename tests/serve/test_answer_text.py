"""Text in pieces: whatever the turns were, the pieces together are the text of all tokens."""

import numpy as np
import pytest

from ftjax.sampling import text as texts
from ftjax.serve.answer_text import AnswerText
from ftjax.serve.engine import Piece

STOP = 0
WORDS = "one two oneone three two one, tree é€ two"


def decode(ids):
    """Bytes are tokens: characters of several bytes come in halves."""
    return bytes(i for i in ids if i).decode("utf-8", errors="replace")


def pieces(ids, sizes, end):
    at = 0
    for size in sizes:
        own = ids[at : at + size]
        at += size
        yield Piece(own, [-1.0] * len(own), [], end if at >= len(ids) else None)


def read(ids, *, until, end, seed):
    rng = np.random.default_rng(seed)
    text = AnswerText(decode, stop_ids=(STOP,), until=until)
    sizes = rng.integers(1, 5, len(ids))
    return text, [text.add(piece) for piece in pieces(ids, sizes, end)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("until", [(), ("three",), ("tw", "one,"), ("é€ tw",), ("€",), ("zzz",)])
@pytest.mark.parametrize("end", ["stop", "length"])
def test_pieces_are_the_whole(end, until, seed):
    ids = [*WORDS.encode(), *([STOP] if end == "stop" else [])]
    wanted = texts.ended(ids, decode=decode, stop_ids=(STOP,), until=until)
    text, deltas = read(ids, until=until, end=end, seed=seed)
    assert "".join(delta.text for delta in deltas) == wanted.text
    assert not any("\ufffd" in delta.text for delta in deltas)
    tokens = [token for delta in deltas for token in delta.tokens]
    assert tokens == texts.without_stop(ids[: wanted.count], (STOP,))
    assert text.count == wanted.count
    ends = [delta.finish for delta in deltas if delta.finish]
    assert ends == ["stop" if wanted.finished else "length"]


def test_text_comes_as_soon_as_it_is_sure():
    text = AnswerText(decode, stop_ids=(STOP,), until=("two",))
    add = lambda said: text.add(Piece(list(said.encode()), [0.0] * len(said), [], None)).text
    assert [add("one t"), add("w"), add("en"), add("ty t"), add("wo!")] == [
        "one ", "", "twen", "ty ", ""
    ]  # fmt: skip
    assert text.has_ended
    assert text.add(Piece([65], [0.0], [], "length")).text == ""


def test_what_ends_without_an_answer_says_so():
    text = AnswerText(decode, stop_ids=(STOP,), until=())
    assert text.add(Piece([], [], [], "cancelled")).finish == "cancelled"
    assert text.has_ended
