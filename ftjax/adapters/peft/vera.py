"""VeRA in PEFT's files."""

import numpy as np

from ftjax.adapters import vera
from ftjax.adapters.peft.format import Format, number
from ftjax.core import einsum, torch_layout, tree

A, B = "base_model.vera_A", "base_model.vera_B"


class VeraFormat(Format):
    """Tensors vera_lambda_d (r,) and vera_lambda_b (out,); vera_A and vera_B once for all.

    A is (r, the widest input) and B (the widest output, r). A file that has been saved without
    them has the seed that they are drawn from.
    """

    peft_type, kinds = "VERA", (vera.VeRA,)
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
        """Return the shapes of A and B, if they are in the file."""
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
        """Return (out,) and (r,)."""
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
        return vera.VeRA(tree.Shared(a), tree.Shared(b), d, g, np.float32(1))

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
