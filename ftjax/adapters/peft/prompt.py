"""Prompt tuning in PEFT's files."""

import jax.numpy as jnp
import numpy as np

from ftjax.adapters import prompt
from ftjax.adapters.peft import format as peft_format


class PromptFormat(peft_format.Format):
    """PEFT's file: one tensor (n, D)."""

    peft_type, kinds, has_targets = "PROMPT_TUNING", (prompt.Prompt,), False
    # Some tell how the embeddings once started, some repeat sizes of the model.
    keys = frozenset({
        "num_attention_heads", "num_layers", "num_transformer_submodules", "num_virtual_tokens",
        "prompt_tuning_init", "prompt_tuning_init_text", "token_dim",
    })  # fmt: skip
    required = frozenset({"num_virtual_tokens", "token_dim"})

    def read(self, config):
        """Read the shape of the prompt."""
        peft_format.one_submodule(config)
        return dict(tokens=config["num_virtual_tokens"], dim=config["token_dim"])

    def write(self, layers, hyper):
        """Write the shape of the prompt."""
        tokens, dim = layers["prompt"].embeddings.shape
        return dict(
            num_transformer_submodules=1, num_virtual_tokens=tokens, token_dim=dim,
            prompt_tuning_init="RANDOM", prompt_tuning_init_text=None, tokenizer_kwargs=None,
            tokenizer_name_or_path=None,
        )  # fmt: skip

    def shapes_once(self, modules, hyper):
        """Return (n, D)."""
        return {"prompt_embeddings": (hyper["tokens"], hyper["dim"])}

    def build_once(self, hyper, tensors):
        """Take the tensor as it is."""
        return {"prompt": prompt.Prompt(jnp.asarray(tensors["prompt_embeddings"]))}

    def to_torch_once(self, adapters):
        """Return the tensor as it is."""
        return {"prompt_embeddings": np.asarray(adapters["prompt"].embeddings)}


PEFT = PromptFormat()
