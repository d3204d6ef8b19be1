"""VeRA (arXiv:2310.11454): low-rank maps through random projections that all layers share.

    w' = w + s * a diag(d) b diag(g)        a, b lettered as LoRA's, drawn once and never trained

What trains are the vectors d over the rank and g over the kept letters; g starts at zero. The
projections of every map are the beginnings of the same two, drawn from `seed`, uniform with
variance 2 and 2 / R; s = 1 / sqrt(fan in), so that a has the paper's variance 2 / fan in.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.adapters import lora
from ftjax.adapters.lib import matrix, protocol
from ftjax.adapters.peft.format import Format, number
from ftjax.core import einsum, torch_layout, tree
from ftjax.core.typed import Count, Natural, Positive

EXAMPLE = dict(rank=4)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VeRA(protocol.Adapter):
    """Projections a (contracted letters, R), b (R, kept); vectors d (R), g (kept); scale s."""

    a: jax.Array
    b: jax.Array
    d: jax.Array
    g: jax.Array
    scale: jax.Array

    FROZEN: ClassVar = ("a", "b", "scale")
    PADS: ClassVar = True

    def _lora(self, equation: str) -> lora.LoRA:
        """Write it as LoRA. Both vectors go to b, since no gradient goes to a."""
        e, parsed = einsum.lora(equation), einsum.parse(equation)
        b = matrix.scaled(e.b, self.b, parsed.shared + "R", self.scale * self.d)
        b = matrix.scaled(e.b, b, parsed.shared + parsed.kept, self.g)
        return lora.LoRA(self.a, b, jnp.float32(1))

    def merge(self, equation: str, w: jax.Array) -> jax.Array:
        """Compute w + s * a diag(d) b diag(g)."""
        return self._lora(equation).merge(equation, w)

    def apply(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Apply LoRA with b' = s * diag(d) b diag(g)."""
        return self._lora(equation).apply(equation, x, w)

    def apply_alone(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Apply that LoRA to one row."""
        return self._lora(equation).apply_alone(equation, x, w)

    def axes(self, equation: str) -> "VeRA":
        """Letters of the projections, which layers share, and of the vectors."""
        e, parsed = einsum.lora(equation), einsum.parse(equation)
        a, b = tree.Shared(e.a), tree.Shared(e.b)
        return VeRA(a, b, parsed.shared + "R", parsed.shared + parsed.kept, "")


def make(*, rank: Count, d_initial: Positive = 0.1, seed: Natural = 0):
    """Make the initialiser of VeRA adapters, float32 whatever the base's dtype.

    Raises:
      ValueError: the rank is not positive.
    """
    if rank < 1:
        raise ValueError(f"adapter.rank: got {rank}; expected at least 1")

    def init(key: jax.Array, site, w: jax.Array) -> VeRA:
        e, parsed = einsum.lora(site.equation), einsum.parse(site.equation)
        known = einsum.sizes(parsed.w, w.shape) | {"R": rank}
        shape = lambda letters: [known[c] for c in letters]
        summed, made = (einsum.size(c, known) for c in (parsed.contracted, parsed.kept))
        a_key, b_key = jax.random.split(jax.random.key(seed))
        # Experts share the projections, too.
        a = _draw(a_key, summed, rank).reshape(shape(parsed.contracted + "R"))
        b = (_draw(b_key, made, rank) / rank**0.5).T.reshape(shape("R" + parsed.kept))
        d = jnp.full(shape(parsed.shared + "R"), d_initial, jnp.float32)
        g = jnp.zeros(shape(parsed.shared + parsed.kept), jnp.float32)
        b = jnp.expand_dims(b, tuple(range(1, 1 + len(parsed.shared))))  # the rank comes first
        a, b = jnp.broadcast_to(a, shape(e.a)), jnp.broadcast_to(b, shape(e.b))
        return VeRA(tree.Shared(a), tree.Shared(b), d, g, jnp.float32(summed**-0.5))

    return init


def _draw(key: jax.Array, rows: int, rank: int) -> jax.Array:
    """Draw [rows, rank] of variance 2, so that more rows begin with the same ones."""
    bound = 6**0.5
    one = lambda row: jax.random.uniform(
        jax.random.fold_in(key, row), (rank,), jnp.float32, -bound, bound
    )
    return jax.vmap(one)(jnp.arange(rows))


# -- PEFT's files ----------------------------------------------------------------------------------

A, B = "base_model.vera_A", "base_model.vera_B"


class VeraFormat(Format):
    """Tensors vera_lambda_d (r,) and vera_lambda_b (out,); vera_A and vera_B once for all.

    A is (r, the widest input) and B (the widest output, r). A file that has been saved without
    them has the seed that they are drawn from.
    """

    peft_type, kinds = "VERA", (VeRA,)
    keys = frozenset({
        "d_initial", "projection_prng_key", "r", "save_projection",
        # Without effect on what the tensors mean:
        "fan_in_fan_out", "init_weights", "vera_dropout",
    })  # fmt: skip
    required = frozenset({"projection_prng_key", "r", "save_projection"})
    lacks = frozenset({"exclude_modules"})

    def read(self, config):
        """Read the rank, the seed and the start of d."""
        return dict(
            rank=config["r"], d_initial=config.get("d_initial", 0.1),
            seed=config["projection_prng_key"], saved=config["save_projection"],
        )  # fmt: skip

    def write(self, layers, hyper):
        """Write the rank; the seed draws other projections there, which the file's replace."""
        return {
            "bias": "none",
            "d_initial": number(hyper.get("d_initial", 0.1)),
            "fan_in_fan_out": False,
            "init_weights": True,
            "projection_prng_key": hyper.get("seed", 0),
            "r": next(iter(layers.values())).d.shape[0],
            "save_projection": True,
            "vera_dropout": 0.0,
        }

    def shapes_once(self, modules, hyper):
        """Give the shapes of A and B, if they are in the file."""
        if not hyper["saved"] or not modules:
            return {}
        widest = max(m.inputs for m in modules), max(m.outputs for m in modules)
        return {A: (hyper["rank"], widest[0]), B: (widest[1], hyper["rank"])}

    def complete(self, modules, hyper, tensors):
        """Draw A and B where the file does not have them."""
        if tensors:
            return tensors
        shapes = self.shapes_once(modules, hyper | {"saved": True})
        return dict(zip(shapes, projections(*shapes.values(), hyper["seed"]), strict=True))

    def shapes(self, module, hyper):
        """Give (out,) and (r,)."""
        return {"vera_lambda_b": (module.outputs,), "vera_lambda_d": (hyper["rank"],)}

    def from_torch(self, module, hyper, tensors):
        """Unflatten the vectors, and the beginnings of the projections, into our letters."""
        e, low = module.e, einsum.lora(module.linear.equation)
        sizes = module.sizes | {"R": hyper["rank"]}
        a, b = tensors[A][:, : module.inputs], tensors[B][: module.outputs]
        a = torch_layout.Layout(("R", e.contracted), low.a).from_torch(a, sizes)
        b = torch_layout.Layout((e.kept, "R"), low.b).from_torch(b, sizes)
        d, g = tensors["vera_lambda_d"], tensors["vera_lambda_b"]
        g = g.reshape([sizes[c] for c in e.kept])
        return VeRA(tree.Shared(a), tree.Shared(b), d, g, np.float32(1))

    def to_torch(self, module, adapter):
        """Flatten the vectors; the scale goes to d."""
        return {
            "vera_lambda_b": adapter.g.reshape(-1),
            "vera_lambda_d": adapter.d * adapter.scale,
        }

    def to_torch_once(self, adapters):
        """Return the widest projections, after checking that the others are their beginnings."""
        found = tree.unshared(dict(adapters))
        rank = {path: x.a.shape[-1] for path, x in found.items()}
        wide = {path: np.asarray(x.a).reshape(-1, rank[path]) for path, x in found.items()}
        tall = {path: np.asarray(x.b).reshape(rank[path], -1).T for path, x in found.items()}
        return {A: np.ascontiguousarray(_longest(wide).T), B: _longest(tall)}

    def trim(self, adapter):
        """Leave out a layer that is not adapted."""
        return adapter if np.any(adapter.d) or np.any(adapter.g) else None


def _longest(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return the longest of arrays that begin with each other.

    Raises:
      ValueError: they do not.
    """
    longest = max(arrays.values(), key=len)
    for path, array in arrays.items():
        if not np.array_equal(array, longest[: len(array)]):
            raise ValueError(
                f"adapters/{path}: got projections that differ from those of other maps; expected "
                "the same ones everywhere, as PEFT has it; use one adapter.rank and adapter.seed"
            )
    return np.ascontiguousarray(longest)


def projections(a_shape: tuple[int, int], b_shape: tuple[int, int], seed: int):
    """Draw A and B as PEFT does: the Mersenne Twister's low 24 bits, uniform in +-sqrt(6 / fan)."""
    twister = np.random.RandomState(seed)
    for shape in (a_shape, b_shape):
        words = twister.randint(0, 2**32, shape, np.uint32) & (2**24 - 1)
        bound = np.float32((6 / shape[1]) ** 0.5)
        yield words.astype(np.float32) * np.float32(2**-24) * (2 * bound) - bound


PEFT = VeraFormat()
