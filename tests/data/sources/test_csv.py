import gzip

import pytest

from ftjax.data import prepare
from ftjax.data.sources import csv


def test_cells_lines_and_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfprompt,response\r\n"a, ""b""\nc",d\r\n\r\ne,\xc3\xa9\r\n')
    rows = csv.make(path=path)
    assert list(rows) == [
        {"prompt": 'a, "b"\nc', "response": "d"}, {"prompt": "e", "response": "é"},
    ]  # fmt: skip
    assert [rows.where(i) for i in range(2)] == [f"{path}:2", f"{path}:5"]


def test_tabs_gzip_and_a_separator_of_ones_own(tmp_path):
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(b"x\ty\n1, 2\t3\n"))
    (tmp_path / "b.csv").write_bytes(b"x;y\n1;2\n")
    assert list(csv.make(path=tmp_path / "a.tsv.gz")) == [{"x": "1, 2", "y": "3"}]
    assert list(csv.make(path=tmp_path / "b.csv", delimiter=";")) == [{"x": "1", "y": "2"}]


def test_a_row_unlike_the_header_is_a_bad_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x,y\n1,2\n3,4,5\n6\n7,8\n")
    rows = csv.make(path=path)
    assert [row["x"] for row in rows] == ["1", "7"]
    assert [bad.where for bad in rows.bad] == [f"{path}:3", f"{path}:4"]
    assert "3 cells; expected 2" in rows.bad[0].message


def test_a_long_cell_is_read(tmp_path):
    (tmp_path / "a.csv").write_text(f"x\n{'a' * 200_000}\n")
    assert len(csv.make(path=tmp_path / "a.csv")[0]["x"]) == 200_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x,y\n", "got no row"),
        (b"", "no header"),
        (b"x,x\n1,2\n", "'x' twice"),
        (b"x;y\n1;2\n", "one column 'x;y'; .* set data.delimiter=';'"),
        (b"x\ty\n1\t2\n", r"set data.delimiter='\\t'"),
        (b'x,y\n1,2\n"3,4\n', r":3: got a broken row"),
        (b"x,y\n1,2\n\xe9,4\n", "expected UTF-8"),
        (b"PAR1aaaaaaa", "Parquet data"),
    ],
)
def test_broken_files(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        csv.make(path=path)
    assert str(path) in str(caught.value)


def test_it_is_a_source(tmp_path, bpe):
    (tmp_path / "a.csv").write_text("q,a\nwhat,this\n")
    fields = dict(prompt="{q}?", response=" {a}")
    given = dict(name="csv", path=str(tmp_path / "a.csv"), fields=fields, max_tokens=32)
    assert prepare.load(tokenizer=bpe, **given).counts == (1,)
