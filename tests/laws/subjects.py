"""What the laws are about: every family, adapter and objective file, on small random models."""

import dataclasses
import functools
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ftjax.adapters
import ftjax.objectives
from ftjax.adapters.lib import protocol
from ftjax.models.hf import checkpoint
from ftjax.train import reference_policy


def modules_with(package, name):
    """List the modules of a package that define `name`."""
    found = (m.name for m in pkgutil.iter_modules(package.__path__) if not m.ispkg)
    modules = {n: importlib.import_module(f"{package.__name__}.{n}") for n in found}
    return {n: module for n, module in modules.items() if name in vars(module)}


# A wrapper's text model is that of another family.
TYPES = checkpoint.families()
WRAPPERS = [name for name in TYPES if "WRAPS" in vars(checkpoint.family_of(name))]
FAMILIES = [name for name in TYPES if name not in WRAPPERS]
PLAIN = "llama"  # the family of laws that are not about families
ADAPTERS = modules_with(ftjax.adapters, "EXAMPLE")
OBJECTIVES = modules_with(ftjax.objectives, "EXAMPLE")
CHUNK = 5  # does not divide T
T = 12


@functools.cache
def model(family, *, tied=True, **options):
    """Make a small model; `options` are those of the family's `make`."""
    module = checkpoint.family_of(family)
    config = dataclasses.replace(module.from_hf(module.EXAMPLE), tied=tied)
    return module.make(config, **options)


def program_of(handle):
    """Name what most of a program is: its maps, and how many kinds of layers there are.

    Models of one name may still differ in norms, gates and numbers.
    """
    return frozenset(filter(None, handle.equations.values())), len(set(handle.config.kinds))


def by_data():
    """List the objectives; those that learn from what another one does are slow."""
    found, seen = [], set()
    for name, module in OBJECTIVES.items():
        kind = module.SPEC.data
        found.append(pytest.param(name, marks=[pytest.mark.slow] if kind in seen else []))
        seen.add(kind)
    return found


def by_program():
    """List the families; those whose program another one has are slow: they compile long."""
    found, seen = [], set()
    for family in FAMILIES:
        kind = program_of(model(family))
        found.append(pytest.param(family, marks=[pytest.mark.slow] if kind in seen else []))
        seen.add(kind)
    return found


@functools.cache
def weights(family, *, tied=True):
    """Draw parameters larger than at the start of training, norms and biases random too."""
    # They are kept for all tests: a caller that is being traced must not leave its tracers in them.
    with jax.ensure_compile_time_eval():
        return jitter(jax.jit(model(family, tied=tied).init)(jax.random.key(0)), scale=0.1)


def jitter(tree, *, scale, seed=1):
    """Add a normal draw to every leaf; by NumPy, which compiles no program for each shape."""

    def one(keys, leaf):
        draws = np.random.default_rng([seed, *jax.tree_util.keystr(keys).encode()])
        noise = scale * draws.standard_normal(leaf.shape)
        return jnp.asarray((np.asarray(leaf, np.float64) + noise).astype(leaf.dtype))

    return jax.tree_util.tree_map_with_path(one, tree)


def method(name):
    """Make the initialiser of an adapter method with its example's settings."""
    return ADAPTERS[name].make(**ADAPTERS[name].EXAMPLE)


# Prompts and prefixes change no weight: they do not merge, and do not start as the base.
OF_WEIGHTS = [name for name in ADAPTERS if not isinstance(method(name), protocol.OfModel)]
OF_MODELS = [name for name in ADAPTERS if name not in OF_WEIGHTS]


def randomised(adapter, *, scale=0.3):
    """Move what trains of one adapter or of a tree of them, and leave its data."""
    if not protocol.is_adapter(adapter):
        return jax.tree.map(randomised, adapter, is_leaf=protocol.is_adapter)
    return replace_data(jitter(adapter, scale=scale), adapter)


def replace_data(moved, adapter):
    """Put an adapter's data, which never trains, back into one that has moved."""
    data = {name: vars(adapter)[name] for name in adapter.FROZEN}
    return dataclasses.replace(moved, **data)


def adapters(name, family, *, where="blocks/**", tied=True):
    """Initialise adapters of a method in a model."""
    handle, key = model(family, tied=tied), jax.random.key(2)
    params = weights(family, tied=tied)
    where = where if name in OF_WEIGHTS else ""
    sizes = handle.config.sizes
    draw = functools.partial(protocol.init, method(name), where=where, sizes=sizes)
    return jax.jit(lambda key, w: draw(key, handle.linears, w))(key, params)


