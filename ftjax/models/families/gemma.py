"""Gemma (arXiv:2403.08295), and what Gemma 2 and the text model of Gemma 3 add to it.

Embeddings times sqrt(D), norms that multiply by 1 + scale, an MLP gated by the tanh form of GELU, a
tied head. Gemma 2 (arXiv:2408.00118) normalises after attention and MLP as well, caps scores and
logits, and gives every other layer a window. Gemma 3 (arXiv:2503.19786) normalises q and k in place
of the caps, and has another rotary embedding where it has the window.
"""

import dataclasses
import functools
from typing import Any

import jax
from flax import nnx

from ftjax.core import mesh
from ftjax.models import base, blocks, decoder, layer_runs
from ftjax.models.families import llama
from ftjax.models.hf import config as hf_config
from ftjax.ops import norm, remat


@dataclasses.dataclass(frozen=True)
class Config(decoder.Config):
    """What the three differ in; layer i has the window if `local[i % len(local)]`."""

    query_scalar: float  # scores are divided by its square root
    post_norms: bool
    qk_norm: bool
    attn_cap: float | None
    final_cap: float | None
    window: int | None
    local: tuple[bool, ...]
    local_rope: Any

    @property
    def kinds(self) -> tuple[decoder.Kind, ...]:
        """Local and global layers in turn."""
        # A kind of layer and no stack of its own: both have the same parameters.
        near = decoder.Kind("blocks", self.window, self.local_rope)
        far = decoder.Kind("blocks", None, self.rope)
        return tuple(near if local else far for local in self.locals)

    @property
    def locals(self) -> tuple[bool, ...]:
        """Which layers are local."""
        return tuple(self.local[i % len(self.local)] for i in range(self.layers))

    @property
    def logit_cap(self) -> float | None:
        """The cap of the logits."""
        return self.final_cap


class Block(nnx.Module):
    """One decoder layer."""

    def __init__(self, config: Config, key: jax.Array):
        sizes, scale = config.sizes, config.init_scale
        attn_key, mlp_key = jax.random.split(key)
        self.norm = _norm(config)
        self.attn_norm = self.norm.declare("D", sizes)
        self.attn = blocks.Attention(
            sizes, key=attn_key, init_scale=scale, norm=self.norm, cap=config.attn_cap,
            # Not always a head's size: Gemma 2 27B has heads of 128 and divides by sqrt(144).
            scale=config.query_scalar**-0.5, norms=("H", "H") if config.qk_norm else None,
        )  # fmt: skip
        self.mlp_norm = self.norm.declare("D", sizes)
        gelu = functools.partial(jax.nn.gelu, approximate=True)
        self.mlp = blocks.GatedMlp(sizes, key=mlp_key, scale=scale, activation=gelu)
        self.post_norms = config.post_norms
        if config.post_norms:
            self.attn_post_norm = self.norm.declare("D", sizes)
            self.mlp_post_norm = self.norm.declare("D", sizes)

    def __call__(self, x_BTD, context: base.Context, site: base.Site, cache=None):
        """Apply the layer; returns [B,T,D], their keys and values, nothing auxiliary."""
        h = self.norm(x_BTD, self.attn_norm)
        mixed, new = self.attn(h, context, site.under("attn"), cache)
        if self.post_norms:
            # What the norm reads is kept, so that the map before it is not run again.
            mixed = self.norm(remat.keep(mixed), self.attn_post_norm)
        x_BTD = remat.keep(x_BTD + mixed)
        made = self.mlp(self.norm(x_BTD, self.mlp_norm), site.under("mlp"))
        if self.post_norms:
            made = self.norm(remat.keep(made), self.mlp_post_norm)
        return mesh.constrain(x_BTD + made, "BTD"), new, None


def ends(config: Config, key: jax.Array) -> blocks.Ends:
    """Make what exists once."""
    return blocks.Ends(config, key, norm=_norm(config), embed_scale=config.dim**0.5)


def _norm(config: Config) -> blocks.Norm:
    # Checkpoints keep scale - 1, so the identity is zero.
    return blocks.Norm(norm.rms_norm_around_one, 0.0, config.norm_eps)


def make(config: Config, **options) -> decoder.Model:
    """Make the handle of a model; the options are those of `decoder.make`."""
    return decoder.make(config, ends=ends, blocks={"blocks": Block}, **options)


# -- checkpoints -----------------------------------------------------------------------------------

EXAMPLE = llama.EXAMPLE | dict(model_type="gemma", hidden_act="gelu_pytorch_tanh", head_dim=16)
NAMES = llama.NAMES
LOCAL = {True: "sliding_attention", False: "full_attention"}


def read_common(keys: hf_config.Keys, **special) -> Config:
    """Read what the three have in common; `special` is each one's own fields."""
    keys.only("attention_bias", [False], False)  # absent: no, in all three configs
    keys.only("use_bidirectional_attention", [False], False)  # absent: no, in all three configs
    common = dict(
        head_dim=keys.get("head_dim", 256),  # absent: 256 in all three configs
        norm_eps=keys.get("rms_norm_eps", 1e-6),  # absent: 1e-6 in all three configs
        tied=keys.get("tie_word_embeddings", True),  # absent: yes in all three configs
        kv_heads=keys.get("num_key_value_heads"),
    )
    return llama.read_common(keys, kind=Config, **common | special)


def read_local(keys: hf_config.Keys, *, every: int) -> tuple[bool, ...]:
    """Read which layers have the window: `layer_types`, or all but each `every`-th."""
    count = keys.get("num_hidden_layers")
    names = {name: local for local, name in LOCAL.items()}
    # Counted from one: the first global layer is the `every`-th.
    implied = [LOCAL[bool((i + 1) % every)] for i in range(count)]
    given = keys.get("layer_types", implied)
    if len(given) != count or not set(given) <= names.keys():
        raise ValueError(
            f"{keys.where}: got layer_types={given}; expected {count} of {sorted(names)}"
        )
    # As a pattern, which layers that are added or cut then follow.
    return layer_runs.period([names[name] for name in given])


def write_common(config: Config) -> dict[str, Any]:
    """Write the keys that the three have in common."""
    own = {
        "attention_bias": False,
        # Releases of the library read the one name or the other.
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
    }
    return llama.write_common(config) | own


def write_local(config: Config) -> dict[str, Any]:
    """Write the windows, the caps and the scale of the queries."""
    return {
        "attn_logit_softcapping": config.attn_cap,
        "final_logit_softcapping": config.final_cap,
        "layer_types": [LOCAL[local] for local in config.locals],
        "query_pre_attn_scalar": config.query_scalar,
        "sliding_window": config.window,
    }


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `gemma`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    # The first releases say "gelu" and mean its tanh form, as `hidden_activation` then put right.
    keys.only("hidden_act", ["gelu_pytorch_tanh", "gelu"], "gelu_pytorch_tanh")
    keys.only("hidden_activation", ["gelu_pytorch_tanh"], "gelu_pytorch_tanh")
    config = read_common(
        # The first Gemma has no key for it: 1/sqrt(head_dim), as everywhere.
        keys, query_scalar=keys.get("head_dim", 256), post_norms=False, qk_norm=False,
        attn_cap=None, final_cap=None, window=None, local=(False,), local_rope=None,
    )  # fmt: skip
    keys.finish()
    return config


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    return write_common(config) | {"architectures": ["GemmaForCausalLM"], "model_type": "gemma"}
