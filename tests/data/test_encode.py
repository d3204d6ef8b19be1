from collections import Counter

import numpy as np
import pytest

from ftjax.data import chat, encode
from ftjax.data.encode import Example


def example(*weights):
    return Example(np.arange(len(weights), dtype=np.int32), np.array(weights, np.float32))


def prompt(bpe, text, response, weight=1.0, **options):
    row = {"prompt": text, "response": response, "weight": weight}
    return encode.examples([row], bpe, **options)[0]


def test_response_and_eos_are_targets(bpe):
    found = prompt(bpe, "2 + 2 =", " four")
    targets = found.tokens[found.weights > 0]
    assert bpe.decode(targets[:-1]) == " four"
    assert targets[-1] == bpe.eos_id
    assert found.weights.tolist() == sorted(found.weights)


def test_token_across_the_border_is_a_target(bpe):
    """Prompt and response merge into tokens of the whole: none of the response is lost."""
    found = prompt(bpe, "the ques", "tion")
    whole = bpe.encode("the question")
    assert found.tokens[:-1].tolist() == whole
    assert bpe.decode(found.tokens[found.weights > 0][:-1]).endswith("tion")


@pytest.mark.parametrize(
    ("text", "response", "touches"),
    [
        ("Name a bird.", "Wren", 1), ("of two", "3", 1), ("Name a bird.", " Wren", 0),
        ("Name a bird.\n", "Wren", 0), ("", "Wren", 0), ("x = ", "y", 0), ("f(", "x", 0),
        ("word", ", said", 0), ("鳥は?", "雀", 0), ("bird?", "鳥", 0),
    ],
)  # fmt: skip
def test_answers_right_behind_their_prompts_are_counted(text, response, touches, bpe):
    count = Counter()
    prompt(bpe, text, response, count=count)
    assert count[encode.TOUCHES] == touches


def test_eos_is_added_once_and_can_be_left_out(bpe):
    assert prompt(bpe, "a", "b" + bpe.eos_token).tokens.tolist().count(bpe.eos_id) == 1
    assert bpe.eos_id not in prompt(bpe, "a", "b", append_eos=False).tokens


def test_eos_is_a_target_even_when_it_is_the_pad_token(bpe):
    class Same:
        """A tokenizer with pad = eos, as many are used."""

        def __init__(self):
            self.eos_id = self.pad_id = bpe.eos_id
            self.encode_batch = bpe.encode_batch

    found = prompt(Same(), "a", " b")
    assert found.tokens[-1] == bpe.eos_id
    assert found.weights[-1] == 1


def test_literal_special_strings(bpe):
    text = f" {bpe.eos_token} x"
    assert prompt(bpe, "a", text).tokens.tolist().count(bpe.eos_id) == 2
    assert prompt(bpe, "a", text, special=False).tokens.tolist().count(bpe.eos_id) == 1


def test_all_tokens_and_row_weight(bpe):
    found = prompt(bpe, "2 + 2 =", " 4", weight=0.25, loss="all")
    assert set(found.weights) == {0.25}
    assert set(prompt(bpe, "2 + 2 =", " 4", weight=0.25).weights) == {0.0, 0.25}


def test_kinds_mix_and_keep_their_order(bpe):
    rows = [
        {"text": "one", "weight": 1.0},
        {"prompt": "two", "response": " 2", "weight": 1.0},
        {"text": "three", "weight": 1.0},
    ]
    found = [bpe.decode(each.tokens, skip_special_tokens=True) for each in
             encode.examples(rows, bpe)]  # fmt: skip
    assert found == ["one", "two 2", "three"]


def test_missing_eos_is_an_error(bpe):
    class Endless:
        eos_id = None
        encode_batch = bpe.encode_batch

    with pytest.raises(ValueError, match=r"got no eos token.*append_eos=False"):
        prompt(Endless(), "a", "b")


@pytest.mark.parametrize(
    ("overlong", "lengths", "count"),
    [
        ("truncate", [4], {"truncated": 1}),
        ("split", [4, 4, 2], {"split": 1}),
        ("drop", [], {"overlong": 1}),
        ("keep", [10], {}),
    ],
)
def test_overlong(overlong, lengths, count):
    pieces, counted = encode.fit(example(*[1] * 10), 4, overlong=overlong)
    assert [len(piece.tokens) for piece in pieces] == lengths
    assert counted == count
    joined = [t for piece in pieces for t in piece.tokens]
    assert joined == list(range(sum(lengths)))


def test_overlong_error_says_how_long():
    with pytest.raises(ValueError, match=r"got 10 tokens; expected at most max_tokens=4; raise"):
        encode.fit(example(*[1] * 10), 4, overlong="error")


def test_truncation_that_leaves_no_target_is_counted():
    pieces, counted = encode.fit(example(0, 0, 0, 0, 1, 1), 4, overlong="truncate")
    assert pieces == []
    assert counted == {"truncated": 1, "no target left": 1}


def test_a_first_token_alone_is_no_target():
    assert encode.fit(example(1), 4, overlong="truncate") == ([], {"no target left": 1})


def test_nothing_ends_an_unfinished_response(bpe):
    found = prompt(bpe, "2 + 2 =", " four", unfinished=True)
    assert found.tokens.tolist() == bpe.encode("2 + 2 = four")
    template = chat.find("chatml", bpe)
    row = {"prompt": [dict(role="user", content="2 + 2")], "weight": 1.0}
    row["response"] = [dict(role="assistant", content="four")]
    whole, cut = (
        encode.examples([row], bpe, template=template, unfinished=is_cut)[0].tokens.tolist()
        for is_cut in (False, True)
    )
    assert whole[: len(cut)] == cut
    assert bpe.decode(cut, skip_special_tokens=False).endswith("four")
    assert len(whole) > len(cut)
