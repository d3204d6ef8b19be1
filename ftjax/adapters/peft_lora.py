"""LoRA and DoRA in PEFT's files.

Layers of a stack whose ranks differ are padded with zeros to the largest rank, and each layer has
its own scale. Zero columns of `a` facing zero rows of `b` stay zero in training, so on export the
true ranks are found again, and a layer that was not adapted (a and b zero) is left out.
"""

import dataclasses

import numpy as np

from ftjax.adapters import peft_config
from ftjax.adapters.dora import DoRA
from ftjax.adapters.lora import LoRA
from ftjax.adapters.peft_format import Format, number, pattern
from ftjax.core import layout

# Initialisations that change the base: their factors belong to the residual, not to the base.
CHANGES_BASE = ("corda", "loftq", "lora_ga", "olora", "pissa")
MAGNITUDE = "lora_magnitude_vector"


class LoraFormat(Format):
    """Tensors lora_A (r, in) and lora_B (out, r); with `use_dora` lora_magnitude_vector (out)."""

    peft_type, kinds = "LORA", (LoRA, DoRA)
    keys = frozenset({
        "alpha_pattern", "init_lora_weights", "lora_alpha", "lora_dropout", "r", "rank_pattern",
        "use_dora", "use_rslora",
        # Without effect on what the tensors mean:
        "corda_config", "eva_config", "fan_in_fan_out", "loftq_config", "lora_ga_config",
        "megatron_core", "qalora_group_size",
    })  # fmt: skip
    required = frozenset({"r", "lora_alpha"})

    def read(self, config):
        """Read ranks, alphas and the dropout."""
        init = config.get("init_lora_weights", True)
        if isinstance(init, str) and init.startswith(CHANGES_BASE):
            raise ValueError(f"init_lora_weights={init!r}")
        return dict(
            rank=config["r"], alpha=config["lora_alpha"], rslora=bool(config.get("use_rslora")),
            dropout=float(config.get("lora_dropout") or 0.0), dora=bool(config.get("use_dora")),
            rank_pattern=config.get("rank_pattern") or {},
            alpha_pattern=config.get("alpha_pattern") or {},
        )  # fmt: skip

    def write(self, layers, hyper):
        """Find ranks and alphas; the shortest patterns that give each module its own."""
        rslora = bool(hyper.get("rslora"))
        ranks = {name: adapter.b.shape[0] for name, adapter in layers.items()}
        alphas = {n: _alpha(float(x.scale), ranks[n], rslora=rslora) for n, x in layers.items()}
        (rank, rank_pattern), (alpha, alpha_pattern) = pattern(ranks), pattern(alphas)
        return {
            "alpha_pattern": {key: number(value) for key, value in alpha_pattern.items()},
            "bias": "none",
            "fan_in_fan_out": False,
            # The factors are in the file: nothing is to be drawn, and no base to be decomposed.
            "init_lora_weights": True,
            "lora_alpha": number(alpha),
            "lora_dropout": max(adapter.dropout for adapter in layers.values()),
            "r": rank,
            "rank_pattern": rank_pattern,
            "use_dora": any(isinstance(adapter, DoRA) for adapter in layers.values()),
            "use_rslora": rslora,
        }

    def shapes(self, module, hyper):
        """Give (r, in), (out, r), and (out,)."""
        rank = rank_of(module.name, hyper)
        length = {MAGNITUDE: (module.outputs,)} if hyper["dora"] else {}
        low = {"lora_A.weight": (rank, module.inputs), "lora_B.weight": (module.outputs, rank)}
        return low | length

    def from_torch(self, module, hyper, tensors):
        """Unflatten A and B into our letters."""
        e, rank = module.e, rank_of(module.name, hyper)
        a, b = tensors["lora_A.weight"], tensors["lora_B.weight"]
        a = module.from_torch(a, "R", e.contracted, letters=e.contracted + "R", R=rank)
        b = module.from_torch(b, e.kept, "R", letters="R" + e.kept, R=rank)
        rest = (np.float32(scale_of(module.name, hyper)), hyper["dropout"])
        if not hyper["dora"]:
            return LoRA(a, b, *rest)
        return DoRA(a, b, module.from_torch(tensors[MAGNITUDE], e.kept, letters=e.kept), *rest)

    def to_torch(self, module, adapter):
        """Flatten a and b."""
        e = module.e
        a = layout.Layout(("R", e.contracted), e.contracted + "R").to_torch(adapter.a)
        b = layout.Layout((e.kept, "R"), "R" + e.kept).to_torch(adapter.b)
        length = {MAGNITUDE: adapter.m.reshape(-1)} if isinstance(adapter, DoRA) else {}
        return {"lora_A.weight": a, "lora_B.weight": b} | length

    def trim(self, adapter):
        """Cut a and b to their true rank."""
        a, b = adapter.a, adapter.b
        used = np.any(a.reshape(-1, a.shape[-1]), 0) | np.any(b.reshape(b.shape[0], -1), 1)
        return dataclasses.replace(adapter, a=a[..., used], b=b[used]) if used.any() else None

    def align(self, layers):
        """Pad with zeros to the largest rank."""
        most = max(layer.b.shape[0] for layer in layers)

        def pad(x):
            lacking = (0, most - x.b.shape[0])
            a = np.pad(x.a, [(0, 0)] * (x.a.ndim - 1) + [lacking])
            b = np.pad(x.b, [lacking] + [(0, 0)] * (x.b.ndim - 1))
            return dataclasses.replace(x, a=a, b=b)

        return [pad(layer) for layer in layers]


def rank_of(name: str, hyper) -> int:
    """Return the rank of an adapted module."""
    return peft_config.by_pattern(hyper["rank_pattern"], name, hyper["rank"])


def scale_of(name: str, hyper) -> float:
    """Return the factor of a b: alpha / r, or alpha / sqrt(r) with rsLoRA."""
    rank = rank_of(name, hyper)
    alpha = peft_config.by_pattern(hyper["alpha_pattern"], name, hyper["alpha"])
    return alpha / (rank**0.5 if hyper["rslora"] else rank)


def _alpha(scale: float, rank: int, *, rslora: bool) -> float:
    """Invert the scale; the roundest number that gives the same float32."""
    divisor = rank**0.5 if rslora else rank
    exact = scale * divisor
    rounder = (round(exact, digits) for digits in range(8))
    same = (x for x in rounder if np.float32(x / divisor) == np.float32(scale))
    return next(same, exact)


PEFT = LoraFormat()
