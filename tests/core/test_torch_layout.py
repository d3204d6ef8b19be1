"""Torch's order of a weight's axes and ours."""

import numpy as np
import pytest

from ftjax.core import torch_layout as layout

SIZES = dict(D=6, N=4, H=2, F=10, V=7, E=3, C=3, J=8)
CASES = [
    layout.linear("BTD,DNH->BTNH"), layout.linear("BTNH,NHD->BTD"), layout.linear("BTD,VD->BTV"),
    layout.linear("EBD,EDF->EBF"), layout.vector("NH"), layout.Layout(("R", "NH"), "NHR"),
    layout.linear("BTD,DCNH->BTCNH", inputs_first=True), layout.linear("BTD,DJH->BTJH"),
]  # fmt: skip


def ours(case):
    sizes = SIZES | {"R": 5}
    shape = [sizes[c] for c in case.letters]
    return np.arange(np.prod(shape)).reshape(shape), sizes


def test_a_torch_linear_computes_the_same():
    x, (w, _) = np.random.default_rng(0).normal(size=(2, 3, 4, 2)), ours(CASES[1])
    torch = CASES[1].to_torch(w)
    assert torch.shape == (6, 8)  # (out, in)
    np.testing.assert_allclose(x.reshape(2, 3, 8) @ torch.T, np.einsum("BTNH,NHD->BTD", x, w))


def test_inputs_may_come_first():
    x, case = np.random.default_rng(0).normal(size=(2, 6)), CASES[6]
    w, _ = ours(case)
    torch = case.to_torch(w)
    assert torch.shape == (6, 24)  # (in, out)
    wanted = np.einsum("BD,DCNH->BCNH", x, w)
    np.testing.assert_allclose((x @ torch).reshape(wanted.shape), wanted)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_there_and_back(case):
    array, sizes = ours(case)
    torch = case.to_torch(array)
    assert torch.shape == case.torch_shape(sizes)
    assert torch.flags.c_contiguous
    np.testing.assert_array_equal(case.from_torch(torch, sizes), array)


class Counting:
    """A stored tensor that counts what is read of it."""

    def __init__(self, array):
        self.array, self.read = array, 0

    def __getitem__(self, cuts):
        part = self.array[cuts]
        self.read += part.size
        return part


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reading_a_part_reads_little_more(case):
    array, sizes = ours(case)
    halves = [(slice(None), slice(0, n // 2), slice(n // 2, None)) for n in array.shape]
    for choice in np.ndindex(*[3] * array.ndim):
        part = tuple(options[i] for options, i in zip(halves, choice, strict=True))
        stored = Counting(case.to_torch(array))
        np.testing.assert_array_equal(case.read(stored, sizes, part), array[part])
        behind = [c for group in case.groups for c in group[1:]]
        leading = [
            p if c not in behind else slice(None)
            for c, p in zip(case.letters, part, strict=True)
        ]  # fmt: skip
        assert stored.read == array[tuple(leading)].size


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 0, 1), (1, 2, 0), (0, 1, 2), (2, 1, 0)])
def test_copying_in_strips_is_copying(order, monkeypatch):
    monkeypatch.setattr(layout, "STRIP", 400)  # bytes: some rows of the first axis
    source = np.arange(600 * 3 * 5, dtype=np.int32).reshape(600, 3, 5)
    view = source.transpose(order)
    for cut in (view, view[:, 1:], view[::2], view[:0], view[0], view[0, 0, 0]):
        out = np.full(np.shape(cut), -1, np.float32)
        layout.copy(out, np.asarray(cut))
        np.testing.assert_array_equal(out, cut)
