"""Runs whose rows are cut over devices are the runs of whole rows, and need less memory."""

import json

import numpy as np
import pytest

from configs import common
from ftjax.core import tree
from ftjax.models.families import deepseek_v3, gemma4_text, granitemoehybrid, qwen3_next
from ftjax.models.hf import presets
from ftjax.run import config as settings_lib
from ftjax.run import plan as plans
from ftjax.run import rehearse, row_parts, topology
from tests.experiments.test_devices import steps

FULL = {"adapter": dict(name="", where="blocks/**"), "model.remat": "full"}
PAIRS = {
    "data": dict(
        name="judged", domain="skills", skills="count", rows=16, kind="preference", max_tokens=48
    ),
    "objective": dict(name="dpo"),
}  # fmt: skip
PACKED = {"data.packing": "bfd", "data.max_tokens": 96}
RUNS = {
    "sft, padded": ({}, dict(fsdp=2, sequence=4)),
    "sft, packed": (PACKED | FULL | dict(accumulate=2), dict(fsdp=2, sequence=2, tensor=2)),
    "dpo, padded": (PAIRS, dict(sequence=4, tensor=2)),
    "dpo, packed": (PAIRS | PACKED, dict(data=2, fsdp=2, sequence=2)),
}


def over(**sizes):
    return {f"mesh.{axis}": count for axis, count in (dict(data=1) | sizes).items()}


@pytest.mark.parametrize("name", RUNS)
def test_three_steps_are_those_of_whole_rows(name, lab, use_devices):
    changes, sizes = RUNS[name]
    one = steps(lab.settings(**changes))
    use_devices(8)
    many = steps(lab.settings(**changes, **over(**sizes)))
    assert len({each["loss"] for each in one.rows}) == 3
    for a, b in zip(one.rows, many.rows, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-4)
    moved = tree.paths(many.state.params)
    for path, leaf in tree.paths(one.state.params).items():
        np.testing.assert_allclose(moved[path], leaf, rtol=1e-3, atol=1e-4, err_msg=path)


def test_four_parts_of_rows_need_little_more_than_a_third_of_the_memory(lab, tmp_path):
    """A quarter of what is kept of a row; blocks of attention have one size however long it is."""
    shapes = presets.PRESETS["tiny"] | {"max_position_embeddings": 2048}
    (tmp_path / "config.json").write_text(json.dumps(shapes))
    own = {"model.base": "", "model.preset": str(tmp_path), "tokenizer": "tiny", "batch_size": 2}
    own |= {"data.max_tokens": 2048, "data.path": "absent.jsonl"}
    needed = lambda count, **sizes: rehearse.rehearse(
        lab.settings(**own, **over(**sizes)), topology.read(f"cpu:{count}")
    )["hbm"]["temporaries"]
    assert needed(8, fsdp=2, sequence=4) < 0.38 * needed(2, fsdp=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.max_tokens": 62},
         r"^data\.max_tokens: got 62; expected a multiple of mesh\.sequence 4.*max_tokens=64$"),
        ({"anchors.old": dict(name="nll", weight=1.0, rows=8, data=dict(max_tokens=6))},
         r"^anchors\.old\.data\.max_tokens: got 6; .* use anchors\.old\.data\.max_tokens=8$"),
    ],
)  # fmt: skip
def test_rows_that_have_no_equal_parts_are_refused(lab, use_devices, changes, message):
    use_devices(4)
    with pytest.raises(ValueError, match=message):
        plans.program(lab.settings(**changes, **over(sequence=4)))


def test_layers_with_a_state_are_refused(lab, use_devices, tmp_path):
    shapes = granitemoehybrid.EXAMPLE | dict(vocab_size=2048)
    (tmp_path / "config.json").write_text(json.dumps(shapes))
    use_devices(2)
    own = {"model.base": "", "model.preset": str(tmp_path), "tokenizer": "tiny"}
    with pytest.raises(ValueError, match=r"mesh\.sequence: got 2 .* layers mamba carry a state"):
        plans.program(lab.settings(**own, **over(sequence=2)))
    of = lambda family: row_parts.stateful(family.make(family.from_hf(family.EXAMPLE)))
    assert of(qwen3_next) == ["delta"]
    assert of(deepseek_v3) == of(gemma4_text) == []


def test_rows_that_are_sampled_are_refused(lab, use_devices):
    use_devices(2)
    c = lab.config(**over(sequence=2), objective=dict(name="grpo"))
    common.online(c, prompts=8, samples=2, max_new_tokens=4)
    c.rewards.short = dict(name="length", max_length=6, unit="characters")
    with pytest.raises(ValueError, match=r"mesh\.sequence: got 2 with objective\.name='grpo'"):
        plans.program(settings_lib.read(c))
