"""What a decision refuses before anything is read."""

import pytest

from ftjax.decide import config

TEST = dict(name="jsonl", path="test.jsonl")


def read(**changes):
    c = config.defaults().to_dict() | dict(
        train={"facts": TEST}, test={"facts": TEST}, runs={"lora": {}},
        arms={"zero_shot": dict(name="zero_shot")},
    )  # fmt: skip
    return config.read(c | changes)


def search(*trials):
    return dict(
        arms={"prompt_search": dict(name="prompt_search", trials=trials)}, validation={"a": TEST}
    )


LORA = dict(name="lora")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(arms={"a": dict(name="rag", weights="lora")}), "expected the label of an arm"),
        (dict(arms={"lora": LORA, "a": dict(LORA, weights="lora")}), "lora is trained; drop it"),
        (dict(arms={"a": dict(name="rag", train=("facts",))}), "rag is not trained; drop it"),
        (dict(arms={"lora": dict(LORA, train=("fact",))}), "did you mean 'facts'"),
        (dict(arms={"lora": dict(LORA, rate=1)}), "got the key 'rate'"),
        (search({"template": "no place"}), r"expected \{prompt\} in it"),
        (search({"rewrite": True}), "no trial with an instruction before it"),
        (search({"instruction": "x"}, {"instruction": "y", "rewrite": True}), "beside rewrite"),
        (dict(changed=dict(test={"facts": TEST})), "a need that test has too"),
        (dict(changed=dict(test={"new": TEST}, passages=TEST)), "if and only if there are any"),
        (dict(changed=dict(test={"new": TEST}, train={"new": TEST}), arms={"lora": LORA}),
         "arms.lora is trained on"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        read(**changes)


def test_arms_may_take_weights_and_learn_from_some_sections():
    arms = {"lora": dict(LORA, train=("facts",)), "then": dict(name="rag", weights="lora")}
    found = read(arms=arms, changed=dict(test={"new": TEST}, train={"facts": TEST}))
    assert found.changed.test == {"new": TEST}
    assert found.arms["then"]["weights"] == "lora"
