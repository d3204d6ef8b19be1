import numpy as np
import pytest

from ftjax.evals import generate


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat!", "cat"), ("  a  dog,\n an owl ", "dog owl"), ("U.S.A.", "usa"),
        ("anthem theory", "anthem theory"), ("don't", "dont"), ("the", ""), ("?!", ""),
        ("Éclair—au lait", "éclair—au lait"), ("A/B", "ab"), ("", ""),
    ],
)  # fmt: skip
def test_normalisation(text, expected):
    assert generate.squad(text) == expected


@pytest.mark.parametrize(
    ("text", "reference", "exact", "f1"),
    [
        ("The cat.", "cat", 1, 1),
        ("the black cat", "cat", 0, 2 / 3),
        ("cat cat", "cat", 0, 2 / 3),
        ("cat dog", "dog cat", 0, 1),
        ("one two three", "two three four five", 0, 4 / 7),
        ("dog", "cat", 0, 0),
        ("the", "", 1, 1),
        ("", "cat", 0, 0),
        ("cat", "the", 0, 0),
    ],
)
def test_scores(text, reference, exact, f1):
    squad = dict(normalize="squad")
    assert generate.exact_match(text, reference, **squad) == exact
    assert generate.f1(text, reference, **squad) == pytest.approx(f1)
    assert generate.f1(reference, text, **squad) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("text", "reference", "exact", "f1"),
    [("-3", "3", 0, 0), ("3.5", "35", 0, 0), ("o t k", "o t a k", 0, 6 / 7), ("", "a", 0, 0),
     (" 3.5\n", "3.5", 1, 1), ("The cat", "the cat", 0, 0.5)],
)  # fmt: skip
def test_texts_are_compared_as_they_are_unless_asked(text, reference, exact, f1):
    rows = [dict(prompt="p", answer=reference)]
    found = generate.make(respond=lambda params, prompts: [text], rows=rows)(None)
    assert found == dict(exact_match=exact, f1=pytest.approx(f1))


def test_an_unknown_normalization_is_refused():
    rows = [dict(prompt="p", answer="a")]
    with pytest.raises(ValueError, match=r"normalize: got 'sqad'; .*did you mean 'squad'"):
        generate.make(respond=None, rows=rows, normalize="sqad")


def test_the_best_reference_counts():
    found = generate.compare(
        ["big cat", "x"], [["dog", "cat", "big cats"], ["y"]], normalize="squad"
    )
    np.testing.assert_array_equal(found["exact_match"], [0, 0])
    np.testing.assert_allclose(found["f1"], [2 / 3, 0])


def test_the_evaluator_hands_over_prompts_and_averages():
    rows = [
        dict(prompt="p0", response="Cat"),
        dict(question="p1", answers=["dog", "hound"]),
        dict(prompt=[dict(role="user", content="p2")], answer="owl", response="it is an owl"),
        dict(prompt="p3", answers="eel"),
    ]
    seen = []

    def respond(params, prompts):
        seen.append((params, list(prompts)))
        return ["the cat", "hound", "a snowy owl", "ray"]

    evaluate = generate.make(respond=respond, rows=rows, normalize="squad")
    found = evaluate("params")
    assert seen == [("params", ["p0", "p1", rows[2]["prompt"], "p3"])]
    assert found == dict(exact_match=0.5, f1=pytest.approx((1 + 1 + 2 / 3) / 4))
    np.testing.assert_array_equal(evaluate.examples("params")["exact_match"], [1, 1, 0, 0])


def test_a_template_makes_the_prompt():
    asked = []
    respond = lambda params, prompts: asked.extend(prompts) or ["x"]
    rows = [dict(question="why?", context="so", answer="x")]
    found = generate.make(respond=respond, rows=rows, template="{context}: {prompt}")(None)
    assert (asked, found["exact_match"]) == (["so: why?"], 1.0)


@pytest.mark.parametrize("row", [dict(prompt="p"), dict(prompt="p", answers=[])])
def test_a_row_without_a_reference_is_an_error(row):
    with pytest.raises(ValueError, match=r"row 0: got the fields.*answers, answer or response"):
        generate.make(respond=None, rows=[row])
