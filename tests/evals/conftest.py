import dataclasses

import jax
import numpy as np
import pytest

from tests import decoders


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A tokenizer of letters, of which "ab" is one token; bos is 1, eos 2."""

    bos_id: int | None = 1
    eos_id: int | None = 2
    begins: bool = True
    ends: bool = False

    def encode(self, text):
        ids = [40 if c == "#" else 4 + ord(c) % 32 for c in text.replace("ab", "#")]
        return [1] * self.begins + ids + [2] * self.ends


@pytest.fixture(scope="session")
def model():
    return decoders.make(max_positions=64, init_scale=0.3)


@pytest.fixture(scope="session")
def params(model):
    return decoders.plain(model)


@pytest.fixture(scope="session")
def adapted(model, params):
    return decoders.adapted(model, params)


@pytest.fixture(scope="session")
def log_probs(model):
    """Log-probabilities after every token, by a pass over one padded row and numpy."""

    @jax.jit
    def logits(params, tokens, positions, segments):
        x = model.hidden(
            params["model"], tokens, positions_BT=positions, segments_BT=segments,
            adapters=params["adapters"],
        )  # fmt: skip
        return model.logits(params["model"], x, adapters=params["adapters"])

    def call(params, ids):
        tokens, positions = np.zeros((1, 40), np.int32), np.arange(40)[None]
        tokens[0, : len(ids)] = ids
        found = logits(params, tokens, positions, np.int32(positions < len(ids)))
        found = np.asarray(found[0, : len(ids)], np.float64)
        return found - np.log(np.exp(found).sum(-1, keepdims=True))

    return call


@pytest.fixture(scope="session")
def tokens():
    return Tokens()
