"""What the laws are about: every family, adapter and objective file, on small random models."""

import dataclasses
import functools
import importlib
import pkgutil

import jax
import numpy as np

import ftjax.adapters
import ftjax.objectives
from ftjax.adapters import base as adapter_trees
from ftjax.core import rng
from ftjax.models import hf


def modules_with(package, name):
    """List the modules of a package that define `name`."""
    found = (m.name for m in pkgutil.iter_modules(package.__path__))
    modules = {n: importlib.import_module(f"{package.__name__}.{n}") for n in found}
    return {n: module for n, module in modules.items() if name in vars(module)}


# The plainest family first: laws of other things than models take one.
FAMILIES = sorted(hf.families(), key=lambda name: name != "llama")
ADAPTERS = modules_with(ftjax.adapters, "EXAMPLE")
OBJECTIVES = modules_with(ftjax.objectives, "EXAMPLE")
CHUNK = 5  # does not divide T
T = 12


@functools.cache
def model(family, *, tied=True, **options):
    """Make a small model; `options` are those of the family's `make`."""
    module = hf.family_of(family)
    config = dataclasses.replace(module.from_hf(module.EXAMPLE), tied=tied)
    return module.make(config, **options)


@functools.cache
def weights(family, *, tied=True):
    """Draw parameters larger than at the start of training, norms and biases random too."""
    draw = lambda: jitter(model(family, tied=tied).init(jax.random.key(0)), scale=0.1)
    return jax.jit(draw)()


def jitter(tree, *, scale, seed=1):
    """Add a normal draw to every float leaf."""

    def one(keys, leaf):
        key = rng.named(jax.random.key(seed), jax.tree_util.keystr(keys))
        return leaf + scale * jax.random.normal(key, leaf.shape, leaf.dtype)

    return jax.tree_util.tree_map_with_path(one, tree)


def method(name):
    """Make the initialiser of an adapter method with its example's settings."""
    return ADAPTERS[name].make(**ADAPTERS[name].EXAMPLE)


def randomised(adapter, *, scale=0.3):
    """Move what trains of one adapter or of a tree of them, and leave its data."""
    if not adapter_trees.is_adapter(adapter):
        return jax.tree.map(randomised, adapter, is_leaf=adapter_trees.is_adapter)
    moved = jitter(adapter, scale=scale)
    data = {name: vars(adapter)[name] for name in adapter.FROZEN}
    return dataclasses.replace(moved, **data)


def adapters(name, family, *, where="blocks/**", tied=True):
    """Initialise adapters of a method in a model."""
    handle, key = model(family, tied=tied), jax.random.key(2)
    params = weights(family, tied=tied)
    draw = functools.partial(adapter_trees.init, method(name), where=where)
    return jax.jit(lambda key, w: draw(key, handle.linears, w))(key, params)


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
