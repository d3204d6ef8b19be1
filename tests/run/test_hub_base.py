"""Bases of the Hub: which files come, at which commit, and what is said when they do not."""

import json
import shutil

import pytest
from huggingface_hub import constants

from configs import common
from ftjax.core import files, hub_client
from ftjax.models.hf import digests
from ftjax.run import bases, export_files, pins, reader
from ftjax.run.artifacts import Artifacts


def published(lab, **more):
    return {path.name: path for path in (lab.root / "base").iterdir()} | more


def test_a_base_comes_whole_and_nothing_else_does(lab, stand_in):
    more = {"pytorch_model.bin": b"\x80\x04.", "model.py": b"", "original/model.safetensors": b""}
    commit = stand_in.put("org/name", published(lab, **more))
    folder = bases.locate("org/name")
    assert folder.name == commit
    here = {path.name for path in (lab.root / "base").iterdir()}
    assert {path.name for path in folder.iterdir()} == here
    assert digests.fingerprint(folder) == digests.fingerprint(lab.root / "base")


def test_weights_are_those_of_the_index(lab, stand_in):
    index = json.dumps({"weight_map": {"a": "part-1.safetensors"}}).encode()
    more = {
        "model.safetensors.index.json": index, "part-1.safetensors": b"1",
        "consolidated.safetensors": b"2",
    }  # fmt: skip
    stand_in.put("org/name", published(lab, **more))
    names = {path.name for path in bases.locate("org/name").glob("*.safetensors")}
    assert names == {"part-1.safetensors"}


def test_the_second_time_nothing_is_loaded(lab, stand_in):
    commit = stand_in.put("org/name", published(lab))
    bases.locate(f"org/name@{commit}")
    stand_in.requests.clear()
    bases.locate(f"org/name@{commit}")
    assert stand_in.requests == []


def test_the_learning_rate_follows_the_size_before_anything_is_loaded(lab, stand_in):
    weights = bytes(4_000)
    stand_in.put("org/name", published(lab, **{"model.safetensors": weights, "model.bin": weights}))
    assert common.parameters("org/name") == 2_000
    assert not any("safetensors" in request for request in stand_in.requests)


def test_revisions_are_told_apart(lab, stand_in):
    first = stand_in.put("org/name", published(lab), ref="v1")
    second = stand_in.put("org/name", published(lab, LICENSE=b"new"))
    assert first != second
    assert bases.locate("org/name@v1").name == first
    assert bases.locate("org/name").name == second


def test_offline_the_cache_is_read(lab, stand_in, monkeypatch):
    commit = stand_in.put("org/name", published(lab))
    whole = bases.locate("org/name")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    stand_in.requests.clear()
    assert bases.locate("org/name") == whole
    assert hub_client.commit("org/name", where="model.base") == commit
    with pytest.raises(ValueError, match=r"model.base: got 'org/other'.*HF_HUB_OFFLINE is set"):
        bases.locate("org/other")
    (whole / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"not \(whole\) in the cache"):
        bases.locate("org/name")
    assert stand_in.requests == []


def test_what_cannot_be_had_is_one_line(lab, stand_in, monkeypatch):
    stand_in.put("org/name", published(lab))
    stand_in.put("org/gated", published(lab))
    stand_in.locked.add(("model", "org/gated"))
    config = (lab.root / "base" / "config.json").read_bytes()
    stand_in.put("org/old", {"config.json": config, "pytorch_model.bin": b"\x80\x04."})
    stand_in.put("org/bare", {"config.json": config})
    stand_in.put("org/adapter", {"adapter_config.json": b"{}"})
    wrong = {
        "org/absent": r"no folder here, and no model at .*org/absent.*log in: `hf auth login`",
        "org/gated": r"is gated; .*ask for it at .*org/gated, then log in: .*HF_TOKEN",
        "org/name@v7": r"no revision 'v7'",
        "org/old": r"pickled \(pytorch_model.bin\); expected safetensors",
        "org/bare": r"has no model.safetensors",
        "org/adapter": r"without config.json.*adapter_from",
    }
    for base, message in wrong.items():
        with pytest.raises(ValueError, match=message) as caught:
            bases.locate(base)
        assert "\n" not in str(caught.value), base
        assert str(caught.value).startswith("model.base: got "), base
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ValueError, match="another token than the present one"):
        bases.locate("org/gated")
    monkeypatch.setenv("HF_TOKEN", stand_in.token)
    assert bases.locate("org/gated").is_dir()


