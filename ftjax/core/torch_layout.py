"""How the torch ecosystem stores a tensor, and how we do: derived from the equation, both ways.

A torch linear weight is `(out, in)`: the kept letters flattened, then the contracted ones. Ours
keeps its letters apart, in the order of the equation's `w`. So `BTNH,NHD->BTD` is

    Layout(groups=("D", "NH"), letters="NHD")        torch (D, N*H)   ours (N, H, D)
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ftjax.core import einsum

STRIP = 2**19  # bytes that are copied at a time; they stay in a core's cache
PAD = 32  # numbers that a row in the buffer is longer


@dataclasses.dataclass(frozen=True)
class Layout:
    """`groups` are the torch tensor's axes, each a flattened run of letters; `letters` are ours."""

    groups: tuple[str, ...]
    letters: str

    def without(self, letters: str) -> "Layout":
        """Lay out one of the tensors that `letters` number apart."""
        rest = lambda run: "".join(c for c in run if c not in letters)
        return Layout(tuple(map(rest, self.groups)), rest(self.letters))

    def torch_shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Compute the torch tensor's shape."""
        return tuple(einsum.size(group, sizes) for group in self.groups)

    def from_torch(self, array: np.ndarray, sizes: Mapping[str, int]) -> np.ndarray:
        """View a torch-ordered array in our shape."""
        flat = "".join(self.groups)
        split = array.reshape([sizes[c] for c in flat])
        return split.transpose([flat.index(c) for c in self.letters])

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Copy an array of ours into torch's order and shape, contiguous."""
        flat = "".join(self.groups)
        shape = self.torch_shape(einsum.sizes(self.letters, array.shape))
        moved = array.transpose([self.letters.index(c) for c in flat])
        return np.ascontiguousarray(moved.reshape(shape))

    def read(self, stored, sizes: Mapping[str, int], part: Sequence[slice]) -> np.ndarray:
        """Read `part` (one slice per letter of ours) of a stored torch tensor.

        `stored[slices]` reads from disk. Each torch axis is cut by its leading letter, which is
        what meshes shard; the letters behind it are cut after reading.
        """
        spans = dict(zip(self.letters, part, strict=True))
        cuts, local = [], dict(sizes)
        for group in self.groups:
            start, stop, _ = spans[group[0]].indices(sizes[group[0]])
            behind = math.prod(sizes[c] for c in group[1:])
            cuts.append(slice(start * behind, stop * behind))
            local[group[0]] = stop - start
        leading = {group[0] for group in self.groups}
        rest = tuple(slice(None) if c in leading else spans[c] for c in self.letters)
        return self.from_torch(stored[tuple(cuts)], local)[rest]


def copy(out: np.ndarray, view: np.ndarray, *, done: Callable = lambda: None) -> None:
    """Copy `view`, of any order in memory, into `out` by strips of memory; `done()` after each.

    A transposed copy jumps a row ahead for every number that it writes, and rows whose length is a
    power of two compete for the same few places of the cache. Turned out of a small buffer with
    longer rows it is four times as fast.
    """
    order = np.argsort([-stride for stride in view.strides], kind="stable")
    source, target = view.transpose(order), out.transpose(order)
    if view.ndim < 2 or order[-1] == view.ndim - 1:
        for rows in _strips(source):
            target[rows] = source[rows]
            done()
        return
    buffer = None
    for rows in _strips(source):
        strip = source[rows]
        if buffer is None:  # the first strip is the longest
            buffer = np.empty((*strip.shape[:-1], strip.shape[-1] + PAD), view.dtype)
        turned = buffer[: len(strip), ..., : strip.shape[-1]]
        turned[...] = strip
        target[rows] = turned
        done()


def _strips(source: np.ndarray) -> Iterator:
    """Cut the first axis into parts of about STRIP bytes."""
    if not source.ndim:
        yield ...
        return
    step = max(1, STRIP // max(1, source[:1].nbytes))
    yield from (slice(start, start + step) for start in range(0, len(source), step))


def linear(equation: str, *, inputs_first: bool = False) -> Layout:
    """Lay out the weight of a linear map; letters shared by x, w and y index separate tensors.

    `inputs_first` is for modules that keep `(in, out)`, such as the Conv1D of GPT-2.
    """
    e = einsum.parse(equation)
    groups = (e.contracted, e.kept) if inputs_first else (e.kept, e.contracted)
    return Layout(groups, "".join(c for c in e.w if c not in e.shared))


def vector(letters: str) -> Layout:
    """Lay out a norm's scale or a bias: one flat axis."""
    return Layout((letters,), letters)
