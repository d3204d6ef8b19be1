"""Files that are not what their name says: read, or one line that names what it is and mends it."""

import gzip
import json

import pytest

from ftjax.data import rows
from ftjax.data.sources import jsonl

ROW = {"prompt": "a", "response": "é"}
LINE = json.dumps(ROW, ensure_ascii=False)
DEEP = '{"prompt": "a", "response": "b", "x": ' + "[" * 100_000 + "]" * 100_000 + "}"
HUGE = '{"prompt": "a", "response": "b", "x": ' + "9" * 5_000 + "}"

READ = {
    "JSON lines": LINE.encode(),
    "a byte-order mark": b"\xef\xbb\xbf" + LINE.encode(),
    "Windows line ends": f"{LINE}\r\n".encode(),
    "gzip under another name": gzip.compress(LINE.encode()),
    "an array on one line": f"[{LINE}]".encode(),
    "an array, printed": json.dumps([ROW], indent=1).encode(),
    "an array in gzip": gzip.compress(f"[{LINE}]".encode()),
}
# what it is: (content, what the message says it is, words of the command)
NAMED = {
    "UTF-16": (LINE.encode("utf-16"), "UTF-16 text", "iconv -f utf-16 -t utf-8"),
    "UTF-16 without a mark": (LINE.encode("utf-16le"), "UTF-16 text", "iconv -f utf-16le"),
    "big-endian UTF-16": (LINE.encode("utf-16be"), "UTF-16 text", "iconv -f utf-16be"),
    "UTF-32": (LINE.encode("utf-32"), "UTF-32 text", "iconv -f utf-32"),
    "Latin-1": (LINE.encode("latin-1"), "byte 0xe9", "iconv -f latin1 -t utf-8"),
    "Chinese": ('{"prompt": "中国的首都", "response": "北京"}'.encode("gb18030"), "byte 0xd6",
                "from its encoding, such as gb18030"),
    "Japanese": ('{"prompt": "日本の首都は"}'.encode("shift_jis"), "byte 0x93", "shift_jis"),
    "Cyrillic": ('{"prompt": "Столица"}'.encode("cp1251"), "byte 0xd1", "cp1251"),
    "Parquet": (b"PAR1\x15\x04PAR1", "Parquet data", "data.name='parquet'"),
    "zip": (b"PK\x03\x04rest", "a zip archive", "unzip"),
    "zstandard": (b"\x28\xb5\x2f\xfd....", "zstandard", "zstd -d"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS", "git lfs pull"),
    "a web page": (b"<!DOCTYPE html>\n<html>", "a web page", "raw"),
    "CSV": (b"prompt,response\na,b\n", "CSV", "data.name='csv'"),
    "old Mac ends": (f"{LINE}\r{LINE}\r".encode(), "old Mac line ends", "tr '\\r' '\\n'"),
    "NUL bytes": (f"{LINE}\n\0\0\0\0\n".encode(), "NUL bytes", "tr -d '\\000'"),
    "two on a line": (f"{LINE} {LINE}".encode(), "two JSON values on a line", "jq -c ."),
    "a comma": (f"{LINE},\n{LINE}".encode(), "a comma behind the object", "sed 's/,"),
    "a Python dict": (str(ROW).encode(), "a Python dict", "ast.literal_eval"),
    "a cut file": (f"{LINE}\n{LINE[:-4]}".encode(), "a line that is cut off", "fetch"),
    "one object, printed": (json.dumps(ROW, indent=1).encode(), "over several lines", "jq -c ."),
    "a raw tab": (b'{"prompt": "a\tb", "response": "c"}', "a raw tab", "\\t"),
    "a huge number": (HUGE.encode(), "thousands of digits", "as text"),
    "deep nesting": (DEEP.encode(), "nesting too deep", "drop that field"),
    "a key twice": (b'{"prompt": "a", "response": "b", "prompt": "c"}', "the key prompt twice",
                    "keep one"),
    "cut gzip": (gzip.compress(LINE.encode() * 99)[:-9], "damaged gzip", "gzip -t"),
    "an array of texts": (b'["a"]', "str 'a'", "jq -c '.[]'"),
}  # fmt: skip


@pytest.mark.parametrize("content", READ.values(), ids=READ.keys())
def test_read(content, tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(content)
    assert list(jsonl.make(path=tmp_path / "rows.jsonl")) == [ROW]


@pytest.mark.parametrize("case", NAMED.values(), ids=NAMED.keys())
def test_named_with_the_command_that_mends_it(case, tmp_path):
    content, what, command = case
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match="got") as error:
        rows.check(jsonl.make(path=tmp_path / "rows.jsonl"), "prompt")
    message = str(error.value)
    assert message.startswith(str(tmp_path / "rows.jsonl"))
    assert what in message
    assert command in message
    assert "\n" not in message


def test_places_of_an_array_are_its_items(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([ROW, {"prompt": "a"}]))
    with pytest.raises(ValueError, match=r"a\.json:item 2: field 'response'"):
        rows.check(jsonl.make(path=tmp_path / "a.json"), "prompt")
