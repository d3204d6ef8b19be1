"""A small decoder that knows nothing, for tests of what is made of its logits."""

import jax

from ftjax.adapters import lora
from ftjax.adapters.lib import protocol
from ftjax.models.families import llama
from ftjax.ops import rope


def make(**numbers):
    """Make a Llama of two layers and 48 tokens; numbers: of its config, where it differs."""
    own = dict(
        vocab_size=48, dim=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffw=48, norm_eps=1e-5,
        rope=rope.Rope(1e4), tied=False, qkv_bias=False, o_bias=False, mlp_bias=False,
        qk_norm=False, window=None, max_positions=128, init_scale=0.5,
    )  # fmt: skip
    return llama.make(llama.Config(**own | numbers))


def plain(model):
    """Return random parameters without adapters."""
    return {"model": model.init(jax.random.key(0)), "adapters": None}


def adapted(model, params):
    """Return the same base with LoRA everywhere, the head too, whose second factor is not zero."""
    init = lora.make(rank=2, alpha=8.0)
    tree = protocol.init(
        init, jax.random.key(1), model.linears, params["model"], where=["blocks/**", "head"]
    )
    noisy = lambda x: x + 0.2 * jax.random.normal(jax.random.key(2), x.shape)
    return {"model": params["model"], "adapters": jax.tree.map(noisy, tree)}
