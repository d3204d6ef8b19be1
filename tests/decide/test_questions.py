import json

import pytest

from ftjax.decide import arms, config, questions


def section(tmp_path, rows, **more):
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return dict(name="jsonl", path=str(path), **more)


def test_questions_and_prompts_are_read(tmp_path):
    rows = [
        {"question": "Who?", "answers": ["Emma", "Em"], "id": 7, "passage_id": "p1"},
        {"prompt": "Say: ", "response": "a b", "need": "form", "passage_id": ["p1", "p2"]},
    ]
    first, second = questions.read({"facts": section(tmp_path, rows)}, where="test")
    assert first[:6] == ("7", "facts", "Q: Who?\nA:", " Emma", ("Emma", "Em"), ("p1",))
    assert second[:6] == (None, "form", "Say: ", "a b", ("a b",), ("p1", "p2"))
    own = section(tmp_path, rows, template="[{prompt}{question}]", normalize="none")
    with pytest.raises(ValueError, match=r"template: got .* whose field"):
        questions.read({"facts": own}, where="test")
    own = section(tmp_path, rows, template="<{question}>", normalize="none")
    found = questions.read({"facts": own}, where="test")
    assert [each.prompt for each in found] == ["<Who?>", "<Say: >"]
    assert found[0].normalize == "none"


def test_clusters_are_what_a_template_makes_of_rows(tmp_path):
    rows = [{"prompt": f"{i}", "answer": "x", "who": who} for i, who in enumerate("abab")]
    own = section(tmp_path, rows, cluster="{who}")
    found = questions.read({"facts": own, "skill": section(tmp_path, rows)}, where="test")
    assert [each.cluster for each in found] == [*"abab", None, None, None, None]
    assert questions.clusters(found) == [0, 1, 0, 1, 2, 3, 4, 5]
    # Of another need, the same name is another cluster.
    assert questions.clusters([found[0], found[0]._replace(need="skill")]) == [0, 1]
    with pytest.raises(ValueError, match=r"cluster: got '\{whom\}', whose field 'whom'"):
        questions.read({"facts": dict(own, cluster="{whom}")}, where="test")


def test_an_answer_may_be_the_number_of_a_choice(tmp_path):
    rows = [{"prompt": "x", "choices": ["a", "b"], "answer": each} for each in (1, "a", "c")]
    found = questions.read({"facts": section(tmp_path, rows)}, where="test")
    assert [each.answers for each in found] == [("b",), ("a",), ("c",)]
    assert found[0].choices == ("a", "b")
    assert found[0].row["answer"] == "b"
    questions.check_choices(found[:2])
    with pytest.raises(ValueError, match=r":3: choices: got \['a', 'b'\] and the answer 'c'"):
        questions.check_choices(found)
    rows = [{"prompt": "x", "choices": ["a", "b"], "answer": 2}]
    with pytest.raises(ValueError, match=r"or an index from 0 to 1"):
        questions.read({"facts": section(tmp_path, rows)}, where="test")
    plain = questions.read({"a": section(tmp_path, [{"prompt": "x", "answer": "a"}])}, where="a")
    with pytest.raises(ValueError, match=r"got \[\] and the answer 'a'; expected it among two"):
        questions.check_choices(plain)


def test_limits_spread_and_texts_are_no_questions(tmp_path):
    rows = [{"prompt": f"{i}", "response": "x"} for i in range(10)]
    told = section(tmp_path, [{"text": "x"}], kind="text")
    found = questions.read({"a": section(tmp_path, rows, limit=3), "told": told}, where="train")
    assert [each.prompt for each in found] == ["0", "3", "6"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "x"}], r"--config.test.a.fields.answer=FIELD says which it is"),
        ([{"question": "x", "answers": []}], r"expected answers, answer or response, filled"),
        ([{"answers": ["x"]}], r"jsonl:1: got the fields answers; expected one of prompt"),
        ([{"answers": ["x"]}], r"--config.test.a.fields.question=FIELD"),
        ([{"answers": ["x"], "question": " "}], r"jsonl:1: question: got ' '; expected a text"),
        ([{"prompt": "x", "answer": "y", "id": "a"}] * 2, r":2: got the id 'a', as at .*:1"),
    ],
)
def test_rows_that_cannot_be_asked_are_refused(rows, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        questions.read({"a": section(tmp_path, rows)}, where="test")


def test_few_questions_are_warned_about(capsys):
    asked = [questions.Question(None, "a", "x", "y", ("y",), (), "none", "")] * 3
    assert questions.needs(asked) == {"a": [0, 1, 2]}
    assert "test.a: 3 questions, fewer than 50: intervals are wide" in capsys.readouterr().err


def decision(**changes):
    c = config.defaults()
    c.train.a, c.test.a = dict(name="jsonl", path="x"), dict(name="jsonl", path="y")
    c.runs.lora = dict(steps=1)
    c.arms.plain, c.arms.lora = dict(name="zero_shot"), dict(name="lora")
    for key, value in changes.items():
        with c.ignore_type():
            c[key] = value
    return c


def test_a_config_is_read():
    found = config.read(decision(seeds=(0, 1), templates=dict(separator="\n")))
    assert (found.templates.separator, tuple(found.seeds)) == ("\n", (0, 1))
    assert arms.trials(found.arms["lora"]) == [arms.Trial()]


BOTH = dict(name="zero_shot", trials=({}, {"instruction": "x"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "exact_matc"}, "metric: got 'exact_matc'; did you mean 'exact_match'"),
        ({"test": {}}, "test: got nothing"),
        ({"arms": {"a": dict(name="few_shots")}}, "arms.a.name: .*did you mean 'few_shot'"),
        ({"arms": {"a": dict(name="zero_shot", k=2)}}, "arms.a: got the key 'k'"),
        ({"arms": {"a": dict(name="zero_shot", trials=(dict(k=2),))}}, "zero_shot has no use"),
        ({"arms": {"a": dict(name="rag", trials=(dict(k=0),))}}, r"trials\[0\].k: .*at least 1"),
        ({"arms": {"a": dict(name="rag", trials=(dict(kk=1),))}}, "did you mean 'k'"),
        ({"arms": {"a": dict(name="full")}}, "trains runs.full"),
        ({"arms": {"a": BOTH}}, "validation: got nothing"),
        ({"arms": {"a": BOTH, "b": dict(name="rag")}, "validation": {"a": {}}}, "so many trials"),
        ({"prices": dict(queries=-1.0)}, "prices.queries: got -1.0"),
        ({"prices": dict(queries=1.0, device_hour=1.0), "latency_rows": 0}, "set latency_rows"),
        ({"max_tokens": 3}, "max_tokens: unknown key"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        config.read(decision(**changes))


def test_unequal_effort_must_be_wanted():
    changed = decision(
        arms={"a": BOTH, "b": dict(name="rag")}, validation={"a": {}}, equal_effort=False
    )
    assert not config.read(changed).equal_effort
