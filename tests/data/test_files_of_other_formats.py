"""Parquet files, prepared TensorFlow data sets, and folders of documents."""

import builtins
import json
import subprocess
import sys

import pytest

from ftjax.data import rows
from ftjax.data.sources import documents, parquet, tfds

DATA = [
    {"prompt": f"question {n}", "response": f"answer é {n}", "tags": ["a", "b"]} for n in range(5)
]


@pytest.fixture
def without(monkeypatch):
    """Make an import fail, as in an environment that lacks the package."""

    def block(name):
        real = builtins.__import__

        def imported(module, *rest, **options):
            if module.split(".")[0] == name:
                raise ImportError(f"no module {name}")
            return real(module, *rest, **options)

        monkeypatch.setattr(builtins, "__import__", imported)

    return block


@pytest.fixture
def parquet_file(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
    from pyarrow import parquet as writer

    writer.write_table(arrow.Table.from_pylist(DATA), tmp_path / "train.parquet")
    return tmp_path / "train.parquet"


def test_parquet_rows_and_places(parquet_file):
    found = parquet.make(path=parquet_file)
    assert list(found) == DATA
    assert found.where(3) == f"{parquet_file}:row 4"
    assert parquet.make(path=parquet_file, columns=("prompt",))[1] == {"prompt": "question 1"}


def test_parquet_errors(parquet_file, tmp_path):
    with pytest.raises(ValueError, match=r"data\.columns: got 'promt'.*did you mean 'prompt'"):
        parquet.make(path=parquet_file, columns=("promt",))
    whole = parquet_file.read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.parquet: got damaged parquet data"):
        parquet.make(path=tmp_path / "cut.parquet")


def test_parquet_names_the_extra(tmp_path, without):
    (tmp_path / "a.parquet").write_bytes(b"")
    without("pyarrow")
    with pytest.raises(ImportError, match=r'pip install "ftjax\[parquet\]"'):
        parquet.make(path=tmp_path / "a.parquet")


def test_tfds_names_the_extra(without):
    without("tensorflow_datasets")
    with pytest.raises(ImportError, match=r'pip install "ftjax\[tfds\]"'):
        tfds.make(builder="gsm8k", split="train")


def test_tfds_needs_one_of_builder_and_path():
    with pytest.raises(ValueError, match="exactly one of the two"):
        tfds.make(split="train")


WRITE = """
import sys
import tensorflow_datasets as tfds

class Qa(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        features = {"prompt": text, "response": text, "tags": tfds.features.Sequence(text)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for n in range(5):
            row = {"prompt": f"question {n}", "response": f"answer \\u00e9 {n}", "tags": ["a", "b"]}
            yield n, row

Qa(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""
READ = """
import json, sys
from ftjax.data.sources import tfds

found = tfds.make(path=sys.argv[1], split="train[:80%]")
print(json.dumps([list(found), found.where(1), "tensorflow" in sys.modules]))
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    pytest.importorskip("array_record", reason="needs the extra `tfds`")
    folder = tmp_path_factory.mktemp("tfds")
    subprocess.run([sys.executable, "-c", WRITE, str(folder)], check=True, capture_output=True)
    return folder


def test_tfds_reads_array_record_without_tensorflow(prepared):
    path = str(prepared / "qa" / "1.0.0")
    done = subprocess.run(
        [sys.executable, "-c", READ, path], check=True, capture_output=True, text=True
    )
    found, where, tensorflow = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 4
    assert sorted(row["prompt"] for row in found) == sorted({row["prompt"] for row in found})
    assert all(row in DATA for row in found)
    assert where == f"{path}/train[:80%]:row 2"
    assert not tensorflow


def test_documents_of_a_folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("first\n", encoding="utf-8")
    (tmp_path / "deep" / "b.md").write_text("second é", encoding="utf-8")
    (tmp_path / "c.jsonl").write_text('{"text": "third"}\n{"text": 4}\n')
    found = documents.make(path=tmp_path)
    assert [row["text"] for row in found] == ["first\n", "third", 4, "second é"]
    with pytest.raises(ValueError, match=r"c\.jsonl:2: field 'text': got int 4"):
        rows.check(found, "text")


def test_document_that_is_not_utf8(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"fine\ncaf\xe9")
    (tmp_path / "b.txt").write_text("good")
    found = documents.make(path=tmp_path)
    with pytest.raises(ValueError, match=r"a\.txt:2: field 'text': got byte 0xe9.*iconv"):
        rows.check(found, "text")
    assert len(rows.check(found, "text", on_bad_row="skip")) == 1
