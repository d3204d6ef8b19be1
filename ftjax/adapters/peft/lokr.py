"""LoKr in PEFT's files."""

import numpy as np

from ftjax.adapters import lokr
from ftjax.adapters.peft import lora, lycoris


class LokrFormat(lycoris.Lycoris):
    """Tensors lokr_w1 (o1, i1) or lokr_w1_a (o1, r) and lokr_w1_b (r, i1); the same of w2."""

    peft_type, kinds = "LOKR", (lokr.LoKr,)
    keys = lycoris.Lycoris.keys | {"decompose_both", "decompose_factor"}

    def read(self, config):
        """Read ranks, alphas and how sizes are split."""
        both, factor = bool(config.get("decompose_both")), config.get("decompose_factor", -1)
        return super().read(config) | dict(both=both, factor=factor)

    def write(self, layers, hyper):
        """Write ranks, alphas and how sizes are split."""
        return super().write(layers, hyper) | {
            "decompose_both": bool(hyper.get("both", False)),
            "decompose_factor": hyper.get("factor", -1),
            "rank_dropout_scale": False,
        }

    def rank(self, name, adapter, hyper):
        """Take the rank from the settings: matrices that are whole do not show it."""
        if "rank" not in hyper:
            raise ValueError("LoKr: got no rank in hyper; expected the adapter's own settings")
        return lora.rank_of(name, {"rank_pattern": {}} | hyper)

    def shapes(self, module, hyper):
        """Return the shapes of one tensor or two for each of w1 and w2."""
        both = lokr.shapes(
            module.outputs, module.inputs, rank=lora.rank_of(module.name, hyper),
            factor=hyper["factor"], both=hyper["both"],
        )  # fmt: skip
        return _named(*both)

    def from_torch(self, module, hyper, tensors):
        """Take the matrices as they are."""
        first, second = (
            tuple(tensors[suffix] for suffix in sorted(tensors) if suffix.startswith(w))
            for w in ("lokr_w1", "lokr_w2")
        )
        return lokr.LoKr(first, second, np.float32(lora.scale_of(module.name, hyper)))

    def to_torch(self, module, adapter):
        """Return the matrices as they are."""
        return _named(adapter.w1, adapter.w2)


def _named(first: tuple, second: tuple) -> dict:
    """Name what belongs to the matrices of w1 and w2 as PEFT does."""
    result = {}
    for name, parts in (("lokr_w1", first), ("lokr_w2", second)):
        ends = ("",) if len(parts) == 1 else ("_a", "_b")
        result |= {name + end: part for end, part in zip(ends, parts, strict=True)}
    return result


PEFT = LokrFormat()
