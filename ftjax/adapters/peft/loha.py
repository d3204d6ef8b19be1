"""LoHa in PEFT's files."""

import numpy as np

from ftjax.adapters import loha
from ftjax.adapters.peft import lora as peft_lora
from ftjax.adapters.peft import lycoris
from ftjax.core import einsum, torch_layout


class LohaFormat(lycoris.Lycoris):
    """Tensors hada_w1_a (out, r), hada_w1_b (r, in) and the same of w2: a there is b here."""

    peft_type, kinds = "LOHA", (loha.LoHa,)

    def rank(self, name, adapter, hyper):
        """Take the rank from the factors."""
        return adapter.b1.shape[0]

    def shapes(self, module, hyper):
        """Return (out, r) and (r, in), twice."""
        rank = peft_lora.rank_of(module.name, hyper)
        one = lambda w: {f"{w}_a": (module.outputs, rank), f"{w}_b": (rank, module.inputs)}
        return one("hada_w1") | one("hada_w2")

    def from_torch(self, module, hyper, tensors):
        """Unflatten the factors into our letters."""
        low, rank = einsum.lora(module.linear.equation), peft_lora.rank_of(module.name, hyper)
        b, a = _layouts(module.e)
        known, factors = module.sizes | {"R": rank}, []
        for w in ("hada_w1", "hada_w2"):
            factors.append(torch_layout.Layout(a, low.a).from_torch(tensors[f"{w}_b"], known))
            factors.append(torch_layout.Layout(b, low.b).from_torch(tensors[f"{w}_a"], known))
        return loha.LoHa(*factors, np.float32(peft_lora.scale_of(module.name, hyper)))

    def to_torch(self, module, adapter):
        """Flatten the factors."""
        low = einsum.lora(module.linear.equation)
        (b, a), result = _layouts(module.e), {}
        for w, ours_a, ours_b in (
            ("hada_w1", adapter.a1, adapter.b1),
            ("hada_w2", adapter.a2, adapter.b2),
        ):
            result[f"{w}_a"] = torch_layout.Layout(b, low.b).to_torch(ours_b)
            result[f"{w}_b"] = torch_layout.Layout(a, low.a).to_torch(ours_a)
        return result


def _layouts(e: einsum.Einsum) -> tuple[tuple[str, str], tuple[str, str]]:
    """Name torch's axes of our b and of our a."""
    return (e.kept, "R"), ("R", e.contracted)


PEFT = LohaFormat()
