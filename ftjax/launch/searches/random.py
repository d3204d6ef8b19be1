"""Independent draws, each key by itself."""

from collections.abc import Callable

from ftjax.core.typed import Natural
from ftjax.launch.lib import space as spaces

LEARNS = False


def make(*, seed: Natural = 0) -> Callable:
    """Draw settings as `space.sample` does."""
    return lambda space, count, trials: spaces.sample(count, space, seed=seed)
