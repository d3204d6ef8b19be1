"""What a push leaves in a repository, and who is told no, and when."""

import pytest
from huggingface_hub import constants

from ftjax.core import hub_upload


@pytest.fixture
def folder(tmp_path):
    own = tmp_path / "export"
    own.mkdir()
    for name in ("README.md", "config.json", "model.safetensors"):
        (own / name).write_text(f"{name} of now")
    return own


def push(folder, text="me/name", **more):
    return hub_upload.push(folder, text, where="--push", **more)


def content(hub, id_="me/name"):
    return hub.find("model", id_, "main")[1]


def test_a_repository_is_made_and_holds_the_folder(stand_in, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", stand_in.token)
    assert hub_upload.check("me/name", where="--push") == "me"
    pushed = push(folder, private=True)
    assert content(stand_in) == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert stand_in.refs["model", "me/name", "main"] == pushed.commit
    assert pushed.url == f"{constants.ENDPOINT}/me/name"
    assert stand_in.private == {"me/name"}


def test_a_second_push_replaces_the_weights_and_leaves_the_rest(stand_in, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", stand_in.token)
    old = {"model-00001-of-00001.safetensors": b"1", "model.safetensors.index.json": b"{}"}
    stand_in.put("me/name", old | {"LICENSE": b"mine", "README.md": b"old"})
    push(folder)
    assert set(content(stand_in)) == {"LICENSE", "README.md", "config.json", "model.safetensors"}
    assert content(stand_in)["README.md"] == b"README.md of now"
    with pytest.raises(ValueError, match=r"--private: got a repository that is public"):
        push(folder, private=True)


def test_who_may_not_write_is_told_so_in_one_line(stand_in, folder, monkeypatch):
    with pytest.raises(ValueError, match=r"nobody is logged in; .*`hf auth login`, or HF_TOKEN"):
        hub_upload.check("me/name", where="--push")
    assert stand_in.requests == []
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ValueError, match=r"--push: got 'me/name'.*HF_TOKEN"):
        hub_upload.check("me/name", where="--push")
    monkeypatch.setenv("HF_TOKEN", stand_in.token)
    with pytest.raises(ValueError, match="could be written") as caught:
        push(folder, "others/name")
    assert "\n" not in str(caught.value)
    for wrong in ("name", "me/name@v1", "runs/a/b"):
        with pytest.raises(ValueError, match=r"--push: got"):
            hub_upload.check(wrong, where="--push")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"--push: got 'me/name', where nothing could be written"):
        hub_upload.check("me/name", where="--push")
