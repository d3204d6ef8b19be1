"""Wrong configs: each is refused with its key, its value and the way out, before anything runs."""

import re
import shutil

import pytest

from ftjax.adapters.peft import io as peft
from ftjax.data import encode
from ftjax.run import plan as running
from ftjax.train import compile as compiling

LONG = dict(name="jsonl", path="rows.jsonl", max_tokens=512)
FACTS = dict(name="embedded", domain="facts", rows=2)
BROKEN = {  # name: (changes, patterns that the message must match)
    "unknown key": (dict(stepz=3), [r"config\.stepz: unknown key; did you mean 'steps'"]),
    "unknown key of the seeds": ({"seed.dat": 3}, [r"seed\.dat: unknown key", "'data'"]),
    "unknown key of the model": ({"model.bas": "x"}, [r"model\.bas: unknown key", "'base'"]),
    "unknown key of the adapter": ({"adapter.rnk": 3}, [r"adapter\.rnk: unknown", "'rank'"]),
    "unknown key of the objective": (
        {"objective.z_los": 0.1}, [r"objective\.z_los: unknown", "'z_loss'"]),
    "unknown key of the optimizer": ({"optim.b22": 0.1}, [r"optim\.b22: unknown", "'b2'"]),
    "unknown key of the schedule": (
        {"optim.schedule": dict(name="cosine", warmup_step=1)}, ["warmup_step: unknown",
        "'warmup_steps'"]),
    "unknown key of the data": ({"data.packin": "bfd"}, [r"data\.packin: unknown", "'packing'"]),
    "unknown key of an evaluation": (
        {"evals.task": dict(name="choice", chunks=3, data=FACTS)},
        [r"evals\.task\.chunks: unknown", "'chunk'"]),
    "unknown key of the mesh": ({"mesh.fdsp": 1}, [r"mesh\.fdsp: unknown", "'fsdp'"]),
    "unknown key of the checkpoints": (
        {"checkpoint.every": 1}, [r"checkpoint\.every: unknown", "'every_steps'"]),
    "unknown key of the samples": ({"samples.prompt": 1}, [r"samples\.prompt: ", "'prompts'"]),
    "wrong type": (dict(batch_size="eight"), ["batch_size: got 'eight'; expected int"]),
    "wrong type in a section": (
        {"checkpoint.keep": "two"}, [r"checkpoint\.keep: got 'two'; expected int"]),
    "steps unset": (dict(steps=None), ["steps: not set; expected a value; pass --config.steps="]),
    "no steps": (dict(steps=0), ["steps: got 0; expected at least 1"]),
    "missing data": ({"data.path": "absent.jsonl"}, [r"data\.path: got 'absent.jsonl'; expected"]),
    "missing base": ({"model.base": "absent"}, [r"model\.base: got 'absent'.*'tiny'"]),
    "missing adapter": (dict(adapter_from="absent"), [r"absent.*: no such file"]),
    "adapter that matches nothing": (
        {"adapter.where": "blocks/atn/*"}, [r"adapter\.where: got .*'blocks/atn/\*'",
        "blocks/attn/q"]),
    "trainables that match nothing": (
        dict(trainable="adapter/**"), ["trainable: got .*'adapter/", "such as adapters/blocks"]),
    "group that matches nothing": (
        {"optim.groups": (("**/c", dict(lr_scale=2.0)),)},
        [r"optim\.groups.* got the pattern '\*\*/c'", "adapters/blocks"]),
    "mesh of too many devices": (
        {"mesh.data": 3}, ["mesh: got {'data': 3.*expected a product of 8 devices; give one"]),
    "batch that does not divide": (
        dict(batch_size=12), ["batch_size: got 12; expected a multiple of .*= 8; change one"]),
    "rows longer than the positions": (
        {"data.max_tokens": 512}, [r"data\.max_tokens: got 512; expected at most 256"]),
    "rows longer than the positions that virtual tokens leave": (
        {"adapter": dict(name="prompt", where="", tokens=8), "data.max_tokens": 250},
        [r"data\.max_tokens: got 250; expected at most 248"]),
    "unknown optimizer": (
        {"optim.name": "adamm"}, [r"optim\.name: got 'adamm'; did you mean 'adam"]),
    "unknown objective": (
        {"objective.name": "stf"}, [r"objective\.name: got 'stf'.*did you mean 'sft'"]),
    "objective of samples": (
        {"objective.name": "xpo"}, [r"objective\.name: got .*xpo, .*run experiments\.online"]),
    "unknown adapter": ({"adapter.name": "loro"}, [r"adapter\.name: got 'loro'.*'lora'"]),
    "unknown evaluation": (
        {"evals.task": dict(name="nlll", data=LONG)}, [r"evals\.task\.name: got 'nlll'.*'nll'"]),
    "unknown data": ({"data.name": "jsnl"}, [r"data\.name: got 'jsnl'.*'jsonl'"]),
    "unknown data of an evaluation": (
        {"evals.task": dict(name="nll", data=dict(name="jsnl"))},
        [r"evals\.task\.data\.name: got 'jsnl'.*'jsonl'"]),
    "wrong group of an evaluation": (
        {"evals.task": dict(name="nll", group="newer", data=LONG)},
        [r"evals\.task\.group: got 'newer'; expected one of new, old, later; did you mean 'new'"]),
    "evaluation without data": (
        {"evals.task": dict(name="nll")}, [r"evals\.task: got the keys name; expected also data"]),
    "clipping to nothing": (
        {"optim.clip_norm": 0.0}, [r"optim\.clip_norm: got 0.0; expected above 0"]),
    "clipping that turns the gradient": (
        {"optim.clip_norm": -1}, [r"optim\.clip_norm: got -1.0; expected above 0"]),
    "no learning rate": (
        {"optim.learning_rate": -1e-3}, [r"optim\.learning_rate: got -0.001; expected above 0"]),
    "infinite learning rate": (
        {"optim.learning_rate": float("inf")}, [r"optim\.learning_rate: got inf; expected above"]),
    "decay above one": ({"optim.b2": 1.5}, [r"optim\.b2: got 1.5; expected at least 0 and below"]),
    "negative decay": ({"optim.b1": -0.1}, [r"optim\.b1: got -0.1; expected at least 0"]),
    "growing weights": ({"optim.weight_decay": -0.1}, [r"optim\.weight_decay: got -0.1; expected"]),
    "an average that stands still": (
        {"ema_decay": 1.0}, [r"ema_decay: got 1.0; expected at least 0 and below 1"]),
    "alpha of nothing": ({"adapter.alpha": 0.0}, [r"adapter\.alpha: got 0.0; expected above 0"]),
    "negative alpha": ({"adapter.alpha": -8.0}, [r"adapter\.alpha: got -8.0; expected above 0"]),
    "rank of nothing": ({"adapter.rank": 0}, [r"adapter\.rank: got 0; expected at least 1"]),
    "rank above the width": (
        {"adapter.rank": 1000}, [r"adapter\.rank: got 1000, above the width of every .* at most"]),
    "dropout of everything": (
        {"adapter.dropout": 1.0}, [r"adapter\.dropout: got 1.0; expected at least 0 and below 1"]),
    "chunks of nothing": ({"model.chunk": 0}, [r"model\.chunk: got 0; expected at least 1"]),
    "penalty below zero": (
        {"penalties.o": dict(name="orthogonal", weight=-1.0)},
        [r"penalties\.o\.weight: got -1.0; expected at least 0"]),
    "warm-up beyond the end": (
        {"optim.schedule": dict(name="constant", warmup_steps=9)},
        [r"schedule\.warmup_steps: got 9; expected 0 to total_steps = 3"]),
    "no epochs": ({"steps": None, "epochs": 0.0}, ["epochs: got 0.0; expected above 0"]),
    "epochs beside steps": ({"epochs": 2.0}, ["steps: got 3 beside epochs"]),
    "seed below zero": ({"seed.data": -1}, [r"seed\.data: got -1; expected at least 0"]),
    "samples at a negative temperature": (
        {"samples.temperature": -1.0}, [r"samples\.temperature: got -1.0; expected at least 0"]),
    "data of no tokens": (
        {"data.max_tokens": 0}, [r"data\.max_tokens: got 0; expected at least 1"]),
    "a switch that is a text": (
        {"data.shuffle": "no"}, [r"data\.shuffle: got 'no'; expected bool"]),
    "a section that is a text": (
        {"objective": "dpo"}, ["objective: got 'dpo'; expected a section"]),
    "a typed section that is a text": (
        {"checkpoint": 3}, ["checkpoint: got 3; expected a section"]),
    "an evaluation that is a text": ({"evals.x": "nll"}, [r"evals: got .*a section.* at \['x'\]"]),
    "groups that are no pairs": (
        {"optim.groups": (("**/b", 16.0),)}, [r"optim\.groups: got .*at \[1\], got 16.0"]),
    "groups of adapters that are no pairs": (
        {"adapter.groups": ("blocks/**",)}, [r"adapter\.groups: got .* at \[0\]"]),
    "no decay at numbers": ({"optim.no_decay": (1,)}, [r"optim\.no_decay: got .*str at \[0\]"]),
    "sites that are numbers": ({"adapter.where": 3}, [r"adapter\.where: got 3; expected str"]),
    "trainables that are numbers": (
        dict(trainable=(1,)), [r"trainable: got .*str at \[0\], got 1"]),
    "rows that are a text": (
        {"evals.task": dict(name="nll", rows="all", data=LONG)},
        [r"evals\.task\.rows: got 'all'; expected int"]),
    "data of an evaluation that is a text": (
        {"evals.task": dict(name="nll", data="x.jsonl")}, [r"evals\.task\.data: got 'x.jsonl'"]),
    "temperature that is a text": (
        {"samples.temperature": "hot"}, [r"samples\.temperature: got 'hot'; expected float"]),
    "prompts that are one text": (
        {"samples.prompts": "hello"}, [r"samples\.prompts: got 'hello'; expected a list of str"]),
    "drift from a base that is not held": (
        {"adapter": dict(name="", where="blocks/**"), "evals.task": dict(name="drift", data=LONG)},
        [r"evals\.task\.name: got 'drift', which compares with the base, .* expected an adapter"]),
    "a tracker's project and no tracker": (
        {"tracker.project": "mine"}, [r"tracker\.project: got 'mine' and no tracker\.name"]),
    "a key of quantising, and nothing is quantised": (
        {"model.quantize": dict(name="", wher="**")}, [r"model\.quantize\.wher: got .* no model"]),
    "a learning rate that is infinite in float32": (
        {"optim.learning_rate": 1e300}, [r"optim\.learning_rate: got 1e\+300; expected above 0"]),
    "unknown compiler": (dict(compile="pmp"), ["compile: got 'pmp'; expected one of jit, pmap"]),
    "pmap over shards": (
        {"compile": "pmap", "mesh.fsdp": 2}, ["compile: got 'pmap'.*'fsdp': 2.*use compile='jit'"]),
    "unknown rematerialisation": ({"model.remat": "ful"}, ["remat: got 'ful'", "full"]),
    "experts where there are none": (
        {"model.dispatch": "capacity"}, [r"model\.dispatch: got 'capacity' for a llama"]),
    "unknown type": ({"model.compute_dtype": "fp16"}, [r"model\.compute_dtype: got 'fp16'"]),
    "checkpoints by an unknown mode": (
        {"checkpoint.mode": "least"}, [r"checkpoint\.mode: got 'least'; expected one of min, max"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def scalars_are_known(lab):
    """Plan a sound config, so that the programs which make single numbers are compiled already."""
    running.plan(lab.settings())


@pytest.fixture
def nothing_runs(monkeypatch, scalars_are_known):
    """Fail when data is encoded, or anything is compiled."""

    def refuse(*args, **options):
        pytest.fail("data was encoded before the config was checked")

    monkeypatch.setattr(encode, "examples", refuse)
    before = compiling.programs()
    yield
    assert compiling.programs() == before


def complaint(lab, changes):
    with pytest.raises(ValueError, match=r".") as caught:
        running.plan(lab.settings(**changes))
    return str(caught.value)


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("name", BROKEN)
def test_it_is_refused_in_time(name, lab):
    changes, patterns = BROKEN[name]
    message = complaint(lab, changes)
    for pattern in patterns:
        assert re.search(pattern, message), message
    assert len(message) < 1000


@pytest.mark.usefixtures("nothing_runs")
def test_a_tokenizer_larger_than_the_model_is_refused(lab):
    changes = {"model.base": "", "model.preset": "nano", "tokenizer": "tiny"}
    assert "tokenizer: got 2048 tokens for a model of 64; expected at most" in complaint(
        lab, changes
    )


@pytest.mark.usefixtures("nothing_runs")
def test_a_base_without_weights_is_refused(lab, tmp_path):
    for file in (lab.root / "base").glob("*.json"):
        shutil.copy(file, tmp_path)
    message = complaint(lab, {"model.base": str(tmp_path)})
    assert "model.base" in message
    assert "has no weights; expected a directory with *.safetensors" in message


@pytest.mark.usefixtures("nothing_runs")
def test_adapters_to_go_on_from_need_an_adapter(lab, tmp_path):
    (tmp_path / peft.CONFIG).write_text("{}")
    changes = {"adapter_from": str(tmp_path), "adapter.name": "", "adapter.where": ""}
    changes["adapter"] = dict(name="", where="blocks/**")
    assert "adapter_from: got" in complaint(lab, changes)


def test_a_key_of_another_evaluator_is_refused(lab):
    data = dict(name="embedded", domain="skills", split="test", rows=4)
    changes = {"evals.task": dict(name="nll", data=data, max_new_tokens=4)}
    assert "evals.task.max_new_tokens: unknown key" in complaint(lab, changes)


@pytest.mark.parametrize("name", ["nll", "generate"])
def test_data_of_an_evaluation_are_refused_under_its_name(lab, tmp_path, name):
    path = tmp_path / "held.jsonl"
    path.write_text('{"prompt": "a", "respond": "b"}\n' if name == "nll" else "{\n")
    changes = {"evals.task": dict(name=name, data=dict(name="jsonl", path=str(path)))}
    assert complaint(lab, changes).startswith(f"evals.task.data: {path}:1: ")
