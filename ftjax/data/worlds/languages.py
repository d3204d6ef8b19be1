"""Seeded languages: order-2 Markov chains over 16 symbols, with a dial for their distance.

    P_i(c | a, b) = s * shared(c | a, b) + (1 - s) * own_i(c | a, b)

At s = 1 all languages are one, at s = 0 they have nothing in common. A row names its language
and then gives symbols, one token each: "Language 3:" -> " d a k p ...". Because the chain is
known, so is the smallest loss that any model can reach: `entropy_floor`, in nats per symbol.
"""

import functools

import numpy as np

from ftjax.data.worlds import generated

SYMBOLS = "abcdefghijklmnop"
BASE, NEW = (0, 1, 2, 3), (4, 5, 6, 7)
CONCENTRATION = 0.15  # of the Dirichlet rows: two such rows mixed half and half leave 1.9 nats


@functools.cache
def table(language: int, *, shared: float = 0.5, world: int = 0) -> np.ndarray:
    """Return the chain of one language, [16, 16, 16]: P(c | a, b) at [a, b, c]."""
    if not 0 <= shared <= 1:
        raise ValueError(f"languages: got shared={shared}; expected 0 to 1; 0.5 is a good start")
    own, common = (_dirichlet(world, who) for who in (f"own {int(language)}", "shared"))
    mixed = shared * common + (1 - shared) * own
    mixed.flags.writeable = False
    return mixed


def _dirichlet(world, who):
    rng = generated.generator("languages", world, who)
    n = len(SYMBOLS)
    # A little of the uniform distribution keeps every symbol possible and the chain irreducible.
    return 0.98 * rng.dirichlet(np.full(n, CONCENTRATION), size=(n, n)) + 0.02 / n


def stationary(chain: np.ndarray) -> np.ndarray:
    """Return the stationary distribution over pairs, [n, n], of a chain [n, n, n].

    It solves pi(b, c) = sum_a pi(a, b) P(c | a, b) with sum pi = 1, as one linear system.
    """
    n = chain.shape[0]
    step = np.zeros((n, n, n, n))
    for b in range(n):
        step[:, b, b, :] = chain[:, b, :]
    system = step.reshape(n * n, n * n).T - np.eye(n * n)
    solution, *_ = np.linalg.lstsq(
        np.vstack([system, np.ones(n * n)]), np.append(np.zeros(n * n), 1.0), rcond=None
    )
    return np.clip(solution, 0, None).reshape(n, n) / solution.sum()


def _entropy(p: np.ndarray) -> float:
    """Return -sum p log p with 0 log 0 = 0."""
    return float(-np.sum(p * np.log(np.where(p > 0, p, 1.0))))


def chain_entropy(chain: np.ndarray, *, length: int | None = None) -> float:
    """Return the entropy of a chain [n, n, n] in nats per symbol, at stationarity.

    Without `length` it is the entropy rate sum_ab pi(a, b) H(P(. | a, b)). With it, the mean over
    a row of `length` symbols whose first two come from pi: (H(pi) + (length - 2) rate) / length.
    """
    pi = stationary(chain)
    rate = _entropy(pi[:, :, None] * chain) - _entropy(pi)
    return rate if length is None else (_entropy(pi) + (length - 2) * rate) / length


def entropy_floor(
    language: int, *, shared: float = 0.5, world: int = 0, length: int | None = None
) -> float:
    """Return the smallest possible loss on a language, in nats per symbol (see `chain_entropy`)."""
    return chain_entropy(table(language, shared=shared, world=world), length=length)


def sample(chain: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `length` symbols, int64 [length], the first two from the stationary distribution."""
    n = chain.shape[0]
    pi, steps = _cumulative(chain.tobytes(), n)
    uniform = rng.random(length)
    a, b = divmod(int(np.searchsorted(pi, uniform[0], side="right")), n)
    drawn = [a, b]
    for u in uniform[1 : length - 1]:
        a, b = b, int(np.searchsorted(steps[a, b], u, side="right"))
        drawn.append(b)
    return np.array(drawn[:length])


@functools.lru_cache(maxsize=32)
def _cumulative(chain_bytes, n):
    chain = np.frombuffer(chain_bytes).reshape(n, n, n)
    pi, steps = np.cumsum(stationary(chain)), np.cumsum(chain, axis=-1)
    pi[-1] = steps[..., -1] = 1.0  # the last bound exactly one, whatever the rounding
    return pi, steps


def make(
    *,
    split: str = "train",
    rows: int | None = None,
    seed: int = 0,
    languages: str | int | tuple[int, ...] = "base",
    shared: float = 0.5,
    world: int = 0,
    length: int = 64,
):
    """Make prompt/response rows of `length` symbols, each in one of `languages`.

    `languages` is "base" (0 to 3), "new" (4 to 7), a number or several. `shared` is s: new
    languages may have another s than the base had, for the shared part depends on `world` alone.
    The splits are independent samples. A row also carries "language".
    """
    generated.legal(split, generated.SPLITS, "languages: split")
    if length < 2:
        raise ValueError(f"languages: got length={length}; expected 2 or more; 64 is the default")
    chosen = _chosen(languages)
    key = ("languages", split, seed)

    def draw(index):
        rng = generated.generator(*key, index)
        language = generated.pick(rng, chosen)
        drawn = sample(table(language, shared=shared, world=world), length, rng)
        text = " ".join(SYMBOLS[int(i)] for i in drawn)
        return {"prompt": f"Language {language}:", "response": f" {text}", "language": language}

    rows = generated.ROWS[split] if rows is None else rows
    return generated.Generated(draw, count=rows, name=f"languages/{split}")


def _chosen(languages):
    if isinstance(languages, str):
        groups = {"base": BASE, "new": NEW}
        return groups[generated.legal(languages, groups, "languages: languages")]
    return (languages,) if isinstance(languages, int) else tuple(languages)
