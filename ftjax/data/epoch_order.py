"""Which examples an epoch shows, and in which order: pure functions of (seed, epoch).

An epoch is one pass over the first part. Part k with share s_k is drawn n_0 s_k / s_0 times an
epoch, walking through an endless stream of its own permutations:

    stream of part k:  permutation 0 | permutation 1 | permutation 2 ...
    epoch e:           [floor(e x), floor((e + 1) x)),  x = n_0 s_k / s_0

so over many epochs every example of a part is seen equally often, up to one.
"""

import math
from collections.abc import Sequence

import numpy as np

PASS, MIX, ROWS = range(3)


def order(counts: Sequence[int], shares: Sequence[float], *, seed: int, epoch: int, shuffle: bool):
    """Return the examples of an epoch as int64 indices into the parts laid end to end.

    counts, shares: examples and share of each part. Without `shuffle` every part is walked in its
    own order, and the parts are spread evenly over the epoch.
    """
    first = np.cumsum([0, *counts])
    drawn = []
    for part, (count, share) in enumerate(zip(counts, shares, strict=True)):
        # Part 0 by its count, so that rounding can never cost it an example.
        rate = count if part == 0 else counts[0] * share / shares[0]
        span = math.floor(epoch * rate), math.floor((epoch + 1) * rate)
        stream = _stream(count, *span, seed=seed, part=part, shuffle=shuffle)
        drawn.append(first[part] + stream)
    together = np.concatenate(drawn)
    if shuffle:
        return together[_rng(seed, MIX, epoch).permutation(len(together))]
    at = np.concatenate([(np.arange(len(each)) + 0.5) / max(len(each), 1) for each in drawn])
    return together[np.argsort(at, kind="stable")]


def permutation(size: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the packed rows of an epoch."""
    return _rng(seed, ROWS, epoch).permutation(size)


def _stream(count: int, start: int, stop: int, *, seed: int, part: int, shuffle: bool):
    """Return items [start, stop) of the endless stream of passes over `count` examples."""
    if start == stop:
        return np.zeros(0, np.int64)
    passes = range(start // count, -(-stop // count))
    walk = [
        _rng(seed, PASS, part, each).permutation(count) if shuffle else np.arange(count)
        for each in passes
    ]
    begin = passes[0] * count
    return np.concatenate(walk)[start - begin : stop - begin]


def _rng(seed: int, *purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, *purpose])
