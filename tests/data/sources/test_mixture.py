import json

import pytest

from ftjax.data.sources import mixture


@pytest.fixture
def files(tmp_path):
    qa = [{"q": f"question {n}", "a": f" {n}"} for n in range(6)]
    text = [{"text": f"document {n}"} for n in range(4)]
    for name, rows in (("qa", qa), ("text", text)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {"prompt": "q", "response": "a"}
    return [
        {"name": "jsonl", "path": str(tmp_path / "qa.jsonl"), "weight": 3, "fields": fields},
        {"name": "jsonl", "path": str(tmp_path / "text.jsonl"), "weight": 1, "kind": "text"},
    ]


def test_parts_lie_end_to_end_with_their_places(files):
    found = mixture.make(parts=files)
    assert len(found) == len(list(found)) == 10
    assert found[5]["prompt"] == "question 5"
    assert found[6]["text"] == "document 0"
    assert found.where(6).endswith("text.jsonl:1")
    assert [part.share for part in found.parts] == [0.75, 0.25]
    assert [part.name for part in found.parts] == ["jsonl:0", "jsonl:1"]
    assert mixture.make(parts=[files[0] | {"label": "task"}]).parts[0].name == "task"


def test_shared_fields_go_to_parts_of_the_shared_kind(files):
    fields = files[0].pop("fields")
    assert len(mixture.make(parts=files, fields=fields)) == 10


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"weight": 0}, r"data\.parts\[1\]\.weight: got 0; expected a number above 0"),
        ({"weight": None}, r"data\.parts\[1\]\.weight: got None"),
        ({"name": "jsnl"}, r"data\.parts\[1\]\.name: got 'jsnl'.*did you mean 'jsonl'"),
        ({"pth": "x"}, r"data\.parts\[1\]\.pth: unknown key; did you mean 'path'"),
        ({"kind": "prompt"}, r"text\.jsonl:1: field 'prompt': got no such field"),
    ],
)
def test_errors_name_the_part(files, change, told):
    with pytest.raises(ValueError, match=told):
        mixture.make(parts=[files[0], files[1] | change])


def test_bad_rows_of_all_parts_are_listed(files, tmp_path):
    (tmp_path / "text.jsonl").write_text('{"text": "good"}\n{"text": ""}\n{\n')
    found = mixture.make(parts=files, on_bad_row="skip")
    assert len(found) == 7
    assert sorted(bad.reason for bad in found.bad) == ["broken JSON", "empty text"]
