import re

import pytest

from ftjax.data.worlds import names, reading, relations
from tests.data.worlds.test_facts import parse

CONTENTS = re.compile(r"Text: (.*)\nQ: (.*)\nA: ?(.*)", re.DOTALL)


def split_row(row):
    passage, question, answer = CONTENTS.fullmatch(row["prompt"] + row["response"]).groups()
    return re.findall(r"[A-Z0-9][^.]*\.", passage), question, answer


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_answer_follows_from_the_passage_alone(split):
    held = "held_" if split == "test" else ""
    for row in reading.make(split=split, rows=200, subjects=(2, 5), facts=(1, 3)):
        sentences, question, answer = split_row(row)
        told = [one for s in sentences for one in parse(s, f"{held}statements")]
        assert sorted(told) == sorted((key, name, value) for name, key, value in row["facts"])
        by_name, by_value = parse(question, f"{held}questions"), asks_who(question, f"{held}who")
        assert len(by_name) + len(by_value) == 1, question
        if by_name:
            [(key, name, _)] = by_name
            fitting = [v for k, n, v in told if (k, n) == (key, name)]
        else:
            [(key, value)] = by_value
            fitting = [n for k, n, v in told if (k, v) == (key, value)]
        assert fitting == [answer] == [row["answer"]]
        assert (key, answer in row["choices"]) == (row["relation"], True)
        assert len(set(row["choices"])) == len(row["choices"]) == len({n for _, n, _ in told})


def asks_who(question, kind):
    found = []
    for key, relation in relations.PEOPLE.items():
        for wording in relation.__dict__[kind]:
            match = re.fullmatch(re.escape(wording).replace(r"\{v\}", r"(\w+)"), question)
            if match and match[1] in relation.values:
                found.append((key, match[1]))
    return found


def test_the_splits_and_the_known_people_share_no_name():
    for split in ("train", "validation", "test"):
        people = {name for row in reading.make(split=split, rows=100) for name, *_ in row["facts"]}
        assert {names.pool_of(name) for name in people} == {split}
        assert len(people) > 80


def test_people_of_one_passage_differ_in_their_first_letter():
    for row in reading.make(rows=100, subjects=6):
        assert len({name[0] for name, *_ in row["facts"]}) == 6


def test_things_have_one_answer_and_nouns_of_their_own():
    nouns = [set(words) for words in relations.SUBJECTS.values()]
    assert sum(map(len, nouns)) == len(set.union(*nouns))
    for row in reading.make(about="things", split="test", rows=100, facts=(1, 3)):
        right = [f for f in row["facts"] if f[1] == row["relation"] and row["answer"] in f]
        assert len(right) == 1
        assert right[0][0].removeprefix("the ") in relations.SUBJECTS["test"]
        assert row["answer"] in row["choices"]


def test_text_form_is_the_prompt_with_its_response_and_several_answers():
    pair = reading.make(rows=20, questions=3), reading.make(rows=20, questions=3, form="text")
    for prompt, text in zip(*pair, strict=True):
        assert text["text"] == prompt["prompt"] + prompt["response"]
        asked = re.findall(r"Q: (.*)\nA:", prompt["prompt"])
        assert len(asked) == len(set(asked)) == min(3, len(prompt["facts"]))


def test_ranges_out_of_reach_are_refused():
    with pytest.raises(ValueError, match=r"subjects=\(2, 40\).*within 1 to"):
        reading.make(subjects=(2, 40))
    with pytest.raises(ValueError, match="facts=0"):
        reading.make(facts=0)
