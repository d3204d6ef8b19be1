import builtins

import numpy as np
import pytest

from ftjax.retrieval import bm25, dense, fuse, index, passages

TEXTS = ["The cat sat on the mat.", "Dogs are running in a park", "a bird, a cat and a dog", "zzz"]
PASSAGES = passages.of_rows(
    [{"id": f"p{i}", "text": text, "title": "Rome" if i == 3 else ""} for i, text in
     enumerate(TEXTS)], where="passages",
)  # fmt: skip
TABLE = {"cat": [1, 0], "dog": [0, 1], "dogs": [0, 1], "bird": [1, 0.1]}


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "words.npz"
    np.savez(path, tokens=list(TABLE), vectors=np.array(list(TABLE.values()), np.float32))
    return str(path)


def test_bm25_is_its_formula():
    made = bm25.make(passages=PASSAGES[:3], stemmer="", stopwords="", k1=1.2, b=0.6)
    hits = made.search(["cat"], k=2)
    # Words of two letters or more: 6, 5 and 4 of them; "cat" stands in two of three passages.
    idf, mean = np.log(1 + (3 - 2 + 0.5) / (2 + 0.5)), (6 + 5 + 4) / 3
    score = lambda length: idf / (1 + 1.2 * (1 - 0.6 + 0.6 * length / mean))
    np.testing.assert_array_equal(hits.places, [[2, 0]])
    np.testing.assert_allclose(hits.scores, [[score(4), score(6)]], rtol=1e-5)


def test_stems_join_forms_and_titles_are_read():
    made = bm25.make(passages=PASSAGES)
    assert set(made.search(["dog runs"], k=4).places[0]) == {1, 2, -1}
    assert made.search(["dog runs"], k=4).places[0, 0] == 1
    assert made.search(["rome"], k=1).places == [[3]]


@pytest.mark.parametrize("query", ["", "qqq", "the of"])
def test_a_query_that_shares_no_word_has_no_hits(query):
    hits = bm25.make(passages=PASSAGES).search([query, "cat"], k=2)
    np.testing.assert_array_equal(hits.places[0], [-1, -1])
    np.testing.assert_array_equal(hits.scores[0], [0, 0])
    assert hits.places[1, 0] >= 0


def test_equal_scores_come_in_the_order_of_the_passages():
    places, scores = index.top(np.float32([1, 3, 0, 3, 1, 1]), 4)
    np.testing.assert_array_equal(places, [1, 3, 0, 4])
    np.testing.assert_array_equal(scores, [3, 3, 1, 1])


def test_dense_ranks_by_the_cosine_of_mean_vectors(table):
    hits = dense.make(passages=PASSAGES, table=table).search(["Cat!", "a dog", "zzz"], k=4)
    np.testing.assert_array_equal(hits.places[0], [0, 2, -1, -1])
    np.testing.assert_array_equal(hits.places[1], [1, 2, -1, -1])
    np.testing.assert_array_equal(hits.places[2], [-1] * 4)
    mean = np.array([2, 1.1])
    np.testing.assert_allclose(hits.scores[0, :2], [1, 2 / np.linalg.norm(mean)], rtol=1e-6)


def test_tables_in_text_are_read_with_and_without_sizes(tmp_path):
    lines = "cat 1 0\ndog 0 1\n"
    for name, text in (("glove", lines), ("word2vec", "2 2\n" + lines)):
        (tmp_path / name).write_text(text)
        found = dense.read_table(str(tmp_path / name))
        assert {word: list(vector) for word, vector in found.items()} == {
            "cat": [1, 0], "dog": [0, 1]
        }  # fmt: skip
    (tmp_path / "bad").write_text("cat 1 0\ndog 0 1 2\n")
    with pytest.raises(ValueError, match="bad:2: got 'dog 0 1 2"):
        dense.read_table(str(tmp_path / "bad"))


def test_reciprocal_ranks_fuse_by_their_formula():
    first, second = np.array([[5, 2, -1]]), np.array([[2, 7, 5]])
    hits = fuse.reciprocal_ranks([first, second], k=4, constant=10)
    np.testing.assert_array_equal(hits.places, [[2, 5, 7, -1]])
    wanted = [[1 / 12 + 1 / 11, 1 / 11 + 1 / 13, 1 / 12, 0]]
    np.testing.assert_allclose(hits.scores, wanted, rtol=1e-6)
    heavy = fuse.reciprocal_ranks([first, second], k=1, constant=10, weights=[5, 1])
    np.testing.assert_array_equal(heavy.places, [[5]])


