"""Prompts of several adapters in one program over one base, from files and the command line."""

import json
import subprocess
import sys
from typing import NamedTuple

import jax
import numpy as np
import pytest

from ftjax.adapters import lora
from ftjax.adapters.lib import protocol
from ftjax.adapters.peft import io as peft
from ftjax.core import mesh as meshes
from ftjax.core import tree
from ftjax.models.families import llama
from ftjax.models.hf import checkpoint
from ftjax.run import build as setup
from ftjax.run import named_adapters as several
from ftjax.run import prompting
from ftjax.sampling import text
from tests import lab as lab_lib

NEW = 8
RANKS = dict(law=2, code=3, math=2, verse=4)
WHERE = dict(law="blocks/**", code="blocks/attn/*", math="blocks/mlp/*", verse="blocks/**")


class World(NamedTuple):
    parts: setup.Parts
    params: dict
    folders: dict


@pytest.fixture(scope="module")
def world(lab, tmp_path_factory):
    """A base, and four LoRAs of it that differ in rank, sites and dropout, in files."""
    parts = setup.build(lab.settings(adapter=dict(name="", where="blocks/**")))
    params, root, folders = setup.weights(parts), tmp_path_factory.mktemp("several"), {}
    given = dict(linears=parts.model.linears, names=parts.family.NAMES)
    for seed, (name, rank) in enumerate(RANKS.items()):
        method = lora.make(rank=rank, alpha=4.0, init="gaussian", dropout=0.1 * seed)
        key = jax.random.key(seed)
        found = protocol.init(method, key, given["linears"], params["model"], where=WHERE[name])
        found = tree.map_with_paths(lambda path, x, s=seed: moved(path, x, s), found)
        folders[name] = root / name
        peft.save(folders[name], found, base_model=None, **given)
    return World(parts, params, folders)


def moved(path, leaf, seed):
    draw = np.random.default_rng(seed).normal(size=leaf.shape)
    return (0.3 * draw).astype(np.float32) if path.endswith("/b") else leaf


def asked_for(names):
    return [
        prompting.PromptRequest(f"Q: what is {'1' * (1 + 3 * (i % 3))}{i}?\nA:", name)
        for i, name in enumerate(names)
    ]


def texts(world, asked, names, mesh=None, batch_size=8):
    """Answer with adapters of these names."""
    given = {name: world.folders[name] for name in names}
    params, of_rows = several.over(world.parts, world.params, given, several.places(asked, given))
    respond = text.make(
        world.parts.model, world.parts.tokenizer, batch_size=batch_size, max_new_tokens=NEW,
        mesh=mesh, stop_ids=(),
    )  # fmt: skip
    return respond(params, [each.prompt for each in asked], of_rows=of_rows)


def alone(world, asked):
    """Answer each prompt in a batch of its own with its own adapter, or the base."""
    unnamed = [[each._replace(adapter=None)] for each in asked]
    return [
        texts(world, one, [each.adapter] if each.adapter else [])[0]
        for one, each in zip(unnamed, asked, strict=True)
    ]


def test_four_adapters_in_one_call_give_the_texts_of_four_calls(world):
    asked = asked_for(["code", "law", None, "verse", "math", "law", "code"])
    together = texts(world, asked, RANKS, batch_size=4)
    assert together == alone(world, asked)
    base_alone = texts(world, [each._replace(adapter=None) for each in asked], [])
    differ = [a != b for a, b in zip(together, base_alone, strict=True)]
    assert differ == [each.adapter is not None for each in asked]


def test_one_program_serves_all_batches(world):
    asked = [each._replace(prompt="Q: what") for each in asked_for([*RANKS, None, "law"])]
    given = world.folders
    params, of_rows = several.over(world.parts, world.params, given, several.places(asked, given))
    shapes = {
        str(jax.tree.map(lambda x: (x.shape, x.dtype), of_rows(params, index)))
        for index in ([0, 1], [4, 5], [2, 0])
    }
    assert len(shapes) == 1


def test_several_adapters_over_a_mesh(lab, world):
    chosen = lab.settings(adapter=dict(name="", where=""), mesh=dict(data=2, fsdp=2, tensor=2))
    parts = setup.build(chosen)
    spread = World(parts, setup.weights(parts), world.folders)
    asked = asked_for([*RANKS, None])
    assert texts(spread, asked, RANKS, mesh=parts.mesh) == texts(world, asked, RANKS)
    assert parts.mesh.size == len(jax.devices())
    assert meshes.replicas(parts.mesh) == 4


def test_rows_without_a_name(world):
    asked = asked_for([None, None])
    given = dict(law=world.folders["law"])
    assert several.places(asked, given) == [0, 0]
    assert several.places(asked, world.folders) == [several.BASE] * 2
    named = [each._replace(adapter="law") for each in asked]
    assert texts(world, asked, ["law"]) == texts(world, named, ["law"])
    assert texts(world, asked, RANKS) == texts(world, asked, [])


@pytest.mark.parametrize("wrong", ["law", "=x", "law=", ""])
def test_adapters_are_names_and_directories(wrong):
    assert list(several.named(["b=x/y=z", "a=y"])) == ["b", "a"]
    with pytest.raises(ValueError, match=r"--adapter: got .*expected NAME=DIR"):
        several.named([wrong])
    with pytest.raises(ValueError, match="each name once"):
        several.named(["a=x", "a=y"])


def test_an_unknown_name_comes_with_the_nearest(world):
    with pytest.raises(ValueError, match=r"got 'lw' .*did you mean 'law'.*pass --adapter lw=DIR"):
        several.places([prompting.PromptRequest("x", "lw")], world.folders)
    with pytest.raises(ValueError, match=r"got 'lw' .*expected one of nothing"):
        several.places([prompting.PromptRequest("x", "lw")], {})


def test_an_adapter_of_another_base_is_refused(world, lab, tmp_path):
    config = llama.Config(**vars(lab_lib.CONFIG) | dict(dim=16))
    model = llama.make(config)
    checkpoint.save(tmp_path / "base", model.init(jax.random.key(0)), family=llama, config=config)
    found = protocol.init(
        lora.make(rank=2, alpha=4.0), jax.random.key(0), model.linears,
        model.init(jax.random.key(0)), where="blocks/attn/q",
    )  # fmt: skip
    peft.save(tmp_path / "other", found, linears=model.linears, names=llama.NAMES, base_model=None)
    with pytest.raises(ValueError, match=r"got other=.*expected an adapter of .*base: .*has shape"):
        several.over(world.parts, world.params, dict(other=tmp_path / "other"), [0])


def test_the_command_line(world, lab, tmp_path):
    asked = asked_for(["verse", None, "math"])
    named = lambda each: {"adapter": each.adapter} if each.adapter else {}
    lines = [json.dumps({"prompt": each.prompt} | named(each)) for each in asked]
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    given = [f"--adapter={name}={world.folders[name]}" for name in ("math", "verse")]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.generate", "--model", lab.root / "base", *given,
         "--prompts_file", tmp_path / "q.jsonl", f"--max_new_tokens={NEW}",
         "--output", tmp_path / "a.jsonl"],
        cwd=lab_lib.ROOT, env=lab_lib.environment(), capture_output=True, text=True, check=False,
        timeout=lab_lib.LONGEST_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = list(map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines()))
    assert rows == [
        dict(prompt=each.prompt, text=new)
        for each, new in zip(asked, alone(world, asked), strict=True)
    ]
    for row in rows:
        assert f"> {row['prompt']}\n{row['text']}\n" in done.stdout