def batch_for(objective, rows=4):
    """Draw a batch of the kind that an objective learns from."""
    kind = OBJECTIVES[objective].SPEC.batch
    if kind.by_example:
        return answers(rows, count=kind.answers or 3)
    return batch(rows) | (experience(rows) if kind.sampled else {})


def answers(rows=4, *, count):
    """Draw examples of `count` answers: two in the first row, one in the others, of any length."""
    generator = np.random.default_rng(1)
    tokens, weights, segments, positions = (np.zeros((rows, count, T)) for _ in range(4))
    examples = np.zeros((rows, 2))
    for b in range(rows):
        for p in range(count):
            at = 0
            for s in range(2 if b == 0 else 1):
                n = int(generator.integers(4, T // 2 + 1)) if b < 2 else T
                # The last answer of the last example of three is not there.
                n = 0 if count > 2 and b == rows - 1 and p == count - 1 else n
                here = slice(at, at + n)
                tokens[b, p, here] = generator.integers(1, 64, n)
                segments[b, p, here], positions[b, p, here] = s + 1, np.arange(n)
                weights[b, p, here] = np.arange(n) > n // 3
                examples[b, s] = 1 + b
                at += n
    arrays = {"tokens": tokens, "segments": segments, "positions": positions}
    numbers = {"label": generator.integers(0, 2, (rows, 2)), "margin": generator.random((rows, 2))}
    numbers |= {"weights": weights, "examples": examples}
    numbers["probability"] = generator.random((rows, 2))
    as_type = lambda found, kind: {name: x.astype(kind) for name, x in found.items()}
    return as_type(arrays, np.int32) | as_type(numbers, np.float32)


def params_for(objective, params):
    """Add what an objective needs: a scalar head, and a reference other than the policy."""
    spec, more = OBJECTIVES[objective].SPEC, {}
    if spec.heads:
        more["head"] = {name: jitter(np.zeros(32, np.float32), scale=1.0) for name in spec.heads}
    if spec.reference:
        model = jitter(params["model"], scale=0.02, seed=3)
        more["reference"] = {"model": model, "adapters": None}
    return params | more


def reference_for(objective):
    """Return the reference that goes with `params_for`."""
    has = OBJECTIVES[objective].SPEC.reference
    return reference_policy.frozen if has else reference_policy.adapters_off


def batch(rows=4):
    """Draw a batch: packed rows, padded rows, full rows; weights of every size."""
    generator = np.random.default_rng(0)
    segments = np.ones((rows, T), np.int32)
    segments[0, 5:] = 2  # packed
    segments[1 % rows, 7:] = 0  # padded
    starts = np.concatenate([np.ones((rows, 1), bool), segments[:, 1:] != segments[:, :-1]], 1)
    since = np.maximum.accumulate(np.where(starts, np.arange(T), 0), 1)
    positions = (np.arange(T) - since) * (segments > 0)
    scale = np.arange(1, rows + 1)[:, None]
    weights = scale * generator.uniform(size=(rows, T)) * (segments > 0) * ~starts
    return {
        "tokens": generator.integers(1, 64, (rows, T)).astype(np.int32) * (segments > 0),
        "weights": weights.astype(np.float32),
        "segments": segments,
        "positions": positions.astype(np.int32),
    }


def experience(rows):
    """Draw what a batch of sampled answers holds besides its tokens."""
    generator = np.random.default_rng(2)
    draw = lambda *shape: generator.normal(size=shape).astype(np.float32)
    tokens = rows, T - 1
    return {
        "advantages": draw(*tokens),
        "old_logps": draw(*tokens) - 4,
        "ref_logps": draw(*tokens) - 4,
        "old_values": draw(*tokens),
        "returns": draw(*tokens),
    }


@functools.partial(jax.jit, static_argnums=0)
def forward(handle, params, batch, **options):
    """Compute hidden states of a batch; compiled once per handle and shape."""
    return handle.hidden(
        params, batch["tokens"], positions_BT=batch["positions"],
        segments_BT=batch["segments"], **options,
    )  # fmt: skip


def close(a, b, *, atol=1e-5):
    """Compare trees of the same structure."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=atol), a, b)
