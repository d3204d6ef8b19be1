import codecs
import gzip
import json

from ftjax.data.sources import jsonl


def lines(*texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def texts(rows):
    return [row["text"] for row in rows]


def test_plain_gzip_list_glob_and_folder_agree(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines("1", "2"))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines("3 é")))
    (tmp_path / ".hidden.jsonl").write_bytes(lines("never"))
    (tmp_path / "notes.txt").write_text("never")
    expected = ["1", "2", "3 é"]
    assert texts(jsonl.make(path=tmp_path)) == expected
    assert texts(jsonl.make(path=str(tmp_path / "*.jsonl*"))) == expected
    assert texts(jsonl.make(path=[tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"])) == expected
    assert texts(jsonl.make(path=[tmp_path / "b.jsonl.gz", tmp_path / "a.jsonl"])) != expected


def test_where_counts_lines_of_each_file(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines("1") + b"\n\n" + lines("2"))
    (tmp_path / "b.jsonl").write_bytes(lines("3"))
    rows = jsonl.make(path=tmp_path)
    places = [rows.where(i) for i in range(3)]
    assert places == [f"{tmp_path}/a.jsonl:1", f"{tmp_path}/a.jsonl:4", f"{tmp_path}/b.jsonl:1"]


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + lines("1", "2").replace(b"\n", b"\r\n"))
    assert texts(jsonl.make(path=path)) == ["1", "2"]
