"""The state of a run as checkpoints hold it: its shapes, its weights, and where it is kept.

    state = abstract_state(parts, trainable, tx)      # shapes and shardings, no arrays
    params_of(state, frozen)                          # {"model": ..., "adapters": ...}

Readers of finished runs and runs that go on open the same checkpoints.
"""

import functools
import pathlib
from collections.abc import Mapping

import jax

from ftjax.models.hf import digests
from ftjax.optim import ema as averages
from ftjax.run import build as setup
from ftjax.run import new_tokens
from ftjax.run.artifacts import Artifacts
from ftjax.run.config import Settings
from ftjax.train import state as states
from ftjax.train.checkpoint import Checkpoints

# What may differ when a run is resumed: it does not change what a step computes. Patterns match
# whole paths, and a section without keys is a path itself, hence both forms.
FREE = (
    "log_every_steps", "eval_every_steps", "compile_cache", "checkpoint/**", "tracker/**",
    "mesh/**", "evals", "evals/**", "samples/**", "export/**",
    "data/on_near_duplicate", "data/on_overlap",  # rows that they leave out, the loader misses
)  # fmt: skip

# What may differ besides where the data start afresh: other rows, or other batches of them.
FREE_DATA = ("data", "data/**", "seed/data", "batch_size", "accumulate")


def create(settings: Settings, tx, trainable, *, integral=None) -> states.State:
    """Make the first state of what trains; integral: see `train.state.create`."""
    ema = settings.ema_decay is not None
    return states.create(trainable, tx, key=key_of(settings), ema=ema, integral=integral)


def key_of(settings: Settings) -> jax.Array:
    """Return the random key of a run, which its states hold."""
    return jax.random.key(settings.seed.sampling)


def abstract_state(parts: setup.Parts, trainable, tx, *, integral=None) -> states.State:
    """Shapes and shardings of the state, without making it; integral: its own, or None."""
    abstract = jax.eval_shape(functools.partial(create, parts.settings, tx), trainable)
    places = states.shardings(abstract, parts.letters, tx, parts.mesh)
    place = lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s)
    return jax.tree.map(place, abstract, places)._replace(integral=integral)


def shardings_of(abstract):
    """Take the shardings out of a tree of abstract arrays."""
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def params_of(state: states.State, frozen):
    """Put a state's weights (their average, if one is kept) and the frozen ones together."""
    own = state.params if state.ema is None else averages.cast(state.ema, state.params)
    return states.combine(own, frozen)


def identity(parts: setup.Parts) -> dict:
    """Name the base for a checkpoint's manifest: where it is and what it hashes to."""
    # Random weights have no files to hash: sizes and seed make them what they are.
    if parts.source is None:
        spec = parts.settings.model
        return {"source": f"random {spec.preset}", "hash": f"seed {parts.settings.seed.init}"}
    return {"source": parts.settings.model.base, "hash": digests.fingerprint(parts.source)}


def open_checkpoints(
    parts: setup.Parts, workdir: pathlib.Path, *, restart_data: bool = False,
    penalties: Mapping[str, str] | None = None, **options,
) -> Checkpoints:  # fmt: skip
    """Open the checkpoints of a run; the options are those of `Checkpoints`.

    restart_data: the data may be others than those that the run began with. penalties: the hash of
    what each compares with, by label.
    """
    spec = parts.settings.checkpoint
    frozen = identity(parts) | ({"penalties": dict(penalties)} if penalties else {})
    # Of `data`, these do not come from the rows: a run with other data keeps its tokens.
    frozen |= {"new_tokens": list(tokens)} if (tokens := new_tokens.of(parts.settings.data)) else {}
    return Checkpoints(
        Artifacts(workdir).checkpoints, config=parts.settings.plain,
        frozen=frozen, keep=spec.keep, best=spec.best or None, mode=spec.mode,
        free=FREE + (FREE_DATA if restart_data else ()), **options,
    )  # fmt: skip
