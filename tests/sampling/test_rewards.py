import numpy as np
import pytest

from ftjax.sampling import rewards

ROW = {"prompt": "2 + 2 =", "answer": "4"}
CASES = {  # name: (keywords, row, {text: reward})
    "exact": ({}, ROW, {" 4": 1, "4\nIn:": 1, "5": 0, "4 4": 0}),
    "overlap": ({}, {"answer": "a b c"}, {"a b c": 1, "a c c": 2 / 3, "a b c d": 3 / 4, "": 0}),
    "number": ({}, {"answer": "#### 1,200"}, {"so 3 + 4 is 1200": 1, "1200.5": 0, "none": 0}),
    "pattern": (dict(regex="<a>.*</a>"), ROW, {"<a>\n</a>": 1, "<a></a>!": 0}),
    "length": (dict(max_length=2, min_length=1), ROW,
               {"a b": 1, "a b c": 0.5, "a b c d": 0, "": 0}),
    "python": (
        dict(defines="f"), ROW,
        {"def f(): return 1": 1, "def g(): return 1": 0.5, "def f(:": 0,
         "```python\ndef f():\n  pass\n```": 1}),
}  # fmt: skip


def one(name, **keywords):
    return rewards.make({"mine": dict(name=name, **keywords)})


@pytest.mark.parametrize("name", rewards.FUNCTIONS)
def test_functions(name):
    keywords, row, wanted = CASES[name]
    found = one(name, **keywords)(list(wanted), [row] * len(wanted))
    np.testing.assert_allclose(found.values_BF[:, 0], list(wanted.values()), rtol=1e-6)


def test_an_exact_answer_may_be_one_of_a_list():
    row = ROW | {"answers": ["four", " 4 "]}
    found = one("exact", field="answers")(["4", "four\nIn:", "4 four", "5"], [row] * 4)
    assert found.values_BF[:, 0].tolist() == [1, 1, 0, 0]
    assert one("exact")(["four"], [row]).values_BF.item() == 0  # the field `answer` alone


def test_code_is_never_run(tmp_path):
    text = f"open({str(tmp_path / 'x')!r}, 'w')\ndef f(): pass"
    assert one("python", defines="f")([text], [ROW]).values_BF[0, 0] == 1
    assert not list(tmp_path.iterdir())


def test_a_mix_keeps_its_parts_apart():
    mix = rewards.make({"a": dict(name="exact", weight=2), "b": dict(name="length", max_length=1)})
    found = mix(["4", "a b c"], [ROW, ROW])
    assert mix.weights == (2.0, 1.0)
    np.testing.assert_array_equal(found.values_BF, [[1, 1], [0, 0]])


def faulty(*, value=None):
    """A reward of one's own."""

    def score(text, row):
        if value is None:
            raise KeyError("gold")
        return value

    return score


@pytest.mark.parametrize(
    ("value", "told"), [(None, r"raised KeyError\('gold'\)"), (float("nan"), "returned nan")]
)
def test_a_fault_names_function_and_prompt_or_is_counted(value, told):
    spec = {"mine": dict(name=f"{__name__}.faulty", value=value), "exact": dict(name="exact")}
    with pytest.raises(ValueError, match=f"rewards.mine: {told} for the answer 'x' to '2 . 2 ='"):
        rewards.make(spec)(["x"], [ROW])
    found = rewards.make(spec, faults="skip")(["x", "4"], [ROW, ROW])
    assert found.skipped == 2
    np.testing.assert_array_equal(found.values_BF, [[np.nan, 0], [np.nan, 1]])


def test_no_function_says_nothing():
    found = rewards.make({})(["a", "b"], [{}, {}])
    assert found.values_BF.shape == (2, 0)
    assert found.skipped == 0


@pytest.mark.parametrize(
    ("specs", "told"),
    [({"a": dict(name="exakt")}, "rewards.a.name: .*did you mean 'exact'"),
     ({"a": dict(name="exact", feld="x")}, "rewards.a.feld: unknown key; did you mean 'field'"),
     ({"a": dict(name="no.such.thing")}, "dotted path of a function")],
)  # fmt: skip
def test_wrong_sections(specs, told):
    with pytest.raises(ValueError, match=told):
        rewards.make(specs)


def test_a_judge_of_whole_batches_has_its_faults_named_too():
    whole = lambda: rewards.BatchReward(
        lambda texts, rows: np.float32([len(t) or np.nan for t in texts])
    )
    make = lambda **options: rewards.make(
        {"j": dict(name="judge")}, known={"judge": whole}, **options
    )
    np.testing.assert_array_equal(make()(["ab", "c"], [ROW] * 2).values_BF, [[2], [1]])
    with pytest.raises(ValueError, match=r"rewards.j: returned nan for the answer '' to '2 . 2 ='"):
        make()(["ab", ""], [ROW] * 2)
    assert make(faults="skip")(["ab", ""], [ROW] * 2).skipped == 1
