"""Learning rates that fall towards the input: lower layers change less (arXiv:1801.06146).

    scale = decay^(L - l)      of layer l = 0 .. L - 1

That of the head and the last norm is 1, that of the embedding decay^(L + 1).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

EMBEDDING = "embed"


def make(decay: float, depths: Mapping[str, Sequence[int]]) -> Callable:
    """Make `(path, leaf) -> scale`, a number or an array that broadcasts against the leaf.

    depths: of every stack of layers, by the first segment of its paths behind `model/` or
      `adapters/`, which layers of the model it holds, in order.
    """
    count = 1 + max(max(layers) for layers in depths.values())

    def scale(path: str, leaf):
        name = path.split("/")[1] if "/" in path else path
        if name not in depths:
            return decay ** (count + 1 if name == EMBEDDING else 0)
        layers = depths[name]
        if leaf.ndim == 0 or leaf.shape[0] != len(layers):
            raise ValueError(
                f"optim.layer_decay: got {path} of the shape {list(leaf.shape)}, which all layers "
                "share; expected arrays of single layers; drop layer_decay"
            )
        scales = np.float32(decay) ** np.float32([count - layer for layer in layers])
        return scales.reshape(-1, *[1] * (leaf.ndim - 1))

    return scale
