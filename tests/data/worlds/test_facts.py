import collections
import re

import pytest

from ftjax.data.worlds import facts, names, relations


def pattern(wording):
    """Return the regular expression that a wording's sentences match."""
    text = re.escape(wording[0].upper() + wording[1:])
    text = text.replace(r"\{n\}", r"(?P<n>[A-Z][a-z]+)").replace(r"\{v\}", r"(?P<v>\w+)")
    return re.compile(text)


def parse(sentence, kind):
    """Return every (relation, name, value) that some wording of `kind` reads in a sentence."""
    found = []
    for key, relation in relations.PEOPLE.items():
        for wording in relation.__dict__[kind]:
            match = pattern(wording).fullmatch(sentence)
            value = match and match.groupdict().get("v")
            if value and value not in relation.values:
                value = value[0].lower() + value[1:]  # it began the sentence
            if match and (value is None or value in relation.values):
                found.append((key, match["n"], value))
    return found


@pytest.mark.parametrize(
    ("wording", "kind"), [("seen", "statements"), ("held_out", "held_statements")]
)
def test_statements_say_the_truth_and_nothing_else(wording, kind):
    known = facts.table("base")
    for row in facts.make(rows=150, wording=wording):
        sentences = re.findall(r"[A-Z0-9][^.]*\.", row["text"].removeprefix("Fact: "))
        read = [parse(sentence, kind) for sentence in sentences]
        assert all(len(options) == 1 for options in read), row["text"]
        assert {key: value for [(key, _, value)] in read} == row["facts"]
        assert {name for [(_, name, _)] in read} == {row["name"]}
        assert row["facts"].items() <= known[row["name"]].items()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_questions_hold_every_fact_once_with_the_true_answer(split):
    known, rows = facts.table("new", 20), facts.make(split=split, population="new", people=20)
    kind = "questions" if split == "validation" else "held_questions"
    asked = set()
    for row in rows:
        [(key, name, _)] = parse(row["prompt"][len("Q: ") : -len("\nA:")], kind)
        assert row["answer"] == known[name][key] == row["response"].strip()
        assert row["answer"] in row["choices"]
        asked.add((name, key))
    assert len(asked) == len(rows) == 20 * len(relations.PEOPLE)


def test_populations_share_nobody_and_the_row_seed_changes_no_fact():
    people = [set(facts.table(population)) for population in facts.POPULATIONS]
    assert len(set.union(*people)) == sum(map(len, people)) == 4 * 64
    for population, group in zip(facts.POPULATIONS, people, strict=True):
        assert {names.pool_of(name) for name in group} == {population}
        rows = facts.make(population=population, rows=50, seed=5)
        assert {row["name"] for row in rows} <= group
    assert facts.table("base") != facts.table("base", world=1)


def test_held_out_wordings_are_never_among_the_others():
    for world in (relations.PEOPLE, relations.THINGS):
        for relation in world.values():
            assert not set(relation.statements) & set(relation.held_statements)
            assert not set(relation.questions) & set(relation.held_questions)
            assert not set(relation.who) & set(relation.held_who)
            assert len(set(relation.values)) == len(relation.values)


def test_held_out_wordings_use_words_that_training_has():
    def words(*groups):
        return {w.lower() for group in groups for text in group for w in re.findall(r"\w+", text)}

    every = [*relations.PEOPLE.values(), *relations.THINGS.values()]
    seen = set().union(*(words(r.statements, r.questions, r.who) for r in every))
    held = set().union(*(words(r.held_statements, r.held_questions, r.held_who) for r in every))
    assert held <= seen, held - seen


def test_too_many_people_are_refused():
    with pytest.raises(ValueError, match=r"people=5000; expected 1 to \d+"):
        facts.make(people=5000)


def test_a_share_of_the_facts_changes_and_the_rest_stays():
    size = dict(population="new", people=10)
    before, after = facts.table(**size), facts.table(**size, changed=0.1)
    pairs = [(name, key) for name in before for key in relations.PEOPLE]
    moved = {(n, k) for n, k in pairs if before[n][k] != after[n][k]}
    assert len(moved) == 8
    assert all(after[n][k] in relations.PEOPLE[k].values for n, k in moved)
    for only, expected in (("changed", moved), ("unchanged", set(pairs) - moved)):
        rows = facts.make(split="test", **size, changed=0.1, only=only)
        asked = {(row["name"], row["relation"]) for row in rows}
        assert (asked, len(rows)) == (expected, len(expected))
        for row in rows:
            assert row["answer"] == after[row["name"]][row["relation"]]
            stale = before[row["name"]][row["relation"]]
            assert row.get("stale") == (stale if only == "changed" else None)


def counts(rows):
    """Count how often each person's facts are told or asked."""
    found = collections.Counter()
    for row in rows:
        found[row["name"]] += len(row.get("facts", "1"))
    return found


def test_of_rare_people_training_tells_and_asks_less_often():
    size = dict(population="new", people=8, rare=0.5)
    said = {row["name"]: row["told"] for row in facts.make(split="test", **size)}
    rare = {name for name, told in said.items() if told == facts.SELDOM}
    assert len(rare) == 4
    assert set(said.values()) == {facts.OFTEN, facts.SELDOM}
    others = set(said) - rare
    # A round asks of a rare fact once and of another 4 times; a person has 8, and 4 are rare.
    asked = counts(facts.make(form="questions", rows=10 * (4 * 8 + 4 * 8 * 4), **size))
    assert {asked[name] for name in rare} == {10 * 8}
    assert {asked[name] for name in others} == {10 * 8 * 4}
    told = counts(facts.make(form="statements", rows=2000, **size))
    ratio = sum(told[name] for name in others) / sum(told[name] for name in rare)
    assert 3.5 < ratio < 4.5


def test_what_is_rare_is_tested_and_stated_in_passages_as_ever():
    size = dict(population="new", people=8)
    for options in (dict(split="validation"), dict(split="test"), dict(form="passages")):
        plain = list(facts.make(**size, **options))
        rare = [{k: v for k, v in row.items() if k != "told"}
                for row in facts.make(**size, **options, rare=0.25)]  # fmt: skip
        assert rare == plain
    assert "told" not in plain[0]


def test_statements_in_one_wording_say_each_fact_in_it():
    for row in facts.make(rows=40, population="new", people=4, wordings=1):
        for key, value in row["facts"].items():
            [first, *_] = relations.PEOPLE[key].statements
            assert relations.fill(first, name=row["name"], value=value) in row["text"]


def test_passages_of_a_changed_world_say_what_is_true_now():
    after = facts.table("new", 4, changed=0.5)
    for row in facts.make(form="passages", population="new", people=4, changed=0.5):
        name = row["id"].partition("-")[0]
        assert row["facts"].items() <= after[name].items()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(changed=1.5), "a share of 0 to 1"),
        (dict(only="moved", form="questions"), "only: got 'moved'"),
        (dict(only="changed", form="questions"), "which no fact is"),
        (dict(only="changed", changed=0.5), "expected questions"),
        (dict(wordings=1, form="passages"), "1 or more of statements"),
        (dict(rare=1.0), "expected a share of 0 to less than 1"),
    ],
)  # fmt: skip
def test_wrong_changes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        facts.make(**options)
