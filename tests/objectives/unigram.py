"""A policy of known log-probabilities, and what losses of it are made of, written out in counts."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.core.mean import Mean
from ftjax.train.policy import Statistics, Total

SIZE = 64  # of the vocabulary of `laws.subjects`
GENERATOR = np.random.default_rng(3)
OWN, BASE, SQUARES = GENERATOR.normal(-2, 1, (3, SIZE)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Unigram:
    """log p of a target is `table[target]`, whatever stands before it; so are scores of a head."""

    table: Any

    def logps(self, batch, key=None):
        return self.table[batch["tokens"][..., 1:]]

    def statistics(self, batch, key=None, *, squares=False, entropy=False, temperature=1.0):
        of = lambda table: jnp.asarray(table)[batch["tokens"][..., 1:]]
        logp = self.logps(batch) / temperature
        return Statistics(logp, 0 * logp, 0 * logp, of(SQUARES), of(SQUARES))

    def total(self, loss, batch, weights, key=None):
        logp = self.logps(batch)
        return Total((weights * loss(logp, 0 * logp, 0 * logp)).sum(), logp)

    def scores(self, batch, key=None, *, head="reward"):
        return self.table[batch["tokens"]]

    def compare(self, other, function, batch, key=None, *, targets=False):
        if targets:
            of = lambda target: function(self.table, other.table, target)
            return jax.vmap(jax.vmap(of))(batch["tokens"][..., 1:])
        found = function(self.table, other.table)
        return jnp.broadcast_to(found, batch["tokens"][..., 1:].shape)

    def with_hidden(self, batch, key=None):
        return self

    def without_gradient(self):
        return Unigram(jax.lax.stop_gradient(self.table))


def loss_of(objective, batch, table=OWN, base=BASE):
    """Add up the terms of an objective's loss."""
    terms = objective(Unigram(jnp.asarray(table)), Unigram(jnp.asarray(base)), batch, None)["loss"]
    return sum(t.value() for t in ((terms,) if isinstance(terms, Mean) else terms))


def counts(batch, p, *, inside=False):
    """Count each token among the targets of answer p: [N, SIZE], of the N examples there are.

    inside: among all tokens of the example that have a predecessor, its prompt's too.
    """
    found = []
    for b, s in zip(*np.nonzero(batch["examples"]), strict=True):
        here = batch["segments"][b, p] == s + 1
        here = here & ((batch["weights"][b, p] > 0) | inside)
        here[np.argmax(batch["segments"][b, p] == s + 1)] = False
        found.append(np.bincount(batch["tokens"][b, p][here], minlength=SIZE))
    return np.float32(found)


def of_examples(batch, name="examples"):
    """List what a batch says of every example that is there: [N]."""
    return batch[name][batch["examples"] > 0]


def average(values, batch):
    """Average over examples by their weights."""
    weights = of_examples(batch)
    return (values * weights).sum() / weights.sum()


def agree(found, wanted, table=OWN):
    """Compare two functions of a table, and their gradients."""
    for both in (lambda f: f(table), lambda f: jax.grad(f)(jnp.asarray(table))):
        np.testing.assert_allclose(both(found), both(wanted), rtol=2e-5, atol=2e-6)
