"""Data sets of a stand-in for the Hub: which files a split is, and how they are read."""

import gzip
import json

import pytest
from huggingface_hub import constants

from ftjax.data import cache, hub_splits, prepare
from ftjax.data.sources import hub

ROWS = [{"prompt": f"{i}?", "response": f" {i}"} for i in range(3)]
CONFIGS = b"""---
license: mit
configs:
- config_name: main
  default: true
  data_files:
  - split: train
    path: "main/part-*.jsonl"
  - split: held
    path: ["main/held.jsonl", "more/**"]
- config_name: small
  data_dir: little
---
# A set
"""


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def choose(names, readme="", *, split="train", subset="", pattern=""):
    own = dict(split=split, subset=subset, pattern=pattern, where="data.path")
    return hub_splits.choose(names, readme, **own)


def test_rows_of_json_lines_and_csv(stand_in):
    stand_in.put("org/set", {"train.jsonl.gz": gzip.compress(lines(*ROWS))}, kind="dataset")
    stand_in.put("org/table", {"data/test.csv": b"prompt,response\na,b\n"}, kind="dataset")
    rows = hub.make(path="org/set")
    assert list(rows) == ROWS
    assert rows.where(1).endswith("train.jsonl.gz:2")
    assert list(hub.make(path="org/table", split="test")) == [dict(prompt="a", response="b")]
    with pytest.raises(ValueError, match=r"data.columns: .*Parquet alone"):
        hub.make(path="org/set", columns=("prompt",))


def test_rows_of_parquet_shards_in_order(stand_in, tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    shards = {}
    for n, row in enumerate(ROWS):
        parquet.write_table(arrow.Table.from_pylist([row]), tmp_path / f"{n}")
        shards[f"data/train-{n:05d}-of-00003.parquet"] = tmp_path / f"{n}"
    stand_in.put("org/set", {**shards, "data/test-00000-of-00001.parquet": b""}, kind="dataset")
    assert list(hub.make(path="org/set")) == ROWS
    assert list(hub.make(path="org/set", columns=("prompt",)))[2] == {"prompt": "2?"}
    assert not any("test" in request for request in stand_in.requests)


def test_a_revision_offline_and_the_cache_of_encoded_rows(stand_in, bpe, monkeypatch, tmp_path):
    monkeypatch.setenv("FTJAX_CACHE", str(tmp_path / "cache"))
    first = stand_in.put("org/set", {"train.jsonl": lines(*ROWS)}, kind="dataset", ref="v1")
    stand_in.put("org/set", {"train.jsonl": lines(ROWS[0])}, kind="dataset")
    given = dict(tokenizer=bpe, name="hub", max_tokens=32)
    assert prepare.load(path="org/set@v1", **given).rows == 3
    assert prepare.load(path="org/set", **given).rows == 1
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert prepare.load(path=f"org/set@{first}", **given).rows == 3
    assert len(list((tmp_path / "cache" / "encoded").iterdir())) == 3  # paths name the revision
    with pytest.raises(ValueError, match=r"data.path: got 'org/absent'.*HF_HUB_OFFLINE"):
        cache.files_of("hub", dict(path="org/absent"))


def test_what_is_wrong_with_a_path(stand_in):
    stand_in.put("org/script", {"script.py": b"", "README.md": b"# A"}, kind="dataset")
    wrong = {
        "org/absent": r"no dataset at .*datasets/org/absent",
        "a/b/c": "expected a repository of the Hub",
        "org/script": r"without data files \(README.md, script.py\).*refs/convert/parquet",
    }
    for path, message in wrong.items():
        with pytest.raises(ValueError, match=message) as caught:
            hub.make(path=path)
        assert str(caught.value).startswith("data.path: got "), path
    with pytest.raises(ValueError, match=r"data.pattern: .*one or the other"):
        hub.make(path="org/script", pattern="*", split="train")


@pytest.mark.parametrize(
    ("names", "split", "found"),
    [
        ("data/train-00000-of-00001.parquet data/test-00000-of-00001.parquet", "test", "1"),
        ("data/train_sft-00000-of-00001.parquet data/test_sft-00000-of-00001.parquet",
         "train_sft", "0"),
        ("train.jsonl dev.jsonl test.jsonl", "validation", "1"),
        ("a/train.json a/test.json", "train", "0"),
        ("train/a.csv train/b.csv test/a.csv", "train", "0 1"),
        ("default/train/0000.parquet default/test/0000.parquet", "test", "1"),
        ("first.jsonl second.jsonl README.md dataset_infos.json", "train", "0 1"),
        ("train.jsonl extra.jsonl", "extra", "1"),
        ("my-training.jsonl latest.jsonl", "train", "0"),
    ],
)  # fmt: skip
def test_splits_by_names(names, split, found):
    names = names.split()
    assert choose(names, split=split) == [names[int(n)] for n in found.split()]


def test_splits_by_the_readme():
    names = ["main/part-1.jsonl", "main/held.jsonl", "more/x/y.jsonl", "little/test.jsonl"]
    readme = CONFIGS.decode()
    assert choose(names, readme) == names[:1]
    assert choose(names, readme, split="held") == names[1:3]
    assert choose(names, readme, subset="small", split="test") == names[3:]
    with pytest.raises(ValueError, match=r"data.split: got 'hold'; expected one of held, train;"):
        choose(names, readme, split="hold")
    with pytest.raises(ValueError, match=r"data.subset: got 'smal'; expected one of main, small"):
        choose(names, readme, subset="smal")
    with pytest.raises(ValueError, match=r"README.md whose head cannot be read.*data.pattern"):
        choose(names, "---\nconfigs: [\n---\n")


def test_what_is_not_clear_is_asked():
    with pytest.raises(ValueError, match=r"data.split: got 'tran'; .*did you mean 'train'"):
        choose(["train.jsonl", "test.jsonl"], split="tran")
    with pytest.raises(ValueError, match=r"data.subset: got none.*harmless, helpful.*data.pattern"):
        choose(["harmless/train.jsonl", "helpful/train.jsonl"])
    with pytest.raises(ValueError, match=r"as .jsonl and as .parquet.*data.pattern"):
        choose(["train.jsonl", "data/train.parquet"])
    both = ["harmless/train.jsonl", "helpful/train.jsonl"]
    assert choose(both, subset="helpful") == both[1:]
    assert choose(both, pattern="*/train.jsonl") == both
    with pytest.raises(ValueError, match=r"data.pattern: got '\*.csv', which no file matches"):
        choose(both, pattern="*.csv")


@pytest.mark.parametrize(
    ("name", "pattern", "fits"),
    [
        ("a/b.csv", "*.csv", False), ("a/b.csv", "**/*.csv", True), ("b.csv", "**/*.csv", True),
        ("a/b.csv", "a", True), ("ab.csv", "a", False), ("a1.csv", "a[0-9].csv", True),
        ("a1.csv", "./a?.csv", True), ("a.csv", "a?csv", True), ("axcsv", "a.csv", False),
    ],
)  # fmt: skip
def test_patterns(name, pattern, fits):
    assert hub_splits.matches(name, pattern) == fits
