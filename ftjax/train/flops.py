"""Model FLOPs of a training step, by formula: what a step has to compute, not what it recomputes.

A matmul with a weight of n elements costs 2 n FLOPs per token forward, 2 n backward through the
activations, and 2 n more for the gradient of the weight only where it trains. So full fine-tuning
costs 6 N per token and LoRA 4 N plus 6 times its own elements. Attention adds 12 L T N H, counted
without the causal half, as in the appendix of PaLM (arXiv:2204.02311).
"""

import math
from collections.abc import Mapping

import jax

from ftjax.core import tree


def per_token(model, trainable, *, sequence: int) -> float:
    """Compute the FLOPs per token of one forward and backward pass.

    `trainable` is the trainable tree {"model", "adapters"} with holes, real or abstract.
    """
    maps = {path: site for path, site in model.linears.items() if not site.is_lookup}
    sizes = {path: math.prod(s.shape) * (s.stack or 1) for path, s in maps.items()}
    sizes.setdefault("head", model.config.vocab_size * model.config.dim)
    trained = tree.paths(trainable.get("model") or {})
    own = sum(size for path, size in sizes.items() if path in trained or _tied(path, trained))
    extra = sum(leaf.size for leaf in jax.tree.leaves(trainable.get("adapters") or {}))
    c = model.config
    attention = 12 * c.layers * sequence * c.heads * c.head_dim
    return 4.0 * sum(sizes.values()) + 2.0 * own + 6.0 * extra + attention


def _tied(path: str, trained: Mapping) -> bool:
    """A tied head is the embedding."""
    return path == "head" and "head" not in trained and "embed" in trained
