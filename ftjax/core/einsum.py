"""Equations of linear maps, in one legend of letters for the whole project.

B batch, P pair, T query time, S key time, L layers, D model, N query heads, K kv heads,
G = N/K, H head dim, F ffw, V vocab, R rank, M member, E expert, I ffw of one expert. In a weight, C
numbers the parts of a fused projection, and J = N + 2K are its heads of queries, keys and values.
Tokens that were sent to experts are EBTD, T being an expert's seats in a row. O is one; U is the
ffw of a shared expert. In layers with a state, X and Y are heads of keys and values, G and P their
features, Q channels of a convolution of W taps. What else a family needs, its `sizes` say.

A linear map is `x,w->y`, for instance `BTD,DNH->BTNH`. Its letters say everything that an adapter
or a sharding has to know:

    parse("BTNH,NHD->BTD")   contracted "NH", kept "D"
    lora("BTNH,NHD->BTD")    a "NHR", b "RD": x,a -> BTR, then BTR,b -> BTD
"""

import dataclasses
import functools
import math


@dataclasses.dataclass(frozen=True)
class Einsum:
    """The parts of `x,w->y`; letters of `w` fall into `shared` (in x, w, y), contracted, kept."""

    x: str
    w: str
    y: str

    @property
    def shared(self) -> str:
        """Letters in all three, such as the expert axis."""
        return "".join(c for c in self.w if c in self.x and c in self.y)

    @property
    def contracted(self) -> str:
        """Letters of the input that the map sums over."""
        return "".join(c for c in self.w if c in self.x and c not in self.y)

    @property
    def kept(self) -> str:
        """Letters that the map adds to the output."""
        return "".join(c for c in self.w if c not in self.x)


@functools.cache
def parse(equation: str) -> Einsum:
    """Parse `x,w->y`.

    Raises:
      ValueError: the equation is not of two operands in distinct capital letters, or a letter of
        the output comes from nowhere.
    """
    operands, arrow, y = equation.partition("->")
    x, comma, w = operands.partition(",")
    letters_ok = all(part.isalpha() and part.isupper() for part in (x, w, y))
    distinct = all(len(set(part)) == len(part) for part in (x, w, y))
    if not (arrow and comma and letters_ok and distinct and set(y) <= set(x + w)):
        raise ValueError(
            f"equation: got {equation!r}; expected 'x,w->y' such as 'BTD,DNH->BTNH'; "
            "use distinct capital letters of the legend in ftjax/core/einsum.py"
        )
    return Einsum(x, w, y)


@dataclasses.dataclass(frozen=True)
class LowRank:
    """Letters of the factors `a`, `b` of a low-rank map, and its three contractions."""

    a: str
    b: str
    down: str  # x,a -> x with the contracted letters replaced by R
    up: str  # that,b -> y
    weight: str  # a,b -> w


@functools.cache
def lora(equation: str) -> LowRank:
    """Rewrite `x,w->y` as two maps through a rank axis R (gemma's einsum rewrite).

    `BTD,DNH->BTNH` gives a DR, b RNH: R is the last axis of a and the first of b. A shared letter
    (experts) stays on both factors.
    """
    e = parse(equation)
    a, b = e.shared + e.contracted + "R", "R" + e.shared + e.kept
    middle = "".join(c for c in e.x if c not in e.contracted) + "R"
    return LowRank(a, b, f"{e.x},{a}->{middle}", f"{middle},{b}->{e.y}", f"{a},{b}->{e.w}")


def sizes(letters: str, shape: tuple[int, ...]) -> dict[str, int]:
    """Name the sizes of an array's axes: `sizes("DNH", (8, 2, 4)) == dict(D=8, N=2, H=4)`."""
    if len(letters) != len(shape):
        raise ValueError(f"axes: got shape {shape} for the letters {letters!r}; expected as many")
    return dict(zip(letters, shape, strict=True))


def size(letters: str, by_letter: dict[str, int]) -> int:
    """Multiply the sizes of `letters`."""
    return math.prod(by_letter[c] for c in letters)
