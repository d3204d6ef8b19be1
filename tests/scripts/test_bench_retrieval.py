import gzip
import json

import pytest

from scripts import bench_retrieval


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def files(tmp_path):
    texts = ["Emma wrote a book", "the dog eats rice", "a cat plays chess"]
    passages = [{"id": f"p{i}", "text": text} for i, text in enumerate(texts)]
    asked = [("Who wrote the book?", "p0"), ("Who eats rice?", ["p1"]), ("Who eats cats?", "p2")]
    questions = [{"question": q, "passage_id": p} for q, p in asked]
    return write(tmp_path / "p.jsonl", passages), write(tmp_path / "q.jsonl", questions)


def test_recall_of_a_known_ranking(files):
    found = bench_retrieval.measured({"name": "bm25"}, *bench_retrieval.read(*files))
    assert (found["passages"], found["questions"]) == (3, 3)
    assert (found["recall@1"], found["recall@5"]) == (pytest.approx(2 / 3, abs=1e-4), 1)
    assert found["index_s"] >= 0 < found["bytes"]


def test_a_question_about_no_passage_is_refused(files, tmp_path):
    asked = write(tmp_path / "bad.jsonl", [{"question": "x", "passage_id": "p9"}])
    with pytest.raises(ValueError, match=r"bad.jsonl:1: passage_id: got 'p9'"):
        bench_retrieval.read(files[0], asked)


def test_bm25_finds_squads_passages(shared_data):
    folder = shared_data / "qa" / "squad"
    if not folder.is_dir():
        pytest.skip("no SQuAD in the data folder")
    data = bench_retrieval.read(str(folder / "passages.jsonl.gz"), str(folder / "test.jsonl.gz"))
    with gzip.open(folder / "test.jsonl.gz", "rt") as file:
        assert len(data[1]) == len(file.readlines())
    found = bench_retrieval.measured({"name": "bm25"}, *data)
    assert found["recall@1"] == pytest.approx(0.765, abs=0.01)
    assert found["recall@5"] == pytest.approx(0.923, abs=0.01)
