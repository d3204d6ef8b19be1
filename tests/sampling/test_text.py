import dataclasses

import jax
import numpy as np
import pytest

from ftjax.core import mesh as meshes
from ftjax.sampling import generation, text

PROMPTS = ["abc", "z", "hello", "qq", "wxyzwxyz"]


@pytest.fixture(scope="module")
def respond(model, tokens):
    return text.make(model, tokens, max_new_tokens=8, batch_size=2, temperature=1.0)


def test_texts_come_in_order_and_without_dummies(model, params, tokens):
    found = text.make(model, tokens, max_new_tokens=8, batch_size=2)(params, PROMPTS)
    generate = generation.make(model, max_new_tokens=8, stop_ids=(2,))
    assert len(found) == 5
    for prompt, new in zip(PROMPTS, found, strict=True):
        ids = np.int32([tokens.encode(prompt)])
        output = generate(params, ids, np.int32([len(prompt)]), jax.random.key(0))
        whole = output.tokens[0, : output.lengths[0]].tolist()
        assert new == tokens.decode(text.without_stop(whole, (2,)))


def test_a_prompts_text_depends_on_its_place_in_the_list_alone(params, respond):
    key = jax.random.key(1)
    whole = respond(params, PROMPTS, key)
    assert respond(params, PROMPTS[:3], key) == whole[:3]
    assert respond(params, PROMPTS, jax.random.key(2)) != whole


def test_a_stop_token_is_left_out(model, params, tokens):
    free = text.make(model, tokens, max_new_tokens=8, batch_size=2)(params, ["abc"])[0]
    ids = text_ids(model, params, tokens)
    stop = ids[3]
    short = text.make(model, tokens, max_new_tokens=8, batch_size=2, stop_ids=(stop,))
    assert short(params, ["abc"])[0] == tokens.decode(ids[: ids.index(stop)])
    assert free.startswith(tokens.decode(ids[:3]))


def text_ids(model, params, tokens):
    stream = generation.make_stream(model, max_new_tokens=8)
    return list(stream(params, tokens.encode("abc"), jax.random.key(0)))


def test_an_encoder_of_ones_own(model, params, tokens):
    chat = lambda messages: [1, *tokens.encode(messages[-1]["content"])]
    respond = text.make(model, tokens, max_new_tokens=8, batch_size=2, encode=chat)
    plain = text.make(model, tokens, max_new_tokens=8, batch_size=2, encode=lambda s: [1, 10])
    assert respond(params, [[dict(role="user", content="a")]]) == plain(params, ["whatever"])


def test_over_a_mesh(model, params, tokens):
    mesh = meshes.make(data=8)
    with pytest.raises(ValueError, match="batch_size: got 2; expected a multiple"):
        text.make(model, tokens, max_new_tokens=8, batch_size=2, mesh=mesh)
    options = dict(max_new_tokens=8, batch_size=8, temperature=1.0)
    spread = text.make(model, tokens, mesh=mesh, **options)
    one = text.make(model, tokens, **options)
    replicated = jax.device_put(params, meshes.replicated(mesh))
    assert spread(replicated, PROMPTS) == one(params, PROMPTS)


def test_the_stream_joins_to_the_text(model, adapted, tokens):
    # Key i of a list is fold_in(key, i), and a stream is a list of one.
    options, key = dict(max_new_tokens=8, temperature=1.0), jax.random.key(9)
    whole = text.make(model, tokens, batch_size=1, **options)(adapted, ["hello"], key)[0]
    pieces = list(text.make_stream(model, tokens, **options)(adapted, "hello", key))
    assert "".join(pieces) == whole
    assert len(pieces) > 1


def test_pieces_hold_back_half_characters():
    whole = "aé😀b"
    data = list(whole.encode())
    decode = lambda ids: bytes(ids).decode(errors="replace")
    assert list(text.pieces(iter(data), decode)) == ["a", "é", "😀", "b"]
    assert list(text.pieces(iter(data[:2]), decode)) == ["a", "\ufffd"]
    assert list(text.pieces(iter([]), decode)) == []


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        ((), "one\ntwo. three"),
        (("\n",), "one"),
        ((".", "two"), "one\n"),
        (("x",), "one\ntwo. three"),
    ],
)
def test_cut(until, expected):
    assert text.cut("one\ntwo. three", until) == expected


def test_prompts_do_not_end_in_eos_and_are_not_empty(tokens):
    assert text.prompt_ids("ab", tokens, encode=lambda s: [1, 10, 11, 2]) == [1, 10, 11]
    assert text.prompt_ids("", tokens) == [1]
    without = dataclasses.replace(tokens, bos_id=None)
    with pytest.raises(ValueError, match="prompt: got no tokens"):
        text.prompt_ids("", without)


def test_stops(tokens):
    assert text.stops(tokens) == (2,)
    assert text.stops(tokens, ["<9>", "<unknown>", "<9>"]) == (2, 9)
    assert text.stops(dataclasses.replace(tokens, eos_id=None)) == ()


@pytest.mark.parametrize(
    ("ids", "until", "wanted"),
    [("abcd", (), (4, "abcd", False)), ("abc.", (), (4, "abc", True)),
     ("abcd", ("c",), (3, "ab", True)), ("abcd.", ("bc",), (3, "a", True)),
     ("abcb", ("b",), (2, "a", True)), ("abcd", ("abcd", "b"), (2, "a", True)),
     ("abcd", "cx", (4, "abcd", False)), ("", ("a",), (0, "", False))],
)  # fmt: skip
def test_an_answer_ends_with_the_token_that_completes_a_stop_string(ids, until, wanted):
    codes = [ord(letter) for letter in ids]
    decode = lambda codes: "".join(map(chr, codes))
    assert text.ended(codes, decode=decode, stop_ids=(ord("."),), until=until) == wanted
