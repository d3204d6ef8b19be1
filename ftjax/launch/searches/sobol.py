"""A scrambled Sobol sequence: points that fill a space more evenly than independent draws do.

Fewer of them leave holes as large (Bergstra and Bengio, JMLR 2012, on random and quasi-random
search). More points begin with those of fewer; another number of keys makes another sequence.
"""

from collections.abc import Callable, Mapping, Sequence

from ftjax.core.typed import Natural
from ftjax.launch.lib import space as spaces

LEARNS = False


def make(*, seed: Natural = 0) -> Callable:
    """Take the points of a sequence; seed: of its scrambling."""

    def propose(space: Mapping, count: int, trials: Sequence) -> list[spaces.Overrides]:
        from scipy.stats import qmc  # slow to import

        own = {key: spaces.dimension(dim, where=key) for key, dim in space.items()}
        # By powers of two, for which alone the points are balanced; the last are left out.
        exponent = (count - 1).bit_length()
        points = qmc.Sobol(len(own), rng=seed).random_base2(exponent)[:count]
        rows = (zip(own.items(), point, strict=True) for point in points.tolist())
        return [{key: dim.at(place) for (key, dim), place in row} for row in rows]

    return propose
