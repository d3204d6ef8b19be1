"""The step of a run, compiled for devices that are not here, without weights and without data."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from ftjax.core import config as conf
from ftjax.core import mesh as meshes
from ftjax.run import config as settings_lib
from ftjax.run import hlo, rehearse, suggestions, topology
from ftjax.run import plan as plans
from tests.lab import ROOT, environment

EIGHT = topology.read("cpu:8")
ABSENT = {"data.path": "absent.jsonl"}


@pytest.fixture(scope="module")
def found(lab):
    settings = lab.settings(**ABSENT, mesh=dict(data=2, fsdp=4, expert=1, sequence=1, tensor=1))
    return rehearse.rehearse(settings, EIGHT)


def test_memory_is_what_the_compiler_says_and_what_the_arguments_are(found):
    hbm = found["hbm"]
    assert found["fits"]
    assert found["mesh"] == dict(data=2, member=1, fsdp=4, expert=1, sequence=1, tensor=1)
    arguments = ("weights, trainable", "weights, frozen", "optimizer", "average", "batch")
    assert hbm["average"] == 0
    assert hbm["batch"] == 1 * 64 * 4 * 4
    assert all(hbm[name] > 0 for name in arguments if name != "average")
    parts = sum(hbm[name] for name in (*arguments, "temporaries", "results", "code"))
    assert hbm["needed"] == pytest.approx(parts, abs=200)  # the state's counter and key


def test_flops_with_loops_are_those_of_the_formula(found):
    flops = found["flops"]
    assert flops["tokens"] == 8 * 64
    assert flops["program"] == pytest.approx(flops["model"], rel=0.35)
    assert flops["XLA, loops once"] < flops["program"]
    kinds = {own["kind"] for own in found["collectives"]}
    assert {"all-gather", "all-reduce"} <= kinds  # weights of fsdp, gradients of data
    assert found["roofline"] is None
    assert json.loads(json.dumps(found))["fits"]


def test_text_and_json_have_all_of_it(found, tmp_path):
    text = rehearse.text(found)
    for word in ("fits, a device", "optimizer", "temporaries", "all-gather (ici)", "program"):
        assert word in text
    rehearse.write(tmp_path / "x.json", found, [])
    assert json.loads((tmp_path / "x.json").read_text())["hbm"]["needed"] == found["hbm"]["needed"]


def test_what_does_not_fit_comes_with_a_change_that_was_compiled(lab, found):
    settings = lab.settings(**ABSENT, mesh=dict(data=2, fsdp=4, expert=1, sequence=1, tensor=1))
    (own,) = suggestions.suggest(settings, EIGHT, limit=1, hbm_bytes=1000.0)
    assert own["change"] == {"model.remat": "full"}
    assert own["hbm"]["temporaries"] != found["hbm"]["temporaries"]
    assert own["hbm"]["headroom"] == 1000.0 - own["hbm"]["needed"]
    assert not own["fits"]
    assert suggestions.summary(own).startswith("does not fit (0.0")
    assert suggestions.summary(own).endswith("GiB): --config.model.remat=full")


def test_changes_that_fit_come_first_and_the_fastest_of_them(lab, monkeypatch):
    settings = lab.settings(**ABSENT, mesh=dict(data=8, fsdp=1, expert=1, sequence=1, tensor=1))
    outcomes = iter([(False, 9, 1), (True, 3, 4), ValueError("no"), (True, 4, 2), (False, 8, 1)])

    def compiled(chosen, topology, *, hbm_bytes):
        outcome = next(outcomes)
        if isinstance(outcome, ValueError):
            raise outcome
        fits, needed, step = outcome
        return {"fits": fits, "hbm": {"needed": needed}, "roofline": {"step_s": step}}

    monkeypatch.setattr(rehearse, "rehearse", compiled)
    tried = suggestions.suggest(settings, EIGHT, limit=4)
    assert [own["hbm"]["needed"] for own in tried] == [4, 3, 8, 9]


def test_changes_grow_and_keep_to_what_a_run_allows(lab):
    settings = lab.settings(
        **ABSENT, batch_size=32, mesh=dict(data=8, fsdp=1, expert=1, sequence=1, tensor=1)
    )
    found = list(suggestions._changes(settings, EIGHT))
    alone = [{"model.remat": "full"}, {"mesh.data": 1, "mesh.fsdp": 8}, {"accumulate": 4}]
    assert found[0] == alone[0]
    assert found[1:3] == [alone[1], alone[0] | alone[1]]
    assert found[3:5] == [alone[2], alone[0] | alone[1] | alone[2]]
    assert found[-1]["model.quantize.name"] == "nf4"
    assert rehearse.changed(settings, found[-1]).model.quantize["name"] == "nf4"
    full = lab.settings(**ABSENT, **{"adapter.name": "", "model.remat": "full"})
    assert all("model.quantize.name" not in change for change in suggestions._changes(full, EIGHT))


def test_long_rows_are_shared_where_one_at_a_time_is_too_much(lab):
    own = {"data.max_tokens": suggestions.LONG, "model.remat": "full", "batch_size": 32}
    mesh = dict(data=1, fsdp=4, expert=1, sequence=1, tensor=2)
    found = list(suggestions._changes(lab.settings(**ABSENT, **own, mesh=mesh), EIGHT))
    shared = {"mesh.data": 1, "mesh.fsdp": 2, "mesh.sequence": 2, "accumulate": 16}
    assert found[:2] == [{"accumulate": 8}, shared]
    quantised = {"model.quantize.name": "nf4"}
    assert found[2:] == [quantised, shared | quantised]


def compiled_as(outcome):
    """Stand in for the compiler: `outcome(settings)` gives fits, bytes and seconds."""

    def compiled(settings, topology, *, hbm_bytes):
        fits, needed, step = outcome(settings)
        sizes = meshes.resolve(settings.mesh, topology.count)
        own = {"devices": topology.count, "mesh": sizes, "hbm": {"needed": needed}}
        return own | {"fits": fits, "roofline": {"step_s": step}}

    return compiled


def test_a_search_tries_meshes_and_the_microbatches_of_the_best(lab, monkeypatch):
    settings = lab.settings(**ABSENT, batch_size=32, accumulate=4)
    monkeypatch.setattr(
        rehearse, "rehearse", compiled_as(lambda s: (True, 1, s.mesh["data"] + s.accumulate))
    )
    tried = suggestions.search(settings, EIGHT, limit=6)
    mesh = lambda own: tuple(own["change"][f"mesh.{axis}"] for axis in ("data", "fsdp", "tensor"))
    # Of the first three meshes two have data=1; the first that was compiled is the best.
    assert {mesh(own) for own in tried} == {(1, 8, 1), (2, 4, 1), (1, 4, 2)}
    assert [own["change"].get("accumulate") for own in tried] == [1, 2, None, None, None]
    assert all(mesh(own) == (1, 8, 1) for own in tried[:2])
    monkeypatch.setattr(rehearse, "rehearse", compiled_as(lambda s: (False, 9 / s.accumulate, 1)))
    tried = suggestions.search(settings, EIGHT, limit=2)
    assert [own["change"].get("accumulate") for own in tried] == [None]  # a row is all there is


def test_a_search_of_what_divides_over_no_mesh_says_so(lab, monkeypatch):
    settings = lab.settings(**ABSENT, batch_size=3)
    with pytest.raises(ValueError, match="--search: got cpu:8 with batch_size 3; expected a mesh"):
        suggestions.search(settings, EIGHT, limit=2)


def test_slices_divide_data_and_other_axes_stay(lab):
    meshes_of = lambda **sizes: list(
        suggestions._meshes(lab.settings(**ABSENT, mesh=sizes), topology.read("2xv5e-4"))
    )
    assert all(own["mesh.fsdp"] * own["mesh.data"] * own["mesh.tensor"] == 4
               for own in meshes_of(data=-1, sequence=2))  # fmt: skip
    found = meshes_of(data=-1)
    assert found[0] == {"mesh.data": 2, "mesh.fsdp": 4, "mesh.tensor": 1}
    assert all(own["mesh.data"] % 2 == 0 for own in found)
    assert {own["mesh.data"] * own["mesh.fsdp"] * own["mesh.tensor"] for own in found} == {8}


def test_a_refusal_of_the_compiler_is_read():
    text = ("RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: HLO temporaries (22.98G) exceeds "
            "available HBM (15.75G).")  # fmt: skip
    found = rehearse._refused({"batch": 1.0}, text, 15.75 * 2**30)
    assert not found["fits"]
    assert found["hbm"]["needed"] == pytest.approx(22.98 * 2**30)


class Lowered:
    """Stands in for a lowered step, whose compiler writes what it makes or refuses it."""

    def __init__(self, *, writes="", error=""):
        self.writes, self.error = writes, error

    def compile(self, *, compiler_options):
        if self.error:
            raise jax.errors.JaxRuntimeError(self.error)
        self.options = compiler_options
        if self.writes:
            folder = pathlib.Path(compiler_options["xla_dump_to"])
            (folder / "module_1.step.after_codegen.txt").write_text(self.writes)
            (folder / "module_1.step.before_optimizations.txt").write_text("longer, and another")
        return self

    def as_text(self):
        assert not self.writes, "as_text: RET_CHECK failure"
        return "of jax"


def test_the_text_of_a_program_is_what_its_compiler_writes_where_it_writes_any():
    lowered = Lowered(writes="of libtpu")
    assert rehearse.compile_step(lowered, platform="tpu") == (lowered, "of libtpu")
    silent = Lowered()
    assert rehearse.compile_step(silent, platform="tpu") == (silent, "of jax")
    assert rehearse.compile_step(silent, platform="cpu") == (silent, "of jax")
    assert silent.options is None


def test_what_does_not_fit_is_told_from_what_cannot_be_compiled():
    refuses = Lowered(error="RESOURCE_EXHAUSTED:\n 22G of 15G")
    assert rehearse.compile_step(refuses, platform="tpu") == (
        None,
        "RESOURCE_EXHAUSTED: 22G of 15G",
    )
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        rehearse.compile_step(Lowered(error="INTERNAL: x"), platform="tpu")


def test_the_roofline_is_its_formula():
    sixteen = topology.read("v5e-16")
    moved = [
        hlo.Collective("all-gather", "ici", 3, 20e9),
        hlo.Collective("all-reduce", "dcn", 1, 1e9),
    ]
    flops = {
        "program": 16 * 197e12,
        "model": 8 * 197e12,
        "model, causal": 7 * 197e12,
        "tokens": 1600,
    }
    found = rehearse.roofline(sixteen, flops, moved, touched_bytes=819e8)
    assert found["seconds"] == pytest.approx(dict(compute=1.0, ici=0.1, dcn=0.16, memory=0.1))
    assert (found["bound"], found["step_s"]) == ("compute", 1.0)
    assert found["step_s, no overlap"] == pytest.approx(1.36)
    assert found["mfu"] == pytest.approx(0.5)
    assert found["mfu_causal"] == pytest.approx(7 / 16)
    assert found["tokens_per_s_per_chip"] == pytest.approx(100)
    hidden = rehearse.roofline(sixteen, flops | {"program": 0.0}, [], touched_bytes=0)
    assert hidden["step_s"] == pytest.approx(7 / 16)


@pytest.mark.parametrize("objective", ["dpo", "kto", "reward"])
def test_batches_are_those_of_the_data(lab, tmp_path, objective):
    """All but the examples of a row, which the data alone tell."""
    kind = "unpaired" if objective == "kto" else "preference"
    answer = lambda i: {"completion": f" {i}", "label": bool(i % 2)}
    pair = lambda i: {"chosen": f" it is {i}", "rejected": f" no {i}"}
    rows = [
        {"prompt": f"Q: {i}?"} | (answer(i) if kind == "unpaired" else pair(i)) for i in range(9)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    data = dict(name="jsonl", path=str(path), kind=kind, max_tokens=32)
    p = plans.plan(lab.settings(objective=dict(name=objective), data=data))
    real, made = p.loader.batch(0), rehearse.batch(p)
    assert {name: leaf.dtype for name, leaf in real.items()} == {
        name: np.dtype(leaf.dtype) for name, leaf in made.items()
    }
    for name, leaf in real.items():
        cut = 1 if name in ("examples", "margin", "label") else None
        assert leaf.shape[:cut] == made[name].shape[:cut]
    assert plans.compiled_step(p).lower(p.state, p.hyper, p.frozen, made).out_info


def test_a_run_that_samples_its_data_is_refused(lab):
    with pytest.raises(ValueError, match="got 'grpo', which learns from experience; expected one"):
        rehearse.rehearse(lab.settings(**ABSENT, objective=dict(name="grpo")), EIGHT)


def test_a_base_without_weights_is_read_from_its_config(lab, tmp_path):
    (tmp_path / "config.json").write_bytes((lab.root / "base" / "config.json").read_bytes())
    settings = lab.settings(**ABSENT, **{"model.base": str(tmp_path)})
    with pytest.raises(ValueError, match=r"no weights|tokenizer"):
        plans.program(settings)
    found, notes = rehearse.stand_in(settings, platform="cpu")
    assert "has no weights here" in notes[0]
    shapes = lambda s: jax.tree.map(lambda leaf: leaf.shape, plans.program(s).frozen)
    assert shapes(found) == shapes(lab.settings(**ABSENT))


def test_a_base_that_is_not_here_is_the_preset_of_its_name():
    config = conf.load(str(ROOT / "configs" / "sft_llama3_8b.py"))
    settings = settings_lib.read(config)
    found, notes = rehearse.stand_in(settings, platform="tpu")
    assert (found.model.base, found.model.preset) == ("", "llama3.1-8b")
    assert "'Llama-3.1-8B' has no weights here" in notes[0]
    with pytest.raises(ValueError, match=r"got 'mine', which is no directory and no preset's name"):
        rehearse.stand_in(rehearse.changed(settings, {"model.base": "mine"}), platform="tpu")
    config.model.base, config.model.preset, config.model.compute_dtype = "", "llama3.1-8b", ""
    found, _ = rehearse.stand_in(settings_lib.read(config), platform="tpu")
    assert found.model.compute_dtype == "bfloat16"  # as on the accelerator itself


def run(*arguments, longest=300, **variables):
    command = [sys.executable, "-m", "experiments.rehearse", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment() | variables, capture_output=True, text=True,
        timeout=longest, check=False,
    )  # fmt: skip


def test_the_command_ends_in_one_line_where_the_name_is_wrong():
    done = run("--config=configs/sft_llama3_8b.py", "--topology=v5e-15")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --topology: got 'v5e-15'; expected one of v4-8|16")
    assert done.stderr.count("\n") == 1
