"""Experts that lie otherwise in files than a family keeps them: fused, or in four bits.

experts.gate_up_proj (E, 2I, D), experts.down_proj (E, D, I)  ->  experts.N.gate_proj.weight, ...
<name>_blocks, <name>_scales (MXFP4)                          ->  <name>
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping

import jax.numpy as jnp
import numpy as np

from ftjax.core import safetensors as tensors

# Four bits: a sign, two of an exponent, one of a mantissa. Of code 8 the sign is that of a zero.
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
BIAS = 127  # of the exponent that a block of 32 numbers shares
FUSED = re.compile(r"(.*\.experts)\.(gate_up_proj|down_proj)")
PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}


def unfused(found: Mapping[str, tensors.Tensor], expected: Mapping[str, tuple]) -> dict:
    """Take tensors apart, or together, where a family expects others; what it expects stays."""
    result = {}
    for name, tensor in found.items():
        if name not in expected:
            # Only where the family expects experts apart.
            if (match := FUSED.fullmatch(name)) and f"{match[1]}.0.down_proj.weight" in expected:
                result |= dict(_experts(tensor, *match.groups()))
                continue
            whole = name.removesuffix("_blocks")
            if whole != name and f"{whole}_scales" in found:
                result[whole] = Mxfp4(tensor, found[f"{whole}_scales"])
                continue
            if name.endswith("_scales") and name.removesuffix("_scales") + "_blocks" in found:
                continue
        result[name] = tensor
    return result


def _experts(
    tensor: tensors.Tensor, prefix: str, kind: str
) -> Iterator[tuple[str, tensors.Tensor]]:
    """Cut a fused tensor: the parts of one expert lie one after the other."""
    count, rows, width = tensor.shape
    parts = PARTS[kind]
    size = (tensor.stop - tensor.start) // (count * len(parts))
    shape = (rows // len(parts), width)
    for number in range(count):
        for at, part in enumerate(parts):
            start = tensor.start + size * (number * len(parts) + at)
            # A smaller span of the same mapped bytes: nothing is read yet.
            own = dataclasses.replace(tensor, shape=shape, start=start, stop=start + size)
            yield f"{prefix}.{number}.{part}.weight", own


@dataclasses.dataclass(frozen=True)
class Mxfp4:
    """A tensor of four-bit numbers in blocks of 32 with a shared power of two.

    `blocks` are (E, out, in / 32, 16) bytes, the low four bits first, `scales` (E, out, in / 32):
    the transpose of the tensor that they mean, (E, in, out). bfloat16 holds every value exactly.
    """

    blocks: tensors.Tensor
    scales: tensors.Tensor
    kind: str = "BF16"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor that they mean."""
        experts, out, groups, size = self.blocks.shape
        return experts, groups * size * 2, out

    @property
    def array(self) -> np.ndarray:
        """Compute the tensor."""
        codes = self.blocks.bytes
        values = np.stack([FP4[codes & 15], FP4[codes >> 4]], axis=-1)  # (E, out, in / 32, 16, 2)
        # Scales are unsigned bytes, in which 126 - 127 would be 255.
        power = self.scales.bytes.astype(np.int32)[..., None, None] - BIAS
        # By a power of two, hence without rounding.
        dense = np.ldexp(values, power).astype(jnp.bfloat16)
        # Blocks run along the inputs, which dense tensors of gpt-oss have before the outputs.
        return dense.reshape(*dense.shape[:2], -1).swapaxes(1, 2)

    def release(self) -> None:
        """Give the pages back."""
        self.blocks.release()
        self.scales.release()
