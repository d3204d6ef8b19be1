"""BOFT in PEFT's files."""

import numpy as np

from ftjax.adapters import boft
from ftjax.adapters.peft.format import Format


class BoftFormat(Format):
    """Tensors boft_R (factors, blocks, b, b) and boft_s (out, 1)."""

    peft_type, kinds = "BOFT", (boft.BOFT,)
    keys = frozenset({
        "boft_block_num", "boft_block_size", "boft_n_butterfly_factor",
        # Without effect on what the tensors mean:
        "boft_dropout", "fan_in_fan_out", "init_weights",
    })  # fmt: skip
    required = frozenset({"boft_block_num", "boft_block_size", "boft_n_butterfly_factor"})

    def read(self, config):
        """Read the size or the number of blocks, and of the butterfly's factors."""
        block, count = config["boft_block_size"], config["boft_block_num"]
        if bool(block) == bool(count):
            raise ValueError(f"boft_block_size={block!r}, boft_block_num={count!r}")
        return dict(block=block, count=count, factors=config["boft_n_butterfly_factor"])

    def write(self, layers, hyper):
        """Write the size or the number of blocks, one for all modules, and of the factors."""
        shapes = {adapter.q.shape for adapter in layers.values()}
        sizes, counts, factors = ({shape[i] for shape in shapes} for i in (-1, -3, -4))
        by_count = bool(hyper.get("count"))
        if len(counts if by_count else sizes) > 1 or len(factors) > 1:
            raise ValueError(
                f"adapters: got BOFT of blocks of {sorted(sizes)}; expected one size, as PEFT has "
                "it; choose an adapter.block that divides all inputs"
            )
        return {
            "bias": "none",
            "boft_block_num": counts.pop() if by_count else 0,
            "boft_block_size": 0 if by_count else sizes.pop(),
            "boft_dropout": 0.0,
            "boft_n_butterfly_factor": factors.pop(),
            "fan_in_fan_out": False,
            "init_weights": True,
        }

    def shapes(self, module, hyper):
        """Return (factors, blocks, b, b) and (out, 1)."""
        size = hyper["block"] or module.inputs // hyper["count"]
        blocks = (hyper["factors"], module.inputs // size, size, size)
        return {"boft_R": blocks, "boft_s": (module.outputs, 1)}

    def from_torch(self, module, hyper, tensors):
        """Take the blocks as they are; unflatten the gain."""
        gain = tensors["boft_s"].reshape([module.sizes[c] for c in module.e.kept])
        return boft.BOFT(tensors["boft_R"], gain)

    def to_torch(self, module, adapter):
        """Return the blocks as they are; flatten the gain."""
        return {"boft_R": adapter.q, "boft_s": adapter.gain.reshape(-1, 1)}

    def trim(self, adapter):
        """Leave out a layer that is not adapted: no rotation, a gain of one."""
        return adapter if np.any(adapter.q) or np.any(adapter.gain != 1) else None

    def absent(self, like):
        """Turn nothing and scale by one."""
        return boft.BOFT(np.zeros_like(like.q), np.ones_like(like.gain))


PEFT = BoftFormat()
