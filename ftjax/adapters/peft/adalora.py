"""AdaLoRA in PEFT's files: tensors lora_A (r, in), lora_B (out, r), lora_E (r, 1).

The schedule of the rank budget goes along in the config; here it belongs to `optim.ranks`, so that
it is written as what a finished run has: every rank that is there stays.
"""

import dataclasses

import numpy as np

from ftjax.adapters.adalora import FLOOR, AdaLoRA
from ftjax.adapters.peft.format import Format, number
from ftjax.core import torch_layout as layout

BUDGET = (
    "beta1",
    "beta2",
    "deltaT",
    "orth_reg_weight",
    "target_r",
    "tfinal",
    "tinit",
    "total_step",
)


class AdaLoraFormat(Format):
    """The fields of the budget are kept as they are read."""

    peft_type, kinds = "ADALORA", (AdaLoRA,)
    keys = frozenset({
        "init_lora_weights", "init_r", "lora_alpha", "lora_dropout", "r", *BUDGET,
        # Without effect on what the tensors mean:
        "corda_config", "eva_config", "fan_in_fan_out", "loftq_config", "lora_ga_config",
        "megatron_core", "qalora_group_size",
    })  # fmt: skip
    required = frozenset({"init_r", "lora_alpha"})

    def read(self, config):
        """Read the first rank, alpha, the dropout, and the budget."""
        return dict(
            rank=config["init_r"],
            alpha=config["lora_alpha"],
            r=config.get("r", 8),
            dropout=float(config.get("lora_dropout") or 0.0),
            budget={key: config[key] for key in BUDGET if key in config},
        )

    def write(self, layers, hyper):
        """Write the rank and the alpha that the arrays have."""
        some = next(iter(layers.values()))
        rank = max(x.e.shape[0] for x in layers.values())
        alpha = round(float(some.scale) * (rank + FLOOR), 4)
        budget = dict(target_r=rank, tinit=0, tfinal=0) | dict(hyper.get("budget") or {})
        # PEFT opens no file without a step at which ranks are given up, trained or not.
        if not budget.get("total_step"):
            budget["total_step"] = budget["tinit"] + budget["tfinal"] + 1
        return budget | {
            "bias": "none", "fan_in_fan_out": False, "init_lora_weights": True, "init_r": rank,
            "lora_alpha": number(alpha), "lora_dropout": some.dropout, "r": hyper.get("r", rank),
        }  # fmt: skip

    def shapes(self, module, hyper):
        """Return (r, in), (out, r) and (r, 1)."""
        rank = hyper["rank"]
        low = {"lora_A": (rank, module.inputs), "lora_B": (module.outputs, rank)}
        return low | {"lora_E": (rank, 1)}

    def from_torch(self, module, hyper, tensors):
        """Unflatten A and B into our letters."""
        e, rank = module.e, hyper["rank"]
        a = module.from_torch(
            tensors["lora_A"], "R", e.contracted, letters=e.contracted + "R", R=rank
        )
        b = module.from_torch(tensors["lora_B"], e.kept, "R", letters="R" + e.kept, R=rank)
        scale = np.float32(hyper["alpha"] / (rank + FLOOR))
        return AdaLoRA(a, tensors["lora_E"][:, 0], b, scale, hyper["dropout"])

    def to_torch(self, module, adapter):
        """Flatten a and b."""
        e = module.e
        return {
            "lora_A": layout.Layout(("R", e.contracted), e.contracted + "R").to_torch(adapter.a),
            "lora_B": layout.Layout((e.kept, "R"), "R" + e.kept).to_torch(adapter.b),
            "lora_E": np.ascontiguousarray(adapter.e[:, None]),
        }

    def trim(self, adapter):
        """Leave out a layer of which nothing is there."""
        return adapter if adapter.a.any() or adapter.b.any() or adapter.e.any() else None

    def absent(self, like):
        """A layer without values, and of the same scale."""
        zero = lambda x: np.zeros_like(x)
        return dataclasses.replace(like, a=zero(like.a), b=zero(like.b), e=zero(like.e))


PEFT = AdaLoraFormat()