def test_a_tokenizer_and_an_adapter_come_too_and_stay_at_their_commit(
    lab, stand_in, tmp_path, use_devices
):
    use_devices(1)
    own = lab.run("own", tmp_path) / "export"
    adapter = {name: own / name for name in ("adapter_config.json", "adapter_model.safetensors")}
    first = stand_in.put("org/adapter", adapter | {"training_args.bin": b"\x80"})
    tokens = stand_in.put("org/tokens", published(lab))
    keys = dict(adapter_from="org/adapter", tokenizer="org/tokens", steps=1)
    workdir = lab.run("next", tmp_path, **keys)
    config = json.loads((workdir / "config.json").read_text())
    assert config["adapter_from"] == f"org/adapter@{first}"
    assert config["tokenizer"] == f"org/tokens@{tokens}"
    assert not any("training_args" in request for request in stand_in.requests)
    # Weights of the repository are not asked for where its tokenizer alone is.
    assert not any("org/tokens" in r and "model.safetensors" in r for r in stand_in.requests)
    same = lab.run("same", tmp_path, **keys | dict(adapter_from=str(own), tokenizer=""))
    weights = [(w / "export" / "adapter_model.safetensors").read_bytes() for w in (workdir, same)]
    assert weights[0] == weights[1]
    stand_in.put("org/adapter", {"adapter_config.json": b"{}"})
    assert reader.parts_of(workdir).settings.adapter_from == f"org/adapter@{first}"
    with pytest.raises(ValueError, match=r"adapter_from: .*has no adapter_model.safetensors"):
        bases.adapter("org/adapter")


def test_nobody_answers(lab, stand_in, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"expected an answer of http://127.0.0.1:9"):
        hub_client.commit("org/name", where="model.base")


@pytest.mark.parametrize(
    ("text", "repo"),
    [
        ("org/name", ("org/name", "")),
        ("Org-1/na.me@refs/pr/2", ("Org-1/na.me", "refs/pr/2")),
        ("./org/name", None), ("/org/name", None), ("../name", None), ("a/b/c", None),
        ("gs://org/name", None), ("name", None), ("org/", None),
    ],
)  # fmt: skip
def test_names_of_repositories(text, repo):
    assert hub_client.parse(text) == repo


def test_pins_are_kept_and_free_of_the_branch(lab, stand_in, tmp_path):
    first = stand_in.put("org/name", published(lab))
    settings = lab.settings(**{"model.base": "org/name"})
    own = Artifacts(tmp_path)
    pinned = pins.pin(settings, own)
    assert pinned.model.base == pinned.plain["model"]["base"] == f"org/name@{first}"
    second = stand_in.put("org/name", published(lab, LICENSE=b"new"))
    assert pins.pin(settings, own).model.base == f"org/name@{first}"
    assert pins.pin(pinned, own).plain == pinned.plain
    assert pins.pin(settings, Artifacts(tmp_path / "b")).model.base == f"org/name@{second}"
    assert pins.pin(lab.settings(), own).plain == lab.settings().plain


def test_the_first_process_decides_what_is_a_repository(lab, stand_in, tmp_path, monkeypatch):
    settings = lab.settings(**{"model.base": "org/name"})
    monkeypatch.setattr(pins.processes, "on_first", lambda make: {})  # it has a folder of that name
    assert pins.pin(settings, Artifacts(tmp_path)) is settings
    assert stand_in.requests == []


def test_pins_reach_every_place_of_a_config(lab, stand_in, tmp_path):
    data = stand_in.put("org/set", {"train.jsonl": b"{}"}, kind="dataset")
    source = dict(name="hub", path="org/set", max_tokens=64)
    mixed = dict(name="mixture", parts=[dict(source, weight=1.0)], max_tokens=64)
    settings = lab.settings(data=mixed, evals={"held": dict(name="nll", data=dict(source))})
    plain = pins.pin(settings, Artifacts(tmp_path)).plain
    assert plain["data"]["parts"][0]["path"] == f"org/set@{data}"
    assert plain["evals"]["held"]["data"]["path"] == f"org/set@{data}"


def test_a_run_goes_on_from_the_commits_that_it_began_with(lab, stand_in, tmp_path):
    rows = (lab.root / "rows.jsonl").read_bytes()
    base = stand_in.put("org/name", published(lab))
    data = stand_in.put("org/set", {"train.jsonl": rows}, kind="dataset")
    own = dict(name="hub", path="org/set", kind="prompt", max_tokens=64, packing="none")
    changes = {"model.base": "org/name", "data": own, "checkpoint.every_steps": 1}
    work = lab.run("work", tmp_path, **changes, steps=2)
    other = shutil.copytree(lab.root / "base", tmp_path / "other")
    config = files.read_json(other / "config.json")
    files.write_json(other / "config.json", config | {"rms_norm_eps": 0.1})
    stand_in.put("org/name", {path.name: path for path in other.iterdir()})
    stand_in.put("org/set", {"train.jsonl": rows[:-1000]}, kind="dataset")
    shutil.rmtree(work / "checkpoints" / "2")  # as of a run that was killed after its first step
    lab.run("work", tmp_path, **changes, steps=2)
    kept = files.read_json(work / "config.json")
    assert kept["model"]["base"] == f"org/name@{base}"
    assert kept["data"]["path"] == f"org/set@{data}"
    parts = reader.parts_of(work)
    assert parts.source.name == base
    assert export_files.base_name(parts) == "org/name"
