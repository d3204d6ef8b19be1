"""Prefix tuning in PEFT's files."""

import jax.numpy as jnp
import numpy as np

from ftjax.adapters import prefix
from ftjax.adapters.peft import format as peft_format
from ftjax.core import torch_layout as layout


class PrefixFormat(peft_format.Format):
    """PEFT's file: one tensor (n, L * 2 * K * H), a key and a value for each layer."""

    peft_type, kinds, has_targets = "PREFIX_TUNING", (prefix.Prefix,), False
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
        """Return (n, L * 2 * K * H)."""
        return {"prompt_embeddings": self.layout.torch_shape(hyper["sizes"])}

    def build_once(self, hyper, tensors):
        """Split keys and values of the layers."""
        k, v = self.layout.from_torch(tensors["prompt_embeddings"], hyper["sizes"])
        return {"prefix": prefix.Prefix(jnp.asarray(k), jnp.asarray(v))}

    def to_torch_once(self, adapters):
        """Join keys and values of the layers."""
        pair = np.stack([adapters["prefix"].k, adapters["prefix"].v])
        return {"prompt_embeddings": self.layout.to_torch(pair)}


PEFT = PrefixFormat()
