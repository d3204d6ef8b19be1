import pytest

from ftjax.data.sources import embedded
from ftjax.data.worlds import pytext


@pytest.fixture(scope="module")
def texts():
    splits = ("train", "validation", "test")
    return {
        (d, s): list(embedded.make(domain=d, split=s)) for d in ("english", "code") for s in splits
    }


@pytest.mark.parametrize("domain", ["english", "code"])
def test_splits_share_no_file_and_none_is_empty(texts, domain):
    files = {
        split: {row["module"] for row in rows} for (d, split), rows in texts.items() if d == domain
    }
    assert all(len(group) >= 5 for group in files.values())
    assert len(set.union(*files.values())) == sum(map(len, files.values()))
    assert all(pytext.split_of(m) == split for split, group in files.items() for m in group)


def test_there_is_enough_text_in_bounded_ascii_pieces(texts):
    for (_, split), rows in texts.items():
        assert all(40 <= len(row["text"]) <= 500 and row["text"].isascii() for row in rows)
        assert sum(len(row["text"]) for row in rows) > (1e6 if split == "train" else 1e4)
    everything = "".join(row["text"].lower() for rows in texts.values() for row in rows)
    assert "copyright" not in everything


def test_english_is_prose_and_code_is_code(texts):
    def rate(domain, word):
        rows = texts[domain, "train"]
        return sum(f" {word} " in row["text"] for row in rows) / len(rows)

    assert rate("english", "the") > 0.5 > 5 * rate("code", "the")
    assert rate("code", "=") > 0.4 > 4 * rate("english", "=")
    assert not any('"""Return' in row["text"] for row in texts["code", "train"])


def test_seed_shuffles_and_rows_keeps_the_first(texts):
    few = embedded.make(domain="code", split="test", rows=3)
    assert list(few) == texts["code", "test"][:3]
    other = list(embedded.make(domain="code", split="test", seed=1))
    assert other != texts["code", "test"]
    key = lambda row: (row["module"], row["text"])
    assert sorted(map(key, other)) == sorted(map(key, texts["code", "test"]))


def test_cut_keeps_every_line_within_the_bound():
    text = "\n\n".join(
        "\n".join(f"line {i} {j} of some length" for j in range(9)) for i in range(9)
    )
    chunks = pytext.cut(text, 150)
    assert all(len(chunk) <= 150 for chunk in chunks)
    assert "\n".join(chunks).split() == text.split()


def test_plain_takes_rulers_and_marks_away():
    text = 'Title\n*****\n\nUse "x" or `name` and **bold**, but 2 * 3 stays.'
    assert pytext.plain(text) == 'Title\n\nUse "x" or name and bold, but 2 * 3 stays.'


def test_a_python_without_sources_is_said_to_be_so(monkeypatch, tmp_path):
    pytext._chunks.cache_clear()
    monkeypatch.setattr(pytext.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(ValueError, match="got no Python source"):
        embedded.make(domain="code")
    pytext._chunks.cache_clear()
