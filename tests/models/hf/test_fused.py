"""Experts that files keep fused, or in four bits."""

import numpy as np
from safetensors.numpy import save_file

from ftjax.core import safetensors as tensors
from ftjax.models.hf import fused


def mapped(tmp_path, arrays):
    save_file(arrays, tmp_path / "model.safetensors")
    return tensors.mapped(tmp_path / "model.safetensors")


def test_fused_experts_are_cut_where_a_family_has_them_apart(tmp_path):
    draw = np.random.default_rng(0).normal
    both, down = draw(size=(3, 8, 5)).astype(np.float32), draw(size=(3, 5, 4)).astype(np.float32)
    found = mapped(tmp_path, {"m.experts.gate_up_proj": both, "m.experts.down_proj": down})
    assert fused.unfused(found, {"m.experts.gate_up_proj": ()}).keys() == found.keys()
    cut = fused.unfused(found, {"m.experts.0.down_proj.weight": ()})
    assert len(cut) == 9
    for expert in range(3):
        for name, wanted in (
            ("gate_proj", both[expert, :4]), ("up_proj", both[expert, 4:]),
            ("down_proj", down[expert]),
        ):  # fmt: skip
            got = cut[f"m.experts.{expert}.{name}.weight"]
            assert got.shape == wanted.shape
            np.testing.assert_array_equal(got.array, wanted)


def test_four_bits_mean_their_numbers(tmp_path):
    codes = np.arange(16, dtype=np.uint8)
    blocks = (codes | (codes[::-1] << 4)).reshape(1, 1, 1, 16)
    scales = np.array([128], np.uint8).reshape(1, 1, 1)
    found = mapped(tmp_path, {"w_blocks": blocks, "w_scales": scales})
    whole = fused.unfused(found, {"w": (1, 32, 1)})
    assert list(whole) == ["w"]
    assert (whole["w"].shape, whole["w"].kind) == ((1, 32, 1), "BF16")
    values = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    values = np.array(values + [-x for x in values]) * 2  # 2^(128 - 127)
    got = np.float32(whole["w"].array)[0, :, 0]
    np.testing.assert_array_equal(got[::2], values)
    np.testing.assert_array_equal(got[1::2], values[::-1])
