"""OFT in PEFT's files."""

import numpy as np

from ftjax.adapters import oft
from ftjax.adapters.lib import rotation
from ftjax.adapters.peft.format import Format


class OftFormat(Format):
    """A tensor oft_R.weight (blocks, b(b-1)/2)."""

    peft_type, kinds = "OFT", (oft.OFT,)
    keys = frozenset({
        "block_share", "num_cayley_neumann_terms", "oft_block_size", "r", "use_cayley_neumann",
        # Without effect on what the tensors mean:
        "eps", "fan_in_fan_out", "init_weights", "module_dropout",
    })  # fmt: skip
    required = frozenset({"oft_block_size", "r"})

    def read(self, config):
        """Read the size or the number of blocks, and which series makes a rotation of them."""
        terms = config.get("num_cayley_neumann_terms", oft.TERMS)
        series = config.get("use_cayley_neumann", False)  # older files have no such key
        return dict(
            block=config["oft_block_size"], count=config["r"],
            share=bool(config.get("block_share")), terms=max(terms, 4) if series else 0,
        )  # fmt: skip

    def write(self, layers, hyper):
        """Write the size or the number of blocks, and which series makes a rotation of them."""
        one = next(iter(layers.values()))
        return {
            "bias": "none",
            "block_share": bool(hyper.get("share", False)),
            "coft": False,
            "eps": 6e-05,
            "fan_in_fan_out": False,
            "init_weights": True,
            "module_dropout": 0.0,
            "num_cayley_neumann_terms": one.terms or oft.TERMS,
            "oft_block_size": hyper.get("block", oft.block_size(one.q)),
            "r": hyper.get("count", 0),
            "use_cayley_neumann": one.terms > 0,
        }

    def shapes(self, module, hyper):
        """Return (blocks, b(b-1)/2)."""
        size = (
            rotation.divisor(module.inputs, hyper["block"]) if hyper["block"]
            else module.inputs // rotation.divisor(module.inputs, hyper["count"])
        )  # fmt: skip
        count = 1 if hyper["share"] else module.inputs // size
        return {"oft_R.weight": (count, size * (size - 1) // 2)}

    def from_torch(self, module, hyper, tensors):
        """Take the triangles as they are."""
        return oft.OFT(tensors["oft_R.weight"], hyper["terms"])

    def to_torch(self, module, adapter):
        """Return the triangles as they are."""
        return {"oft_R.weight": adapter.q}

    def trim(self, adapter):
        """Leave out a layer that is not adapted."""
        return adapter if np.any(adapter.q) else None


PEFT = OftFormat()
