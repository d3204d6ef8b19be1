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
    assert generate.normalize(text) == expected


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
    assert generate.exact_match(text, reference) == exact
    assert generate.f1(text, reference) == pytest.approx(f1)
    assert generate.f1(reference, text) == pytest.approx(f1)


def test_the_best_reference_counts():
    found = generate.compare(["big cat", "x"], [["dog", "cat", "big cats"], ["y"]])
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

    evaluate = generate.make(respond=respond, rows=rows)
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
