import dataclasses
import math

import numpy as np
import pytest

from ftjax.evals import choice

ROWS = [
    dict(prompt="xyz", choices=["c", "dd", "eeeee"], answer=1),
    dict(question="quite long", choices=["yes", "no"], answer="no"),
    dict(prompt="", choices=["p", "qr"], answer=0),
]


def log_likelihood(log_probs, params, prompt, ids):
    logp, whole = log_probs(params, prompt + ids), prompt + ids
    return sum(logp[t - 1, whole[t]] for t in range(len(prompt), len(whole)))


@pytest.mark.parametrize("normalization", choice.NORMALIZATIONS)
def test_choices_are_scored_after_the_prompt(
    normalization, model, adapted, tokens, log_probs
):  # fmt: skip
    evaluate = choice.make(
        model=model, tokenizer=tokens, rows=ROWS, normalization=normalization, batch_size=4
    )
    arrays = evaluate.examples(adapted)
    for i, row in enumerate(ROWS):
        prompt = tokens.encode(row.get("prompt", row.get("question")))
        ids = [tokens.encode(each)[1:] for each in row["choices"]]
        scores = [log_likelihood(log_probs, adapted, prompt, each) for each in ids]
        answer = [1, 1, 0][i]
        assert arrays["nll"][i] == pytest.approx(-scores[answer], rel=1e-4)
        sizes = dict(
            none=[1] * len(ids), tokens=map(len, ids), bytes=map(len, row["choices"])
        )[normalization]  # fmt: skip
        scores = [score / size for score, size in zip(scores, sizes, strict=True)]
        others = [score for j, score in enumerate(scores) if j != answer]
        assert arrays["margin"][i] == pytest.approx(scores[answer] - max(others), rel=1e-3)
        assert arrays["correct"][i] == (scores[answer] > max(others))
    found = evaluate(adapted)
    assert found["chance"] == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)
    assert found["accuracy"] == arrays["correct"].mean()
    assert found["margin"] == arrays["margin"].mean()


def test_batching_does_not_matter(model, params, tokens):
    make = lambda size: choice.make(model=model, tokenizer=tokens, rows=ROWS, batch_size=size)
    assert make(1)(params) == pytest.approx(make(7)(params), rel=1e-5)


def test_decisions_by_hand():
    logps = [np.array([-1.0, -3.0]), np.array([-4.0, -2.0, -9.0]), np.array([-2.0, -2.0])]
    ones = [np.ones(2), np.ones(3), np.ones(2)]
    found = choice.decide(logps, ones, [0, 0, 1])
    np.testing.assert_allclose(found["correct"], [1, 0, 0.5])
    np.testing.assert_allclose(found["margin"], [2, -2, 0])
    np.testing.assert_allclose(found["nll"], [1, 4, 2])
    np.testing.assert_allclose(found["chance"], [1 / 2, 1 / 3, 1 / 2])


def test_normalising_can_change_the_decision():
    logps = [np.array([-2.0, -3.0])]
    assert choice.decide(logps, [np.array([1.0, 1.0])], [1])["correct"][0] == 0
    normalised = choice.decide(logps, [np.array([1.0, 3.0])], [1])
    assert normalised["correct"][0] == 1
    assert normalised["margin"][0] == pytest.approx(1.0)
    assert normalised["nll"][0] == 3.0


def test_bytes_are_utf8(model, params, tokens):
    rows = [dict(prompt="x", choices=["é", "e"], answer=0)]
    make = lambda kind: choice.make(model=model, tokenizer=tokens, rows=rows, normalization=kind)
    plain, by_bytes = (make(kind).examples(params) for kind in ("none", "bytes"))
    e = plain["nll"][0] + plain["margin"][0]  # -log p(e)
    assert by_bytes["margin"][0] == pytest.approx(-plain["nll"][0] / 2 + e, rel=1e-4)


@pytest.mark.parametrize(("begins", "ends"), [(True, False), (False, False), (True, True)])
def test_prompt_and_choice_are_one_text(begins, ends, tokens):
    tokens = dataclasses.replace(tokens, begins=begins, ends=ends)
    letter = lambda c: 4 + ord(c) % 32
    ids, weights = choice.encode("xy", "cd", tokens)
    assert ids.tolist() == [1, *map(letter, "xycd")]
    assert weights.tolist() == [0, 0, 0, 1, 1]
    # "a" + "b" is one token: it spans the border, and is a target.
    ids, weights = choice.encode("xa", "bd", tokens)
    assert ids.tolist() == [1, letter("x"), 40, letter("d")]
    assert weights.tolist() == [0, 0, 1, 1]
    ids, weights = choice.encode("", "c", tokens)
    assert (ids.tolist(), weights.tolist()) == ([1, letter("c")], [0, 1])


def test_a_template_makes_the_prompt(model, params, tokens):
    rows = [dict(question="xy", choices=["c", "d"], answer=0)]
    plain = [dict(prompt="Q:xy A:", choices=["c", "d"], answer=0)]
    make = lambda rows, **kw: choice.make(model=model, tokenizer=tokens, rows=rows, **kw)(params)
    assert make(rows, template="Q:{question} A:") == make(plain)
    assert make(rows, template="Q:{prompt} A:") == make(plain)
    assert make(rows) != make(plain)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (dict(choices=["a", "b"], answer=2), "row 0: answer: got 2.*index from 0 to 1"),
        (dict(choices=["a", "b"], answer=-1), "got -1"),
        (dict(choices=["a", "b"], answer="c"), "got 'c'"),
        (dict(choices=["a"], answer=0), "row 0: choices.*two at least"),
        (dict(response="a"), "row 0: choices: got none, but response, prompt"),
        (dict(choices=["a", "b"]), "row 0: answer: got none"),
    ],
)
def test_bad_rows_are_errors(row, message, model, tokens):
    with pytest.raises(ValueError, match=message):
        choice.make(model=model, tokenizer=tokens, rows=[row | dict(prompt="x")])


def test_an_unknown_normalisation_is_an_error(model, tokens):
    with pytest.raises(ValueError, match="expected one of none, tokens, bytes"):
        choice.make(model=model, tokenizer=tokens, rows=ROWS, normalization="token")


def test_summary_is_the_mean():
    arrays = dict(correct=[1, 0.5], margin=[1, -2], nll=[3, 5], chance=[0.5, 0.25])
    found = choice.summary({name: np.array(column) for name, column in arrays.items()})
    assert found == dict(accuracy=0.75, margin=-0.5, nll=4.0, chance=0.375)
    assert all(math.isfinite(value) for value in found.values())
