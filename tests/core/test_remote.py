"""Files at URLs, on fsspec's file system in memory: what is copied, and what is refused."""

import concurrent.futures
import pathlib

import pytest

from configs import common
from ftjax.core import remote
from ftjax.data.sources import csv, documents, jsonl
from ftjax.models.hf import digests
from ftjax.run import bases
from ftjax.run.artifacts import Artifacts


@pytest.fixture
def store(store, tmp_path, monkeypatch):
    """The empty store, and a cache folder of the test's own."""
    monkeypatch.setenv("FTJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield store
    assert not list(tmp_path.glob("*:*"))  # no folder is called `memory:`


def test_data_of_a_bucket_are_read_like_files(store):
    store.pipe({
        "/data/a.jsonl": b'{"text": "a"}\n', "/data/b.jsonl": b'{"text": "b"}\n[]\n',
        "/data/deep/c.txt": b"c", "/data/.hidden.jsonl": b"never", "/data/d.csv": b"text\nd\n",
    })  # fmt: skip
    texts = lambda rows: [row["text"] for row in rows]
    assert texts(jsonl.make(path="memory://data/a.jsonl")) == ["a"]
    found = jsonl.make(path="memory://data/*.jsonl")
    assert texts(found) == ["a", "b"]
    assert found.where(0).endswith("/data/a.jsonl:1")
    assert found.bad[0].where.endswith("/data/b.jsonl:2")
    assert texts(jsonl.make(path=["memory://data", "memory://data/a.jsonl"])) == ["a", "b", "a"]
    assert texts(csv.make(path="memory://data")) == ["d"]
    assert texts(documents.make(path="memory://data/deep")) == ["c"]


def test_a_file_is_copied_once_until_it_changes(store, monkeypatch):
    store.pipe("/a.txt", b"one")
    read = lambda: pathlib.Path(remote.find("memory://a.txt", (".txt",), where="x")[0])
    first = read()
    copied = []
    get = type(store).get_file
    monkeypatch.setattr(
        type(store), "get_file", lambda self, *a, **k: copied.append(a) or get(self, *a, **k)
    )
    assert read() == first
    assert copied == []
    store.pipe("/a.txt", b"two")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        copies = {pool.submit(read) for _ in range(4)}
    assert {each.result().read_bytes() for each in copies} == {b"two"}
    assert len(copied) == 1
    assert first.read_bytes() == b"one"


def test_without_a_cache_the_copies_go_with_the_process(store, monkeypatch, tmp_path):
    monkeypatch.setenv("FTJAX_CACHE", "")
    store.pipe("/a.txt", b"one")
    [found] = remote.find("memory://a.txt", (".txt",), where="x")
    assert not pathlib.Path(found).is_relative_to(tmp_path)
    assert pathlib.Path(found).read_bytes() == b"one"


def test_a_base_of_a_bucket_is_the_base(store, lab):
    for path in (lab.root / "base").iterdir():
        store.pipe(f"/bases/mine/{path.name}", path.read_bytes())
    store.pipe("/bases/mine/pytorch_model.bin", b"\x80\x04.")
    folder = bases.locate("memory://bases/mine")
    assert digests.fingerprint(folder) == digests.fingerprint(lab.root / "base")
    assert folder.name == "mine"  # what an export calls its base
    assert not (folder / "pytorch_model.bin").exists()
    assert bases.locate("memory://bases/mine/") == folder
    size = (lab.root / "base" / "model.safetensors").stat().st_size
    assert common.parameters("memory://bases/mine") == size // 2
    store.rm("/bases/mine/model.safetensors")
    with pytest.raises(ValueError, match=r"model.base: .*has no model.safetensors"):
        bases.locate("memory://bases/mine")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://absent/a.jsonl", "nothing there is one"),
        ("memory://absent/*.jsonl", "nothing there is one"),
        ("nosuch://a/b.jsonl", r"cannot be read \(Protocol not known: nosuch"),
        ("gs://bucket/b.jsonl", "gs:// is not installed; expected it; pip install gcsfs"),
    ],
)
def test_what_cannot_be_read_is_one_line(store, url, message):
    if url.startswith("gs:"):
        try:
            import gcsfs  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("gcsfs is installed")
    with pytest.raises(ValueError, match=message) as caught:
        jsonl.make(path=url)
    assert str(caught.value).startswith(f"data.path: got {url!r}")
    assert "\n" not in str(caught.value)


def test_a_base_that_is_not_there(store):
    store.pipe("/bases/bare/readme.txt", b"")
    with pytest.raises(ValueError, match=r"without config.json; .*it has readme.txt"):
        bases.locate("memory://bases/bare")
    with pytest.raises(ValueError, match=r"model.base: .*no such file or folder"):
        bases.locate("memory://bases/absent")


def test_nothing_is_written_to_a_url(store, lab):
    with pytest.raises(ValueError, match=r"--workdir: got 'gs:/+b/run'; .*gcsfuse.*rsync"):
        lab.run("run", pathlib.PurePosixPath("gs://b"))
    for workdir in ("gs://b/run", "s3://b/run", pathlib.Path("gs://b/run")):
        with pytest.raises(ValueError, match=r"--workdir: got '(gs|s3):/.*expected a directory"):
            Artifacts(workdir)
    for key in ("compile_cache", "reference.folder"):
        with pytest.raises(ValueError, match=f"{key}: got 'gs://b/c'; expected a directory"):
            lab.settings(**{key: "gs://b/c"})


@pytest.mark.parametrize(
    ("path", "is_url"),
    [("gs://b/x", True), ("gs:/b/x", True), ("s3://b", True), ("C:/x", False), ("a/b", False),
     ("/a:/b", False), ("~/x", False), (None, False), (["gs://x"], False)],
)  # fmt: skip
def test_what_is_a_url(path, is_url):
    assert remote.is_url(path) == is_url
