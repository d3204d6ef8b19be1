"""What leaves the house: a fresh process reads it and computes the same logits."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models

from ftjax.adapters.lib import protocol
from ftjax.adapters.peft import io as peft
from ftjax.core import tree
from ftjax.data import tokenizer_files
from ftjax.models.hf import checkpoint as hf
from ftjax.run import bases, export_files, prompting
from ftjax.run import build as setup
from ftjax.run import config as settings
from ftjax.run import export as exporting
from tests import stand_in_hub
from tests.lab import ROOT, environment

TOKENS = np.arange(1, 25, dtype=np.int32).reshape(2, 12)
READ = """
import pathlib, sys
import jax, jax.numpy as jnp, numpy as np
from ftjax.adapters.peft import io as peft
from ftjax.core import tree
from ftjax.models.hf import checkpoint as hf
from tests.experiments.test_export import logits

jax.config.update("jax_default_matmul_precision", "highest")
root, base, *names = sys.argv[1:]
found = {}
for folder in map(pathlib.Path(root).joinpath, names):
    adapted = (folder / peft.CONFIG).is_file()
    source = base if adapted else folder
    family, config = hf.config_of(source)
    model = family.make(config)
    params = {"model": hf.load(source, model, names=family.NAMES), "adapters": None}
    if adapted:
        how = dict(linears=model.linears, names=family.NAMES)
        params["adapters"] = peft.load(folder, **how)
    found[folder.name] = logits(model, params)
