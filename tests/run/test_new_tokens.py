"""New tokens of a run: where their rows start, what trains, and what goes out."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.adapters.peft import io as peft
from ftjax.core import files
from ftjax.data import tokenizer_files
from ftjax.models.families import llama
from ftjax.models.hf import checkpoint
from ftjax.run import build as setup
from ftjax.run import export, new_tokens, plan, reader
from tests.lab import ASSETS, CONFIG, train

NEW = ("<tool>", "</tool>")
IDS = (CONFIG.vocab_size, CONFIG.vocab_size + 1)
ROWS = "token_adapter.trainable_tokens_delta"


def changes(lab, **more):
    return {"data": lab.rows(max_tokens=64, packing="none", new_tokens=NEW)} | more


def file_of(folder, name="adapter_model.safetensors"):
    with files.open_tensors(folder / name) as handle:
        return {name: handle.get_slice(name)[:] for name in handle.keys()}  # noqa: SIM118


def logits(model, params):
    tokens = jnp.array([[5, IDS[0], 9, IDS[1]]])
    at = jnp.arange(4)[None]
    where = dict(positions_BT=at, segments_BT=jnp.ones_like(at), adapters=params["adapters"])
    x = model.hidden(params["model"], tokens, **where)
    return np.asarray(model.logits(params["model"], x, adapters=params["adapters"]))


def untied(folder):
    """A base with a head of its own."""
    config = dataclasses.replace(CONFIG, tied=False)
    params = llama.make(config).init(jax.random.key(1))
    checkpoint.save(folder, params, family=llama, config=config)
    for file in ASSETS.glob("tokenizer*.json"):
        shutil.copy(file, folder)
    return folder


def test_rows_start_as_the_mean_of_the_tokenizers_own():
    mesh = jax.make_mesh((1, 1, 1, 1), ("data", "fsdp", "expert", "tensor"))
    old = np.arange(12.0, dtype=np.float32).reshape(6, 2)
    given = {"embed": jnp.asarray(old), "final_norm": jnp.ones(2)}
    # Two rows have no token yet: one more row is enough for three tokens.
    found = new_tokens.start(given, (4, 5, 6), mesh=mesh)
    np.testing.assert_array_equal(found["embed"][:4], old[:4])
    np.testing.assert_array_equal(found["embed"][4:], [old[:4].mean(0)] * 3)
    assert found["final_norm"] is given["final_norm"]
    # Rows beyond the new tokens stay as they are.
    found = new_tokens.start(given, (4,), mesh=mesh)
    np.testing.assert_array_equal(np.delete(found["embed"], 4, 0), np.delete(old, 4, 0))


@pytest.fixture(scope="module")
def workdir(lab, tmp_path_factory):
    """A finished run of an adapter with new tokens."""
    return lab.run("run", tmp_path_factory.mktemp("new"), **changes(lab))


@pytest.fixture(scope="module")
def run(workdir):
    return reader.load(workdir)


def test_a_run_keeps_its_tokens_whatever_the_data(lab, workdir):
    other = lab.settings(**changes(lab, **{"data.new_tokens": ("<a>", "<b>")}))
    with pytest.raises(ValueError, match="frozen/new_tokens"):
        train(other, workdir, restart_data=True)


def test_beside_an_adapter_the_new_rows_alone_train(run, lab):
    base = run.params["model"]["embed"]
    old = checkpoint.load(lab.root / "base", run.parts.base, names=llama.NAMES)["embed"]
    np.testing.assert_array_equal(base[: IDS[0]], old)
    np.testing.assert_allclose(base[IDS[0] :], [np.asarray(old).mean(0)] * 2, atol=1e-6)
    rows = run.params["adapters"]["embed"]
    assert rows.ids.tolist() == list(IDS)
    assert np.abs(rows.rows - base[IDS[0] :]).min(1).max() > 1e-3


def test_the_adapter_goes_out_as_peft_has_it(run, tmp_path):
    parts, folder = run.parts, tmp_path / "out"
    assert export.write(parts, run.params, folder) == "adapter"
    config = json.loads((folder / peft.CONFIG).read_text())
    assert config["trainable_token_indices"] == list(IDS)
    stored = file_of(folder)[f"base_model.model.model.embed_tokens.{ROWS}"]
    np.testing.assert_array_equal(stored, run.params["adapters"]["embed"].rows)
    tokenizer = tokenizer_files.load(folder)
    assert tuple(map(tokenizer.token_id, NEW)) == IDS
    card = (folder / "README.md").read_text()
    assert f"model.resize_token_embeddings({IDS[1] + 1})\nmodel = PeftModel" in card
    assert "vLLM applies no such adapter" in card
    how = dict(names=parts.family.NAMES)
    again = peft.load(folder, linears=parts.model.linears, **how)["embed"]
    np.testing.assert_array_equal(again.rows, stored)
    assert again.ids.tolist() == list(IDS)
    with pytest.raises(ValueError, match=rf"got the token {IDS[1]} for a base of {IDS[0]} tokens"):
        peft.load(folder, linears=parts.base.linears, **how)


def test_a_model_goes_out_with_its_size(run, tmp_path):
    export.write(run.parts, run.params, tmp_path / "out", form="model")
    family, config = checkpoint.config_of(tmp_path / "out")
    assert config.vocab_size == IDS[1] + 1
    model = family.make(config)
    params = {"model": checkpoint.load(tmp_path / "out", model, names=family.NAMES)}
    wanted = logits(run.parts.model, run.params)
    np.testing.assert_allclose(logits(model, params | {"adapters": None}), wanted, atol=1e-4)


def test_a_head_of_its_own_has_such_rows_too(lab, tmp_path):
    base = {"model.base": str(untied(tmp_path / "base"))}
    parts = setup.build(lab.settings(**changes(lab, **base)))
    params = setup.weights(parts)
    head = dataclasses.replace(params["adapters"]["head"], rows=jnp.ones((2, CONFIG.dim)))
    moved = lambda leaf: leaf + jnp.asarray(0.1, leaf.dtype) if leaf.ndim > 1 else leaf
    params["adapters"] = jax.tree.map(moved, params["adapters"]) | {"head": head}
    export.write(parts, params, tmp_path / "out")
    config = json.loads((tmp_path / "out" / peft.CONFIG).read_text())
    assert config["trainable_token_indices"] == {"embed_tokens": list(IDS), "lm_head": list(IDS)}
    stored = file_of(tmp_path / "out")
    np.testing.assert_array_equal(stored[f"base_model.model.lm_head.{ROWS}"], head.rows)
    # From a run of the same tokens it goes on; from one of others it does not.
    start = lab.settings(**changes(lab, adapter_from=str(tmp_path / "out"), **base))
    found = setup.weights(setup.build(start))
    np.testing.assert_array_equal(logits(parts.model, found), logits(parts.model, params))


def test_a_quantised_head_is_refused(lab, tmp_path):
    more = {"model.base": str(untied(tmp_path / "base"))}
    more |= {"model.quantize": dict(name="int8", where="**")}
    with pytest.raises(ValueError, match="a quantised head; expected it in full"):
        setup.build(lab.settings(**changes(lab, **more)))


def test_data_are_encoded_with_them_beside_evaluations(lab, tmp_path):
    rows = [dict(prompt="Q:", response=f" {NEW[0]}{i}{NEW[1]}") for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    where = dict(path=str(tmp_path / "rows.jsonl"))
    task = dict(name="nll", group="new", data=lab.rows(max_tokens=64) | where, rows=8)
    chosen = changes(lab, **{"data.path": where["path"], "evals.task": task})
    found = plan.plan(lab.settings(**chosen))
    tokens = np.asarray(found.loader.data.store.tokens).tolist()
    assert [i for i in tokens if i in IDS] == list(IDS) * len(rows)


def test_without_an_adapter_the_model_trains_whole(lab):
    none = dict(name="", where="blocks/**")
    parts = setup.build(lab.settings(**changes(lab, adapter=none)))
    assert (parts.trained_rows, parts.new_ids) == ({}, IDS)
    assert setup.weights(parts)["model"]["embed"].shape == (IDS[1] + 1, CONFIG.dim)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (dict(trainable="adapters/blocks/**"), "whose rows of embed do not train"),
        (dict(adapter=dict(name="prompt", where="", tokens=2)), "changes no weight"),
        ({"adapter.where": ("embed", "blocks/**")}, "leave 'embed' out of adapter.where"),
        (dict(data=dict(name="embedded", new_tokens=3)), r"data\.new_tokens: got 3"),
    ],
)
def test_what_is_refused(lab, more, message):
    with pytest.raises(ValueError, match=message):
        _ = setup.build(lab.settings(**changes(lab, **more))).abstract
