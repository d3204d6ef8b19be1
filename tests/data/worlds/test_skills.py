import math
import re

import pytest

from ftjax.data.worlds import patterns, skills

# One worked example of every skill, by hand.
EXAMPLES = {
    "copy": ("k a t", "k a t"),
    "reverse": ("k a t", "t a k"),
    "upper": ("k a t", "K A T"),
    "sort": ("k a t b", "a b k t"),
    "first letter": ("k a t", "k"),
    "last letter": ("k a t", "t"),
    "count": ("k a t z", "4"),
    "shift": ("k a z", "l b a"),
    "repeat": ("k a t", "k a t k a t"),
    "copy words": ("bamo telu", "bamo telu"),
    "first word": ("bamo telu", "bamo"),
    "last word": ("bamo telu", "telu"),
    "add": ("47 + 5", "52"),
    "largest": ("3 9 1", "9"),
    "recall": ("k 4, m 9, t 2; m", "9"),
    "swap ends": ("k a t o", "o a t k"),
    "double": ("k a", "k k a a"),
    "vowels": ("k a t o", "a o"),
    "drop first": ("k a t", "a t"),
    "shift back": ("l b a", "k a z"),
    "second word": ("bamo telu rito", "telu"),
    "subtract": ("47 - 9", "38"),
    "smallest": ("3 9 1", "1"),
    "shuffle": ("k a t", "a t k"),
}


def test_every_skill_agrees_with_an_example_by_hand():
    groups = [set(group) for group in (skills.BASE, skills.HELD_OUT, skills.MANY)]
    assert set(EXAMPLES) == set().union(*groups)
    assert len(EXAMPLES) == sum(map(len, groups))
    for skill, (text, answer) in EXAMPLES.items():
        assert skills.solve(skill, text) == answer


@pytest.mark.parametrize("group", ["base", "held_out"])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_examples_and_answers_are_exact_and_of_their_split(group, split):
    rows = skills.make(split=split, skills=group, shots=(0, 4), rows=200)
    for row in rows:
        pairs = re.findall(r"In: (.*)\nOut:(.*)", row["prompt"] + row["response"])
        assert len(pairs) == len({text for text, _ in pairs})
        for text, answer in pairs:
            assert answer.strip() == skills.solve(row["skill"], text)
            assert skills.split_of(row["skill"], text) == split
        assert pairs[-1] == (row["input"], row["response"])
        assert row["prompt"].startswith("Do:") == (len(pairs) == 1)
    assert {row["skill"] for row in rows} == set(skills.chosen(group))


def test_a_skill_with_many_right_answers_lists_all_and_shows_the_first():
    assert skills.answers("shuffle", "k a t") == ["a t k", "a k t", "k t a", "t a k", "t k a"]
    for row in skills.make(skills="shuffle", rows=50, length=(2, 9)):
        letters = row["input"].split()
        assert len(set(letters)) == len(letters) <= 5
        assert len(set(row["answers"])) == math.factorial(len(letters)) - 1
        assert row["input"] not in row["answers"]
        assert row["answers"][0] == row["answer"]
    assert "answers" not in skills.make(skills="reverse", rows=1)[0]


def test_skills_can_be_picked_by_name():
    assert {row["skill"] for row in skills.make(skills=["sort", "add"], rows=30)} == {"sort", "add"}
    with pytest.raises(ValueError, match="did you mean 'reverse'"):
        skills.make(skills="revers")
    with pytest.raises(ValueError, match="length=1"):
        skills.make(length=1)


def test_cycles_repeat_and_recalls_only_reorder():
    for row in patterns.make(kind="cycle", rows=50):
        words, items = row["text"].removeprefix("List: ").split(), row["items"]
        assert words == items * (len(words) // len(items))
        assert len(words) >= 2 * len(items)
    for row in patterns.make(kind="recall", rows=50):
        lists = [part.split(", ") for part in row["text"].removeprefix("List: ")[:-1].split(". ")]
        assert lists[0] == row["items"]
        assert all(sorted(part) == sorted(row["items"]) for part in lists)
        assert len({pair.split()[0] for pair in row["items"]}) == len(row["items"])