def test_equal_fused_scores_come_in_the_order_of_the_passages():
    hits = fuse.reciprocal_ranks([np.array([[4, 1]]), np.array([[1, 4]])], k=2)
    np.testing.assert_array_equal(hits.places, [[1, 4]])


@pytest.mark.parametrize("name", index.NAMES)
def test_kept_indexes_find_the_same_and_are_mapped(name, table, tmp_path):
    spec = {"name": name}
    if name == "dense":
        spec["table"] = table
    if name == "fuse":
        spec["indexes"] = (dict(name="bm25", k1=1.1), dict(name="dense", table=table))
    options = dict(folder=tmp_path / "indexes", where="index")
    made = index.opened(spec, PASSAGES, **options)
    [kept] = (tmp_path / "indexes").iterdir()
    written = kept.stat().st_mtime_ns
    read = index.opened(spec, PASSAGES, **options)
    assert kept.stat().st_mtime_ns == written
    assert made.nbytes == read.nbytes > 0
    for before, after in zip(made.search(TEXTS, k=3), read.search(TEXTS, k=3), strict=True):
        np.testing.assert_array_equal(before, after)
    inner = {"dense": lambda: read._vectors, "bm25": lambda: read._scorer.scores["data"],
             "fuse": lambda: read._indexes[1]._vectors}[name]()  # fmt: skip
    assert isinstance(inner, np.memmap)


def test_other_passages_settings_or_vectors_are_another_index(table, tmp_path):
    spec = dict(name="dense", table=table)
    known = index.digest(spec, PASSAGES)
    assert index.digest(dict(name="bm25"), PASSAGES) != known
    assert index.digest(spec, PASSAGES[:3]) != known
    assert index.digest(spec, PASSAGES, identity="other weights") != known
    np.savez(table, tokens=["cat"], vectors=np.ones((1, 2)))
    assert index.digest(spec, PASSAGES) != known


def test_a_damaged_index_says_what_to_do(tmp_path):
    options = dict(folder=tmp_path, where="index")
    index.opened(dict(name="bm25"), PASSAGES, **options)
    [kept] = tmp_path.iterdir()
    next(kept.glob("data*.npy")).unlink()
    with pytest.raises(RuntimeError, match="remove the folder"):
        index.opened(dict(name="bm25"), PASSAGES, **options)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (dict(name="bm52"), "did you mean 'bm25'"),
        (dict(name="measure"), "expected one of bm25, dense, fuse"),
        (dict(name="bm25", k=1), "index.k: unknown key"),
        (dict(name="bm25", stemmer="englisch"), "did you mean 'english'"),
        (dict(name="bm25", stopwords="klingon"), "index.stopwords: got 'klingon'"),
        (dict(name="dense"), "set index.table"),
        (dict(name="dense", table="nowhere.txt"), "expected a file of word vectors"),
        (dict(name="fuse", indexes=(dict(name="bm25"),)), "two indexes"),
    ],
)
def test_wrong_settings_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        index.build(spec, PASSAGES, where="index")


@pytest.mark.parametrize("package", ["bm25s", "Stemmer"])
def test_a_missing_package_names_the_extra(package, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **more):
        if name == package:
            raise ImportError(name)
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"ftjax\[rag\]"):
        bm25.make(passages=PASSAGES)


def test_passages_without_words_are_refused(table):
    nothing = passages.of_rows([{"text": "- -"}], where="passages")
    with pytest.raises(ValueError, match="without any word"):
        bm25.make(passages=nothing)
    with pytest.raises(ValueError, match="knows no word"):
        dense.make(passages=nothing, table=table)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "got no passage"),
        ([{"text": " "}], "expected a passage with words"),
        ([{"body": "x"}], r"got the fields body; expected a passage in .*fields=dict"),
        ([{"text": "x", "id": "a"}, {"text": "y", "id": "a"}], "got the id 'a', as at"),
        ([{"text": "x", "id": [1]}], "expected a text or a whole number"),
    ],
)
def test_passages_that_cannot_be_cited_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        passages.of_rows(rows, where="passages")
