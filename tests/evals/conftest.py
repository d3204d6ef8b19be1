import dataclasses

import jax
import numpy as np
import pytest

from ftjax.adapters import lora
from ftjax.adapters.lib import protocol
from ftjax.models.families import llama
from ftjax.ops import rope

CONFIG = llama.Config(
    vocab_size=48, dim=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffw=48, norm_eps=1e-5,
    rope=rope.Rope(1e4), tied=False, qkv_bias=False, o_bias=False, mlp_bias=False,
    qk_norm=False, window=None,
    max_positions=64, init_scale=0.3,
)  # fmt: skip


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
    return llama.make(CONFIG)


@pytest.fixture(scope="session")
def params(model):
    return {"model": model.init(jax.random.key(0)), "adapters": None}


@pytest.fixture(scope="session")
def adapted(model, params):
    init = lora.make(rank=2, alpha=8.0)
    tree = protocol.init(
        init, jax.random.key(1), model.linears, params["model"], where=["blocks/**", "head"]
    )
    noisy = lambda x: x + 0.2 * jax.random.normal(jax.random.key(2), x.shape)
    return {"model": params["model"], "adapters": jax.tree.map(noisy, tree)}


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
