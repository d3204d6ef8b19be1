"""What a function has made, kept for calls with equal arguments.

@keep(8)
def program(model, chunk): ...
"""

import functools
from collections.abc import Callable


def keep(size: int) -> Callable[[Callable], Callable]:
    """Decorate a function of positional arguments, of which the last `size` results are kept.

    `functools.lru_cache` refuses arguments that have no hash, such as a model handle of somebody's
    own; with them the function is called anew.
    """

    def decorate(make: Callable) -> Callable:
        kept = functools.lru_cache(maxsize=size)(make)

        @functools.wraps(make)
        def call(*args):
            try:
                hash(args)
            except TypeError:
                return make(*args)
            return kept(*args)

        return call

    return decorate
