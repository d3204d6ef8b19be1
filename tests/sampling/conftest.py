import dataclasses

import jax
import pytest

from ftjax.adapters import lora
from ftjax.adapters.lib import protocol
from ftjax.models.families import llama
from ftjax.ops import rope

CONFIG = llama.Config(
    vocab_size=48, dim=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffw=48, norm_eps=1e-5,
    rope=rope.Rope(1e4), tied=False, qkv_bias=False, o_bias=False, mlp_bias=False,
    qk_norm=False, window=None,
    max_positions=128, init_scale=0.5,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A tokenizer of letters: "a" is 10, "b" 11, ...; bos 1, eos 2, pad 0, anything else 9."""

    bos_id: int | None = 1
    eos_id: int | None = 2
    pad_id: int | None = 0

    def encode(self, text):
        return [10 + ord(c) - ord("a") if c.islower() else 9 for c in text]

    def decode(self, ids):
        return "".join(chr(ord("a") + i - 10) if 10 <= i < 36 else f"<{i}>" for i in ids)

    def token_id(self, token):
        return {"<9>": 9}.get(token)


@pytest.fixture(scope="session")
def model():
    return llama.make(CONFIG)


@pytest.fixture(scope="session")
def params(model):
    return {"model": model.init(jax.random.key(0)), "adapters": None}


@pytest.fixture(scope="session")
def adapted(model, params):
    """The same base with LoRA everywhere, the head too, and a second factor that is not zero."""
    init = lora.make(rank=2, alpha=8.0)
    tree = protocol.init(
        init, jax.random.key(1), model.linears, params["model"], where=["blocks/**", "head"]
    )
    noisy = lambda x: x + 0.2 * jax.random.normal(jax.random.key(2), x.shape)
    return {"model": params["model"], "adapters": jax.tree.map(noisy, tree)}


@pytest.fixture(scope="session")
def tokens():
    return Tokens()
