"""Learning rates that fall towards the input: lower layers change less (arXiv:1801.06146).

    scale = decay^(L - l)      of layer l = 0 .. L - 1

That of the head and the last norm is 1, that of the embedding decay^(L + 1).
"""

from collections.abc import Callable

import numpy as np

from ftjax.optim import stacks

EMBEDDING = "embed"


def make(decay: float, depths: stacks.Depths) -> Callable:
    """Make `(path, leaf) -> scale`, a number or an array that broadcasts against the leaf."""
    count = 1 + max(max(layers) for layers in depths.values())

    def scale(path: str, leaf):
        if (layers := stacks.layers_of(path, depths)) is None:
            below = EMBEDDING in path.split("/")[:2]
            return decay ** (count + 1 if below else 0)
        scales = np.float32(decay) ** np.float32([count - layer for layer in layers])
        return stacks.along(scales, path, leaf, where="optim.layer_decay")

    return scale
