"""Broken data files: each is refused with file, line, field and fix, or skipped and counted."""

import gzip
import json

import pytest

from ftjax.data import rows
from ftjax.data.sources import jsonl

GOOD = {
    "text": {"text": "a whole sentence"},
    "prompt": {"prompt": "2 + 2 =", "response": " 4"},
    "chat": {
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "y"}]
    },
}
NAN = '{"prompt": "a", "response": "b", "weight": NaN}'


def chat(*messages):
    return json.dumps(
        {"messages": [dict(zip(("role", "content"), m, strict=False)) for m in messages]}
    )


# name: (kind, the bad line, reason to count by, field, what was found, words of the fix)
BROKEN = {
    "cut off JSON": ("prompt", '{"prompt": "a", "resp', "broken JSON", "(line)", 
                     "a line that is cut off", "fetch"),
    "cut off behind a value": ("text", '{"text": "a"', "broken JSON", "(line)", "at column 14 (",
                               "fetch"),
    "two objects": ("text", '{"text": "a"} {"b": 1}', "broken JSON", "(line)", 
                    "two JSON values", "jq -c ."),
    "array": ("text", '["a"]', "not an object", "(line)", "list ['a']", "jq -c '.[]'"),
    "number": ("text", "17", "not an object", "(line)", "int 17", "write {...}"),
    "latin-1": ("text", b'{"text": "caf\xe9"}', "invalid UTF-8", "(line)", "0xe9", "iconv"),
    "surrogate": ("text", '{"text": "\\ud83d"}', "invalid unicode", "text", "half", "surrogate"),
    "no response": ("prompt", '{"prompt": "a", "respnse": "b"}', "missing field", "response",
                    "the row has: prompt, respnse", "did you mean 'respnse'?"),
    "no text": ("text", '{"body": "a"}', "missing field", "text", "body", "fields=dict(text=...)"),
    "number as text": ("text", '{"text": 3}', "wrong type", "text", "int 3", "write it as text"),
    "null response": ("prompt", '{"prompt": "a", "response": null}', "wrong type", "response",
                      "null", "map another field"),
    "empty response": ("prompt", '{"prompt": "a", "response": " "}', "empty response", "response",
                       "empty text", "delete the row"),
    "empty text": ("text", '{"text": ""}', "empty text", "text", "empty text", "fill it in"),
    "unknown role": ("chat", chat(("human", "a"), ("assistant", "b")), "unknown role",
                     "messages[0].role", "'human'", "did you mean 'user'?"),
    "no assistant": ("chat", chat(("user", "a")), "no assistant turn", "messages", "roles user",
                     "add the answer"),
    "silent assistant": ("chat", chat(("user", "a"), ("assistant", "")), "empty response",
                         "messages", "empty assistant turns", "fill it in"),
    "messages as text": ("chat", '{"messages": "hi"}', "wrong type", "messages", "str 'hi'",
                         '[{"role"'),
    "no content": ("chat", chat(("user",), ("assistant", "b")), "wrong type",
                   "messages[0].content", "null", "write it as text"),
    "no role": ("chat", '{"messages": [{"speaker": "human", "value": "a"}]}', "bad message",
                "messages[0]", "dict", "'role' and 'content'"),
    "weight of a question": (
        "chat", '{"messages": [{"role": "user", "content": "a", "weight": 1}]}', "bad weight",
        "messages[0]", "user weight", "only assistant turns"),
    "negative weight": ("text", '{"text": "a", "weight": -1}', "bad weight", "weight", "int -1",
                        "plain number"),
    "a weight beyond float32": ("text", '{"text": "a", "weight": 1e300}', "bad weight", "weight",
                                "1e+300", "plain number"),
    "a weight that no float holds": ("text", f'{{"text": "a", "weight": 1{"0" * 400}}}',
                                     "bad weight", "weight", "int 1000", "plain number"),
    "NaN weight": ("prompt", NAN, "bad weight", "weight", "nan", "plain number"),
}  # fmt: skip


# A row's weight has to be asked for; rows without one weigh 1.
FIELDS = {"weight": "weight"}


def write(path, lines):
    lines = [line.encode() if isinstance(line, str) else line for line in lines]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


@pytest.fixture(params=BROKEN.values(), ids=BROKEN.keys())
def broken(request, tmp_path):
    kind, line, *told = request.param
    good = json.dumps(GOOD[kind])
    # The blank line counts as a line, and the bad row is number 4.
    path = write(tmp_path / "train.jsonl", [good, good, "", line, good])
    return path, kind, told


def test_error_names_file_line_field_and_fix(broken):
    path, kind, (_, field, found, fix) = broken
    with pytest.raises(ValueError, match="got ") as error:
        rows.check(jsonl.make(path=path), kind, fields=FIELDS)
    message = str(error.value)
    assert message.startswith(f"{path}:4: field {field!r}: got ")
    assert found in message
    assert fix in message
    assert "expected" in message
    assert "on_bad_row='skip'" in message


def test_skip_leaves_it_out_and_counts_it(broken):
    path, kind, (reason, field, *_) = broken
    found = rows.check(jsonl.make(path=path), kind, fields=FIELDS, on_bad_row="skip")
    assert [found.where(i) for i in range(len(found))] == [f"{path}:{n}" for n in (1, 2, 5)]
    counted = rows.count_bad(found.bad)
    assert counted["count"] == 1
    assert counted["reasons"] == {reason: 1}
    assert f"{path}:4: field {field!r}" in counted["examples"][0]


def test_file_of_bad_rows_only_is_an_error_even_when_skipping(tmp_path):
    path = write(tmp_path / "a.jsonl", ['{"text": ""}', "{"])
    with pytest.raises(ValueError, match=r"no usable row.*all 2 rows were skipped.*a\.jsonl:"):
        rows.check(jsonl.make(path=path), "text", on_bad_row="skip")


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_empty_file(tmp_path, content):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"a\.jsonl:1: got an empty file; expected one JSON object"
    ):
        jsonl.make(path=path)


def test_truncated_gzip_is_an_error_that_names_the_line(tmp_path):
    whole = gzip.compress(b'{"text": "a"}\n' * 50_000)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ValueError, match=r"a\.jsonl\.gz:\d+: got damaged gzip data.*fetch it again"
    ):
        jsonl.make(path=path)


def test_gz_name_on_plain_text(tmp_path):
    path = write(tmp_path / "a.jsonl.gz", ['{"text": "a"}'])
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz:1: got damaged gzip data"):
        jsonl.make(path=path)


def test_missing_file_suggests_its_neighbour(tmp_path):
    write(tmp_path / "train.jsonl", ['{"text": "a"}'])
    with pytest.raises(ValueError, match=r"data\.path: got '.*tarin.*did you mean 'train\.jsonl'"):
        jsonl.make(path=tmp_path / "tarin.jsonl")


def test_folder_without_data(tmp_path):
    with pytest.raises(ValueError, match=r"expected files \.jsonl"):
        jsonl.make(path=tmp_path)
