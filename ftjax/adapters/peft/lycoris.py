"""What the files of LoHa and LoKr have in common: rank, alpha and patterns of both."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ftjax.adapters.peft import lora
from ftjax.adapters.peft.format import Format, number, pattern


class Lycoris(Format):
    """Fields of a method with a rank and an alpha per module; the scale is alpha / r."""

    keys = frozenset({
        "alpha", "alpha_pattern", "r", "rank_pattern",
        # Without effect on what the tensors mean:
        "init_weights", "module_dropout", "rank_dropout", "rank_dropout_scale",
        "use_effective_conv2d",
    })  # fmt: skip
    required = frozenset({"r", "alpha"})

    def read(self, config):
        """Read ranks and alphas."""
        return dict(
            rank=config["r"], alpha=config["alpha"], rslora=False,
            rank_pattern=config.get("rank_pattern") or {},
            alpha_pattern=config.get("alpha_pattern") or {},
        )  # fmt: skip

    def write(self, layers, hyper):
        """Find ranks and alphas, with the shortest patterns."""
        ranks = {name: self.rank(name, adapter, hyper) for name, adapter in layers.items()}
        alphas = {
            name: lora.alpha_of(float(x.scale), ranks[name], rslora=False)
            for name, x in layers.items()
        }
        (rank, rank_pattern), (alpha, alpha_pattern) = pattern(ranks), pattern(alphas)
        return {
            "alpha": number(alpha),
            "alpha_pattern": {key: number(value) for key, value in alpha_pattern.items()},
            "init_weights": True,
            "module_dropout": 0.0,
            "r": rank,
            "rank_dropout": 0.0,
            "rank_pattern": rank_pattern,
            "use_effective_conv2d": False,
        }

    def rank(self, name: str, adapter, hyper: Mapping[str, Any]) -> int:
        """Return the rank of a module's adapter."""
        raise NotImplementedError

    def trim(self, adapter):
        """Leave out what is zero: a layer that is not adapted."""
        return adapter if any(np.any(leaf) for leaf in jax.tree.leaves(adapter)) else None
