"""Hidden states of single tokens: what a model has made of a text where it predicts the next one.

    states_of = make(model, batch_size=16)
    states_of(params, examples)                            float32 [n, D]

`spectrum.cka` and `spectrum.procrustes` compare those of two models. Rows of the result are the
same tokens for every model of one architecture, so that they pair up.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from ftjax.evals.lib import scoring

MOST = 4096  # tokens: more say little more, and each takes D floats of the host's memory


def make(model, *, batch_size: int, most: int = MOST, mesh=None) -> Callable:
    """Make `states_of(params, examples) -> [n, D]`, n of all targets, `most` of them at most.

    Final states, before the head, of tokens whose next one is a target. Examples are as for
    `scoring.make_scorer`; where there are more targets than `most`, every second, third, ... is
    taken.
    """

    def states(params, batch):
        return scoring.states(model, params, batch)[0].astype(jnp.float32)

    call = scoring.make_call(model, states, mesh=mesh)

    def states_of(params, examples: Sequence) -> np.ndarray:
        length = model.max_length(params.get("adapters"))
        count = sum(int((weights[1:length] != 0).sum()) for _, weights in examples)
        step, seen, found = max(-(-count // most), 1), 0, []
        for index, batch in scoring.batches(examples, batch_size=batch_size, max_length=length):
            target_BT = batch["weights"][: len(index), 1:] != 0
            own = np.asarray(call(params, batch))[: len(index), :-1]
            chosen = own[target_BT]
            found.append(chosen[-seen % step :: step])
            seen += len(chosen)
        return np.concatenate(found)

    return states_of
