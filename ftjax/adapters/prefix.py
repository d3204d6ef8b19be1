"""Prefix tuning (arXiv:2101.00190): n trained keys and values in every layer that all tokens see.

No weight changes. Positions of real tokens start at n; the keys themselves are not rotated. Every
example of a packed row sees the same prefix, and rows keep their length. There is no network in
front of the keys and values (the paper's reparametrisation); PEFT's files hold what it gives.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.adapters.lib import protocol
from ftjax.adapters.peft import format as peft_format
from ftjax.core import torch_layout as layout
from ftjax.core.typed import Count, Positive

EXAMPLE = dict(tokens=3)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prefix(protocol.Adapter):
    """Keys and values of the virtual tokens in every layer, [L, n, K, H] each."""

    k: jax.Array
    v: jax.Array

    MERGES: ClassVar = False

    def axes(self, equation: str) -> "Prefix":
        """Letters of keys and values."""
        return Prefix("LSKH", "LSKH")


def make(*, tokens: Count, init_scale: Positive = 0.02) -> protocol.OfModel:
    """Make the initialiser of a prefix of `tokens` keys and values, normal times `init_scale`.

    Raises:
      ValueError: there are no tokens.
    """
    protocol.check_tokens(tokens)

    def init(key: jax.Array, sizes, weights) -> Prefix:
        shape = (sizes["L"], tokens, sizes["K"], sizes["H"])
        draw = lambda key: init_scale * jax.random.normal(key, shape, jnp.float32)
        return Prefix(*map(draw, jax.random.split(key)))

    return protocol.OfModel("prefix", init)


class PrefixFormat(peft_format.Format):
    """PEFT's file: one tensor (n, L * 2 * K * H), a key and a value for each layer."""

    peft_type, kinds, has_targets = "PREFIX_TUNING", (Prefix,), False
    # Some are of the network that made the tensor, which is not in the file.
    keys = frozenset({
        "encoder_hidden_size", "init_weights", "num_attention_heads", "num_layers",
        "num_transformer_submodules", "num_virtual_tokens", "prefix_projection", "token_dim",
    })  # fmt: skip
    required = frozenset({"num_attention_heads", "num_layers", "num_virtual_tokens", "token_dim"})
    layout = layout.Layout(("S", "LCKH"), "CLSKH")

    def read(self, config):
        """Read the shape of the prefix; the heads are those of keys and values."""
        peft_format.one_submodule(config)
        heads = config["num_attention_heads"]
        return dict(
            tokens=config["num_virtual_tokens"],
            sizes=dict(
                S=config["num_virtual_tokens"], L=config["num_layers"], C=2, K=heads,
                H=config["token_dim"] // heads,
            ),
        )  # fmt: skip

    def write(self, layers, hyper):
        """Write the shape of the prefix."""
        count, tokens, heads, dim = layers["prefix"].k.shape
        return dict(
            encoder_hidden_size=heads * dim, init_weights=None, num_attention_heads=heads,
            num_layers=count, num_transformer_submodules=1, num_virtual_tokens=tokens,
            prefix_projection=False, token_dim=heads * dim,
        )  # fmt: skip

    def shapes_once(self, modules, hyper):
        """Give (n, L * 2 * K * H)."""
        return {"prompt_embeddings": self.layout.torch_shape(hyper["sizes"])}

    def build_once(self, hyper, tensors):
        """Split keys and values of the layers."""
        k, v = self.layout.from_torch(tensors["prompt_embeddings"], hyper["sizes"])
        return {"prefix": Prefix(jnp.asarray(k), jnp.asarray(v))}

    def to_torch_once(self, adapters):
        """Join keys and values of the layers."""
        pair = np.stack([adapters["prefix"].k, adapters["prefix"].v])
        return {"prompt_embeddings": self.layout.to_torch(pair)}


PEFT = PrefixFormat()
