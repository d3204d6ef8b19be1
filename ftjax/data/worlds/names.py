"""Invented names in disjoint pools: nobody in one population is met in another.

A name is two or three open syllables ("Bamo", "Telika"), so a small byte-level tokenizer writes
it in two or three tokens. The first two syllables decide the pool:

    pool(name) = POOLS[crc32(first two syllables) mod 16]
"""

import functools

import numpy as np

from ftjax.data.worlds import generated

SYLLABLES = tuple(c + v for c in "bdfghjklmnprstvz" for v in "aeiou")
MAX_NAMES = 16  # different first letters
# Four populations of known people, then those met in one passage only; the rest is "train".
POOLS = ("base", "new", "new2", "new3", "validation", "test") + ("train",) * 10


@functools.cache
def stems(pool: str) -> tuple[str, ...]:
    """Return the two-syllable names of `pool`, capitalised, in alphabetical order."""
    generated.legal(pool, set(POOLS), "names.stems: pool")
    every = (a + b for a in SYLLABLES for b in SYLLABLES)
    return tuple(stem.capitalize() for stem in every if pool_of(stem) == pool)


def pool_of(name: str) -> str:
    """Return the pool of a name; only its first two syllables count."""
    return POOLS[generated.bucket(name[:4].lower(), len(POOLS))]


def draw(rng: np.random.Generator, pool: str, count: int) -> list[str]:
    """Draw `count` names (at most 16) with different first letters; a quarter are long.

    A name is then told by its first token, whatever the tokenizer: a tiny model should be tested
    on reading, not on telling "Bamo" from "Bamu".
    """
    if count > MAX_NAMES:
        raise ValueError(
            f"names: got count={count}; expected at most {MAX_NAMES}; take fewer people"
        )
    found: dict[str, str] = {}
    while len(found) < count:
        stem = generated.pick(rng, stems(pool))
        long = rng.random() < 0.25
        found.setdefault(stem[0], stem + (generated.pick(rng, SYLLABLES) if long else ""))
    return list(found.values())


def population(pool: str, people: int, world: int) -> list[str]:
    """Return the `people` fixed names of a population in world number `world`."""
    available = stems(pool)
    if not 1 <= people <= len(available):
        raise ValueError(
            f"facts: got people={people}; expected 1 to {len(available)} in population {pool!r}; "
            "take another population as well"
        )
    return generated.sample(generated.generator("population", pool, world), available, people)


def word(rng: np.random.Generator) -> str:
    """Return a nonsense word of two or three syllables, in small letters."""
    count = 2 if rng.random() < 0.75 else 3
    return "".join(SYLLABLES[int(i)] for i in rng.integers(len(SYLLABLES), size=count))
