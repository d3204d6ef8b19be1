"""A cached reference: what its name is a hash of, and where its numbers stand."""

import types

import jax
import numpy as np

from ftjax.core import mesh as meshes
from ftjax.data import store as stores
from ftjax.evals.lib import scoring
from ftjax.run import reference
from ftjax.train.policy import Policy
from tests.laws import subjects

IDENTITY = {"sha256": "a"}


def parts(**changes):
    """Make what a fingerprint reads of a run."""
    plain = dict(adapter={}, adapter_from="", seed=types.SimpleNamespace(adapter=0))
    plain["model"] = types.SimpleNamespace(chunk=5)
    return types.SimpleNamespace(settings=types.SimpleNamespace(**plain | changes))


def store(tokens=(1, 2, 3, 4, 5), weights=(0, 1, 1, 1, 1), offsets=(0, 2)):
    return types.SimpleNamespace(
        digest=lambda: stores.Store.digest(
            types.SimpleNamespace(
                tokens=np.int32(tokens),
                weights=np.float32(weights),
                offsets=np.int64(offsets),
                _digest="",
            )
        )
    )


def test_the_name_follows_base_adapter_seed_and_data():
    name = reference.fingerprint
    plain = name(parts(), store(), IDENTITY)
    assert name(parts(), store(), IDENTITY) == plain
    others = [
        name(parts(), store(), {"sha256": "b"}),
        name(parts(adapter=dict(name="lora")), store(), IDENTITY),
        name(parts(seed=types.SimpleNamespace(adapter=1)), store(), IDENTITY),
        name(parts(model=types.SimpleNamespace(chunk=6)), store(), IDENTITY),
        name(parts(), store(tokens=(1, 2, 3, 4, 6)), IDENTITY),
        name(parts(), store(weights=(0, 0, 1, 1, 1)), IDENTITY),
        name(parts(), store(offsets=(0, 3)), IDENTITY),
    ]
    assert len({plain, *others}) == 1 + len(others)


class Sequences(list):
    """Examples laid end to end, as a store has them."""

    def __init__(self, examples):
        super().__init__(examples)
        self.lengths = [len(tokens) for tokens, _ in examples]
        self.offsets = np.cumsum([0, *self.lengths])
        self.tokens = np.concatenate([tokens for tokens, _ in examples])


def test_log_probabilities_stand_with_the_tokens_that_they_are_of():
    tokens = np.random.default_rng(0).integers(1, 64, (3, 9)).astype(np.int32)
    rows = [(row[:n], np.ones(n, np.float32)) for row, n in zip(tokens, (9, 4, 7), strict=True)]
    examples = Sequences(rows)
    model = subjects.model(subjects.PLAIN)
    params = {"model": subjects.weights(subjects.PLAIN), "adapters": None}
    mesh = meshes.make(data=1, fsdp=1, expert=1, tensor=1, devices=jax.devices()[:1])
    run = types.SimpleNamespace(
        model=model, mesh=mesh,
        settings=types.SimpleNamespace(model=types.SimpleNamespace(chunk=5), batch_size=2),
    )  # fmt: skip
    found = reference._logps(run, params, examples, lambda done, count: None)
    batch = scoring.rectangle(examples, batch_size=3, width=9)
    wanted = jax.jit(Policy(model, params, 5).logps)(batch)
    for start, (row, _), own in zip(examples.offsets, examples, wanted, strict=False):
        np.testing.assert_allclose(found[start], 0)
        here = slice(start + 1, start + len(row))
        np.testing.assert_allclose(found[here], own[: len(row) - 1], rtol=1e-4, atol=1e-5)
