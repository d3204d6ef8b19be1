import types

import numpy as np
import pytest

from ftjax.decide import likelihoods, questions

LOGPS = {"oak": -4.0, "a pine": -6.0, "elm": -4.0}  # of the choices, whatever the prompt


def question(right, choices=("oak", "a pine")):
    return questions.Question(
        None, "trees", "Tree:", f" {right}", (right,), (), "squad", "row 0", choices=choices
    )


def example(prompt, answer):
    return answer, np.float32([0, *[1] * len(answer.split())])


def score(params, examples):
    """Log-likelihoods of a model that knows the table."""
    return tuple(
        np.array(column, float)
        for column in zip(
            *((LOGPS[text], weights.sum()) for text, weights in examples), strict=True
        )
    )


MODEL = likelihoods.Likelihoods(example, score)


def choose(*asked, normalization="none"):
    return MODEL.choose(None, ["Tree:"] * len(asked), asked, normalization=normalization)


def test_the_likeliest_choice_is_taken():
    found = choose(question("oak"), question("a pine", ("a pine", "elm", "oak")))
    assert found == [("oak", 3, 1.0), ("elm", 4, 0.0)]


def test_longer_choices_win_where_length_counts():
    # A token of `a pine` costs 3 nats, of `oak` 4; a byte 1 and 4/3.
    for normalization in ("tokens", "bytes"):
        assert choose(question("a pine"), normalization=normalization) == [("a pine", 3, 1.0)]


def test_choices_that_tie_share_the_point():
    assert choose(question("elm", ("oak", "elm")))[0].score == 0.5


def test_nats_a_token_of_the_response():
    asked = [question("oak"), question("a pine")]
    assert MODEL.nats(None, ["Tree:"] * 2, asked) == [4.0, 3.0]


@pytest.mark.parametrize(
    ("is_chat", "prompt", "tokens", "weights"),
    [
        (False, "ab", [0, 97, 98, 32, 99], [0, 0, 0, 1, 1]),
        (False, "ab\n", [0, 97, 98, 10, 99], [0, 0, 0, 0, 1]),
        (True, "ab", [7, 97, 98, 8, 99], [0, 0, 0, 0, 1]),
    ],
)
def test_an_answer_follows_its_prompt_as_in_training(is_chat, prompt, tokens, weights):
    of_text = lambda text, add_special_tokens=True: [0] * add_special_tokens + list(text.encode())
    tokenizer = types.SimpleNamespace(encode=of_text, bos_id=0, eos_id=1)
    encode = (lambda text: [7, *text.encode(), 8]) if is_chat else of_text
    model = types.SimpleNamespace(dtype=np.float32)
    made = likelihoods.make(model, tokenizer, encode=encode, batch_size=1, is_chat=is_chat)
    found = made.example(prompt, "c")
    assert [x.tolist() for x in found] == [tokens, weights]
