import pytest

from ftjax.data import rows
from ftjax.data.rows import Rows


def check(row, kind, **options):
    return rows.check(Rows([row], where=lambda i: f"x:{i + 1}"), kind, **options)[0]


def test_fields_by_name_and_by_format_string():
    row = {"q": "Who?", "context": "Ann ran.", "answers": ["Ann", "she"], "n": 3}
    fields = {"prompt": "{context}\n\n{n}. {q}", "response": "{answers[0]}"}
    expected = {"prompt": "Ann ran.\n\n3. Who?", "response": "Ann", "weight": 1.0}
    assert check(row, "prompt", fields=fields) == expected
    expected = {"prompt": "Who?", "response": "Ann ran.", "weight": 1.0}
    assert check(row, "prompt", fields={"prompt": "q", "response": "context"}) == expected


def test_a_list_never_becomes_its_python_spelling():
    with pytest.raises(ValueError, match=r"x:1: field 'response': got list \['Ann'\].*\[0\]"):
        check({"a": ["Ann"]}, "prompt", fields={"prompt": "{a[0]}", "response": "{a}"})


def test_format_string_with_a_missing_field_names_it_and_the_nearest():
    fields = {"prompt": "{question}", "response": "a"}
    with pytest.raises(
        ValueError, match=r"field 'question': got no such.*did you mean 'questions'"
    ):
        check({"questions": "q", "a": "b"}, "prompt", fields=fields)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"kind": "promt"}, "kind: got 'promt'.*did you mean 'prompt'"),
        ({"kind": "prompt", "fields": {"respnse": "a"}}, "fields: got 'respnse'.*'response'"),
        ({"kind": "prompt", "on_bad_row": "ignore"}, "on_bad_row: got 'ignore'.*error, skip"),
    ],
)
def test_wrong_arguments(arguments, told):
    with pytest.raises(ValueError, match=told):
        check({"prompt": "a", "response": "b"}, **arguments)


def test_weights_of_rows_and_messages():
    asked = {"weight": "weight"}
    assert check({"text": "a", "weight": 2}, "text", fields=asked)["weight"] == 2.0
    assert check({"text": "a", "weight": None}, "text", fields=asked)["weight"] == 1.0
    assert check({"text": "a", "score": 0.5}, "text", fields={"weight": "score"})["weight"] == 0.5
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "weight": 0},
    ]
    assert check({"messages": messages}, "chat")["messages"] == messages


def test_prompt_of_messages_takes_an_answer_as_text():
    prompt = [{"role": "user", "content": "a"}]
    found = check({"prompt": prompt, "chosen": "b"}, "prompt", fields={"response": "chosen"})
    assert found["response"] == [{"role": "assistant", "content": "b"}]


def test_duplicates_are_counted_left_out_or_refused():
    found = [{"text": "a", "id": 1}, {"text": "b", "id": 2}, {"text": "a", "id": 3}]
    source = Rows(found, where=lambda i: f"x:{i + 1}")
    kept = rows.check(source, "text")
    assert (len(kept), kept.duplicates, kept.bad) == (3, 1, [])
    left = rows.check(source, "text", on_duplicate="skip")
    assert (len(left), left.duplicates) == (2, 1)
    assert rows.count_bad(left.bad)["reasons"] == {"duplicate": 1}
    with pytest.raises(ValueError, match=r"x:3: field '\(row\)': got the same as x:1; expected"):
        rows.check(source, "text", on_duplicate="error")


def test_empty_prompt_is_fine():
    assert check({"prompt": "", "response": "b"}, "prompt")["prompt"] == ""


def test_count_bad_groups_by_reason_and_keeps_a_few():
    bad = [rows.BadRow(f"f:{n}", "a" if n % 2 else "b", f"message {n}") for n in range(7)]
    found = rows.count_bad(bad, examples=2)
    assert found == {
        "count": 7,
        "reasons": {"b": 4, "a": 3},
        "examples": ["message 0", "message 1"],
    }
