"""Model FLOPs of a training step, by formula: what a step has to compute, not what it recomputes.

A matmul with a weight of n elements costs 2 n FLOPs per token forward, 2 n backward through the
activations, and 2 n more for the gradient of the weight only where it trains. So full fine-tuning
costs 6 N per token and LoRA 4 N plus 6 times its own elements; of E experts the k that a token
meets count. Attention adds 12 L T N H; as in the appendix of PaLM (arXiv:2204.02311) that is
without the causal mask, which leaves half of it: `Cost` has both. A reference, sampling and scoring
are forward passes of their own, 2 N per token.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from ftjax.core import einsum, tree


class Cost(NamedTuple):
    """FLOPs per token, with all of attention and with the half that a causal mask leaves."""

    full: float
    causal: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.full + other.full, self.causal + other.causal)

    def times(self, factor: float) -> "Cost":
        """Return the cost of so many of them."""
        return Cost(self.full * factor, self.causal * factor)


def per_token(model, trainable, *, sequence: int) -> Cost:
    """Compute the FLOPs per token of one forward and backward pass.

    `trainable` is the trainable tree {"model", "adapters"} with holes, real or abstract.
    """
    sizes, shares = _sizes(model)
    trained = tree.paths(trainable.get("model") or {})
    own = sum(size for path, size in sizes.items() if path in trained or _tied(path, trained))
    added = tree.paths(trainable.get("adapters") or {}).items()
    # An adapter on experts is met by the tokens that its experts get.
    extra = sum(leaf.size * shares.get(path.rpartition("/")[0], 1) for path, leaf in added)
    weights = 4.0 * sum(sizes.values()) + 2.0 * own + 6.0 * extra
    return _with_attention(weights, model, sequence, passes=3)


def forward(model, *, sequence: int) -> Cost:
    """Compute the FLOPs per token of one forward pass: of a reference, of sampling, of scoring."""
    return _with_attention(2.0 * sum(_sizes(model)[0].values()), model, sequence, passes=1)


def _sizes(model) -> tuple[dict[str, float], dict[str, float]]:
    """Return the elements that a token meets of every matmul, the head's included; and shares."""
    # A lookup multiplies nothing.
    maps = {path: site for path, site in model.linears.items() if not site.is_lookup}
    shares = {path: share(model, site) for path, site in maps.items()}
    sizes = {p: math.prod(s.shape) * (s.stack or 1) * shares[p] for p, s in maps.items()}
    # A tied head multiplies too, and has no weight of its own among the maps.
    sizes.setdefault("head", model.config.vocab_size * model.config.dim)
    return sizes, shares


def _with_attention(weights: float, model, sequence: int, *, passes: int) -> Cost:
    """Add scores and their use, 4 L T N H forward and twice that backward."""
    c = model.config
    # By heads and their size: their product is not the model's width in every family.
    attention = 4.0 * passes * c.layers * sequence * c.heads * c.head_dim
    return Cost(weights + attention, weights + attention / 2)


def share(model, site) -> float:
    """Return which part of a map a token meets: all of it, or its top k of E experts."""
    if "E" not in einsum.parse(site.equation).shared:
        return 1
    return model.config.top / model.config.experts


def active(model) -> float:
    """Count the parameters that one token meets; all of them unless there are experts."""
    sizes = {path: math.prod(leaf.shape) for path, leaf in tree.paths(model.abstract).items()}
    idle = (sizes[path] * (1 - share(model, site)) for path, site in model.linears.items())
    return sum(sizes.values()) - sum(idle)


def _tied(path: str, trained: Mapping) -> bool:
    """A tied head is the embedding."""
    return path == "head" and "head" not in trained and "embed" in trained