np.savez(f"{root}/logits.npz", **found)
"""


def logits(model, params):
    at = jnp.broadcast_to(jnp.arange(TOKENS.shape[1]), TOKENS.shape)

    def run(params):
        where = dict(positions_BT=at, segments_BT=jnp.ones_like(at), adapters=params["adapters"])
        x = model.hidden(params["model"], TOKENS, **where)
        return model.logits(params["model"], x, adapters=params["adapters"])

    return np.asarray(jax.jit(run)(params))


def drawn(lab, **changes):
    """The parts of a run, and weights as after training: nothing is zero any more."""
    parts = setup.build(lab.settings(**changes))
    params, draw = setup.weights(parts), np.random.default_rng(5).normal
    move = lambda leaf: jnp.asarray(np.asarray(leaf) + draw(0, 0.1, leaf.shape), leaf.dtype)
    part = "adapters" if parts.method else "model"
    return parts, params | {part: jax.tree.map(move, params[part])}


@pytest.fixture(scope="module")
def written(lab, tmp_path_factory):
    """Every kind of export, what it should compute, and what a fresh process computes from it."""
    root, wanted = tmp_path_factory.mktemp("exports"), {}
    dora = dict(name="dora", where="blocks/attn/*", rank=2, alpha=4.0)
    for name, options, changes in (
        ("lora", {}, {}),
        ("merged", dict(form="model", max_shard_gb=1e-4), {}),
        ("dora", {}, {"adapter": dora}),
        ("dora_merged", dict(form="model"), {"adapter": dora}),
        ("full", {}, {"adapter.name": ""}),
        ("qlora_merged", dict(form="model"), {"model.quantize.name": "nf4"}),
    ):
        parts, params = drawn(lab, **changes)
        exporting.write(parts, params, root / name, **options)
        wanted[name] = logits(parts.model, params)
    base = lab.root / "base"
    command = [sys.executable, "-c", READ, root, base, *wanted]
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with np.load(root / "logits.npz") as file:
        return root, wanted, dict(file)


@pytest.mark.parametrize("name", ["lora", "dora", "full"])
def test_a_fresh_process_computes_the_same(written, name):
    _, wanted, found = written
    np.testing.assert_array_equal(found[name], wanted[name])


@pytest.mark.parametrize("name", ["merged", "dora_merged", "qlora_merged"])
def test_a_merged_model_computes_what_the_adapter_did(written, name):
    _, wanted, found = written
    np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-4)
    assert np.abs(wanted[name] - wanted["full"]).max() > 0.1


def test_a_model_comes_with_all_that_transformers_reads(written, lab):
    root = written[0] / "merged"
    index = json.loads((root / hf.INDEX).read_text())
    shards = set(index["weight_map"].values())
    assert len(shards) > 1
    assert {path.name for path in root.glob("*.safetensors")} == shards
    assert index["metadata"]["total_size"] == sum(
        tensor.nbytes for name in shards for tensor in load_file(root / name).values()
    )
    for path in (lab.root / "base").glob("tokenizer*.json"):
        assert (root / path.name).read_bytes() == path.read_bytes()
    config = json.loads((root / hf.CONFIG).read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]


def test_merging_rounds_once(lab, tmp_path):
    parts, params = drawn(lab)
    half = params | {"model": jax.tree.map(lambda x: x.astype(jnp.bfloat16), params["model"])}
    exporting.write(parts, half, tmp_path / "bf16", form="model", dtype="bfloat16")
    exporting.write(parts, half, tmp_path / "f32", form="model", dtype="float32")
    rounded, exact = (load_file(tmp_path / name / hf.WEIGHTS) for name in ("bf16", "f32"))
    for name, tensor in exact.items():
        assert (tensor.dtype, rounded[name].dtype) == (np.float32, jnp.bfloat16)
        np.testing.assert_array_equal(rounded[name], tensor.astype(jnp.bfloat16), err_msg=name)
    site = "model.layers.0.mlp.up_proj.weight"
    assert (exact[site] != exact[site].astype(jnp.bfloat16)).any()


def test_norms_that_train_go_with_the_adapter(lab, tmp_path):
    parts, params = drawn(lab, trainable=("adapters/**", "model/**norm"))
    moved = lambda path, leaf: leaf + 0.5 if path.endswith("norm") else leaf
    params["model"] = tree.map_with_paths(moved, params["model"])
    assert exporting.write(parts, params, tmp_path / "out") == "adapter"
    config = json.loads((tmp_path / "out" / peft.CONFIG).read_text())
    assert config["modules_to_save"] == ["norm"]
    start = setup.weights(setup.build(lab.settings(adapter_from=str(tmp_path / "out"))))
    jax.tree.map(np.testing.assert_array_equal, start["model"], params["model"])
    jax.tree.map(np.testing.assert_array_equal, start["adapters"], params["adapters"])


def test_what_peft_cannot_have_is_merged(lab, tmp_path, capsys):
    changes = dict(trainable=("adapters/**", "model/blocks/attn/q"))
    parts, params = drawn(lab, **changes)
    assert exporting.write(parts, params, tmp_path / "out") == "model"
    assert "which have an adapter too" in capsys.readouterr().err
    family, config = hf.config_of(tmp_path / "out")
    model = family.make(config)
    merged = {"model": hf.load(tmp_path / "out", model, names=family.NAMES), "adapters": None}
    np.testing.assert_allclose(logits(model, merged), logits(parts.model, params), atol=1e-4)
    with pytest.raises(ValueError, match="which have an adapter too"):
        exporting.write(parts, params, tmp_path / "other", form="adapter")
    assert not (tmp_path / "other").exists()


def test_token_ids_of_the_base_come_along(lab, tmp_path):
    shutil.copytree(lab.root / "base", tmp_path / "base")
    config = json.loads((tmp_path / "base" / hf.CONFIG).read_text())
    more = {"eos_token_id": [7, 9]}
    (tmp_path / "base" / hf.CONFIG).write_text(json.dumps(config | more))
    (tmp_path / "base" / "generation_config.json").write_text('{"top_k": 5}')
    parts, params = drawn(lab, **{"model.base": str(tmp_path / "base"), "adapter.name": ""})
    exporting.write(parts, params, tmp_path / "out")
    found = json.loads((tmp_path / "out" / hf.CONFIG).read_text())
    ends = [parts.tokenizer.eos_id, 7, 9, parts.tokenizer.token_id("<|im_end|>")]
    assert found["eos_token_id"] == ends
    assert found["pad_token_id"] == parts.tokenizer.pad_id
    assert found["bos_token_id"] == parts.tokenizer.bos_id
    of_generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert of_generation == {
        "top_k": 5, **{key: found[key] for key in of_generation if key != "top_k"}
    }  # fmt: skip
    assert of_generation["eos_token_id"] == ends


@pytest.mark.parametrize("case", ["lora_all_linear", "dora"])
def test_names_and_fields_are_those_of_peft(golden, lab, tmp_path, case):
    folder, base = golden / "adapters" / case, golden / "models" / "llama"
    config = json.loads((folder / peft.CONFIG).read_text())
    words = {f"w{i}": i for i in range(8)}
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(tmp_path / "tokenizer.json"))
    method = dict(
        name="dora" if config["use_dora"] else "lora", where="blocks/**", rank=config["r"],
        alpha=float(config["lora_alpha"]),
    )  # fmt: skip
    changes = {"tokenizer": str(tmp_path / "tokenizer.json"), "adapter": method}
    parts = setup.build(lab.settings(**{"model.base": str(base)} | changes))
    how = dict(linears=parts.model.linears, names=parts.family.NAMES)
    params = {"model": {}, "adapters": peft.load(folder, **how)}
    assert protocol.sites(params["adapters"])
    exporting.write(parts, params, tmp_path / "out")
    found, wanted = (load_file(where / peft.WEIGHTS) for where in (tmp_path / "out", folder))
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)
    written = json.loads((tmp_path / "out" / peft.CONFIG).read_text())
    assert written.keys() <= config.keys()
    assert written["base_model_name_or_path"] == "llama"
    for key in ("peft_type", "r", "lora_alpha", "use_dora", "use_rslora", "fan_in_fan_out"):
        assert written[key] == config[key], key
    candidates = peft.modules(**how)
    means = lambda where: {m.name for m in peft.settings_of(where).targeted(candidates)}
    assert means(tmp_path / "out") == means(folder)


TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}: {{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}"
)


@pytest.mark.parametrize("form", ["adapter", "model"])
def test_the_template_of_the_training_goes_out(lab, tmp_path, form):
    (tmp_path / "mine.jinja").write_text(TEMPLATE)
    template = {"data.chat_template": str(tmp_path / "mine.jinja")}
    parts, params = drawn(lab, **template)
    exporting.write(parts, params, tmp_path / "out", form=form)
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == TEMPLATE
    again = tokenizer_files.load(tmp_path / "out")
    assert again.chat_template == TEMPLATE != parts.tokenizer.chat_template
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["chat_template"] == TEMPLATE
    assert again.encode("<|im_end|> it is") == parts.tokenizer.encode("<|im_end|> it is")
    assert set(prompting.stop_ids(again)) == set(
        prompting.stop_ids(parts.tokenizer, parts.settings.data)
    )


def test_a_tokenizer_alone_goes_out_under_the_usual_name(lab, tmp_path):
    shutil.copy(lab.root / "base" / "tokenizer.json", tmp_path / "mine.json")
    parts, params = drawn(lab, tokenizer=str(tmp_path / "mine.json"))
    exporting.write(parts, params, tmp_path / "out")
    again = tokenizer_files.load(tmp_path / "out")
    assert (again.bos_id, again.eos_id) == (parts.tokenizer.bos_id, parts.tokenizer.eos_id)


def test_no_path_of_this_machine_goes_out(lab, tmp_path):
    parts, params = drawn(lab)
    exporting.write(parts, params, tmp_path / "out")
    config = json.loads((tmp_path / "out" / peft.CONFIG).read_text())
    assert config["base_model_name_or_path"] == "base"
    for path in (tmp_path / "out").iterdir():
        assert str(lab.root).encode() not in path.read_bytes(), path.name


def test_the_base_goes_out_under_the_name_that_is_set(lab, tmp_path):
    parts, params = drawn(lab, **{"export.base_name": "org/name"})
    exporting.write(parts, params, tmp_path / "out")
    config = json.loads((tmp_path / "out" / peft.CONFIG).read_text())
    assert config["base_model_name_or_path"] == "org/name"
    assert "base_model: org/name\n" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(ValueError, match=r"export\.base_name: got '/x/y', a path of this machine"):
        lab.settings(**{"export.base_name": "/x/y"})


def test_a_base_in_the_cache_of_a_hub_has_its_id(lab, tmp_path):
    folder = tmp_path / "models--org--some-name" / "snapshots" / "0123abc"
    shutil.copytree(lab.root / "base", folder)
    parts = setup.build(lab.settings(**{"model.base": str(folder)}))
    assert export_files.base_name(parts) == "org/some-name"


def test_an_adapter_on_a_tied_embedding_goes_out_merged(lab, tmp_path, capsys):
    where = dict(name="lora", where=("embed", "blocks/attn/q"), rank=2, alpha=4.0)
    parts, params = drawn(lab, adapter=where)
    assert exporting.write(parts, params, tmp_path / "out") == "model"
    assert "an embedding that is the output head too" in capsys.readouterr().err
    family, config = hf.config_of(tmp_path / "out")
    model = family.make(config)
    merged = {"model": hf.load(tmp_path / "out", model, names=family.NAMES), "adapters": None}
    np.testing.assert_allclose(logits(model, merged), logits(parts.model, params), atol=1e-4)
    with pytest.raises(ValueError, match="an embedding that is the output head too"):
        exporting.write(parts, params, tmp_path / "other", form="adapter")


def export(*arguments, **more):
    command = [sys.executable, "-m", "experiments.export", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=environment() | more, capture_output=True, text=True, check=False
    )


def test_the_command_merges_a_checkpoint_and_pushes_it(trained, tmp_path):
    out, hub = tmp_path / "out", stand_in_hub.Hub()
    with stand_in_hub.serving(hub) as url:
        done = export(
            "--workdir", trained.workdir, "--out", out, "--checkpoint", 2, "--merge",
            "--dtype", "bf16", "--max_shard_gb", 1e-4, "--push", "me/mine", "--private",
            HF_ENDPOINT=url, HF_TOKEN=hub.token, HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path / "hf"),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    commit = hub.refs["model", "me/mine", "main"]
    assert done.stdout == f"step 2, model: {out}\n{url}/me/mine at commit {commit}\n"
    pushed = {path.name: path.read_bytes() for path in out.iterdir()}
    assert hub.commits["model", "me/mine", commit] == pushed
    assert "README.md" in pushed
    assert hub.private == {"me/mine"}
    assert (out / hf.INDEX).is_file()
    assert json.loads((out / hf.CONFIG).read_text())["torch_dtype"] == "bfloat16"
    family, config = hf.config_of(out)
    found = hf.load(out, family.make(config), names=family.NAMES)
    start = hf.load(
        bases.locate(trained.settings.model.base), family.make(config), names=family.NAMES
    )
    assert np.abs(found["blocks"]["mlp"]["up"] - start["blocks"]["mlp"]["up"]).max() > 1e-3
    np.testing.assert_array_equal(found["embed"], start["embed"].astype(jnp.bfloat16))


def test_who_is_not_logged_in_learns_it_before_the_run_is_loaded(tmp_path):
    work = ("--workdir", tmp_path / "absent", "--out", tmp_path / "x")
    done = export(*work, "--push", "me/mine", HF_HOME=str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "nobody is logged in" in done.stderr
    alone = export(*work, "--private")
    assert "--private: got it alone; expected --push" in alone.stderr


def test_flags_that_exclude_each_other(trained, lab, tmp_path):
    both = export(
        "--workdir", trained.workdir, "--out", tmp_path / "x", "--merge", "--adapter_only"
    )
    assert both.returncode != 0
    assert "--merge or --adapter_only, and not both" in both.stderr
    plain = settings.read(lab.config(**{"adapter.name": ""})).plain
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(plain))
    none = export("--workdir", tmp_path / "run", "--out", tmp_path / "x", "--merge")
    assert none.returncode != 0
    assert "a run without an adapter" in none.stderr
    assert not (tmp_path / "x").exists()
