"""The text model of Gemma 4: local and global layers of two head sizes, which may share and mix.

Global layers have their own head size and number of key heads, "proportional" positions, and where
`k_is_v` values that are the keys before norm and rotation. The last layers may take the keys and
values of the last layer of their kind before them. There may be experts beside the MLP, and inputs
of every layer that a table and a map of the embedding make ("per-layer embeddings").
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ftjax.core import mesh
from ftjax.models import base, blocks, decoder, experts
from ftjax.models.families import gemma, llama
from ftjax.models.hf import config as hf_config
from ftjax.ops import moe, norm, remat, rope

LETTERS = {False: "KH", True: "GA"}  # key heads and their features, of local and global layers
# Layers that share read another stack's cache and have none.
CACHES = {"global": {"k": "LBGAS", "v": "LBGSA"}, "blocks_shared": {}, "global_shared": {}}
gelu = functools.partial(jax.nn.gelu, approximate=True)


@dataclasses.dataclass(frozen=True)
class Config(experts.Config):
    """Numbers of global layers, and what is switched on; without experts they are 0."""

    global_kv_heads: int
    global_head_dim: int
    local: tuple[bool, ...]  # of all layers
    local_rope: rope.Rope
    k_is_v: bool
    shared_layers: int
    wide: bool  # layers that share have an MLP of twice the width
    layer_inputs: int  # features of every layer's own input; 0: there are none
    layer_vocab: int
    final_cap: float | None

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes by letter: M layers and X features of their inputs, Z rows of their table."""
        own = dict(
            G=self.global_kv_heads, A=self.global_head_dim, U=self.ffw * (2 if self.wide else 1),
            M=self.layers, X=self.layer_inputs, Z=self.layer_vocab,
        )  # fmt: skip
        return super().sizes | own

    @property
    def kinds(self) -> tuple[decoder.Kind, ...]:
        """Local and global layers; the last ones share."""
        found = []
        for i, local in enumerate(self.local):
            stack = "blocks" if local else "global"
            shares = stack if i >= self.layers - self.shared_layers else None
            found.append(decoder.Kind(
                f"{stack}_shared" if shares else stack, self.window if local else None,
                self.local_rope if local else self.rope,
                None if local else self.global_head_dim, shares,
            ))  # fmt: skip
        return tuple(found)

    @property
    def logit_cap(self) -> float | None:
        """The cap of the logits."""
        return self.final_cap

    @property
    def spare_tensors(self) -> tuple[str, ...]:
        """Keys and values of layers that share."""
        layers = range(self.layers - self.shared_layers, self.layers)
        numbers = "|".join(map(str, layers)) or "none"
        # Files of the Hub have them, though no layer reads them.
        parts = "(k_proj|v_proj|k_norm|v_norm)"
        return (rf"model\.(language_model\.)?layers\.({numbers})\.self_attn\.{parts}\..*",)


class Attention(nnx.Module):
    """Attention with scores of normalised queries and keys, unscaled, and normalised values."""

    def __init__(self, config: Config, key: jax.Array, *, far: bool, shares: bool):
        sizes, keys, (k, h) = config.sizes, jax.random.split(key, 4), LETTERS[far]
        declare = lambda equation, key: base.weight(
            equation, sizes, key=key, scale=config.init_scale
        )
        self.norm = _norm(config)
        self.q = declare(f"BTD,DN{h}->BTN{h}", keys[0])
        self.o = declare(f"BTN{h},N{h}D->BTD", keys[1])
        self.q_norm = self.norm.declare(h, sizes)
        self.shares, self.has_v = shares, not shares and not (far and config.k_is_v)
        if not shares:
            self.k = declare(f"BTD,D{k}{h}->BT{k}{h}", keys[2])
            self.k_norm = self.norm.declare(h, sizes)
        if self.has_v:
            self.v = declare(f"BTD,D{k}{h}->BT{k}{h}", keys[3])

    def __call__(self, x_BTD, context: base.Context, site: base.Site, cache=None):
        """Attend; returns the output [B,T,D] and the keys and values that it attended to."""
        turn = lambda x: rope.rotate(x, *context.rotation)
        q = turn(self.norm(remat.keep(site("q", x_BTD, self.q)), self.q_norm))
        if self.shares:
            # Normalised and rotated already, by the layer that lends them.
            k, v = context.shared["k"], context.shared["v"]
        else:
            made = remat.keep(site("k", x_BTD, self.k))
            # The bare projection: as a value it is neither scaled by the key's norm nor rotated.
            v = remat.keep(site("v", x_BTD, self.v)) if self.has_v else made
            k = turn(self.norm(made, self.k_norm))
            v = norm.rms_norm_wide(v, jnp.ones(v.shape[-1]), eps=self.norm.eps)
        context = dataclasses.replace(context, rotation=None)  # done
        # No 1/sqrt(head_dim): the norms of queries and keys set the size of scores.
        mixed, new = blocks.attend(q, k, v, context, cache, scale=1.0)
        return site("o", mixed, self.o), new


class Experts(experts.Experts):
    """Experts whose router reads the residual stream, and whose gates have factors of their own."""

    def __init__(self, config: Config, *, key: jax.Array):
        super().__init__(config, key=key, activation=gelu, fused=("E,CI,D", "E,D,I"))
        self.scale = base.vector("D", config.sizes, fill=1.0)
        self.expert_scale = base.vector("E", config.sizes, fill=1.0)

    def route(self, x_BTD, site: base.Site) -> tuple[jax.Array, moe.Choice]:
        """Choose experts for what is in the stream, [B,T,D]."""
        x = norm.rms_norm_wide(x_BTD, jnp.ones(x_BTD.shape[-1]), eps=self.config.norm_eps)
        x = x * self.scale[...].astype(x.dtype) * x.shape[-1] ** -0.5
        logits = site("router", x, self.router).astype(jnp.float32)
        choice = moe.route(logits, top=self.config.top, normalise=True)
        factor = self.expert_scale[...].astype(jnp.float32)[choice.expert]
        # After the gates were divided by their sum, so they need not add up to one.
        return logits, choice._replace(gate=choice.gate * factor)


class Block(nnx.Module):
    """One decoder layer."""

    FAR, SHARES = False, False

    def __init__(self, config: Config, key: jax.Array):
        sizes, keys, scale = config.sizes, jax.random.split(key, 5), config.init_scale
        self.norm = _norm(config)
        own = lambda: self.norm.declare("D", sizes)
        self.attn_norm, self.attn_post_norm = own(), own()
        self.attn = Attention(config, keys[0], far=self.FAR, shares=self.SHARES)
        self.mlp_norm, self.mlp_post_norm = own(), own()
        inner = "U" if self.SHARES and config.wide else "F"
        self.mlp = blocks.GatedMlp(sizes, key=keys[1], scale=scale, activation=gelu, inner=inner)
        self.has_experts, self.has_input = config.experts > 0, config.layer_inputs > 0
        if self.has_experts:
            self.moe = Experts(config, key=keys[2])
            self.mlp_own_norm, self.moe_norm, self.moe_own_norm = own(), own(), own()
        if self.has_input:
            self.input_gate = base.weight("BTD,DX->BTX", sizes, key=keys[3], scale=scale)
            self.input_out = base.weight("BTX,XD->BTD", sizes, key=keys[4], scale=scale)
            self.input_norm = own()
        self.layer_scalar = base.vector("O", sizes, fill=1.0)

    def __call__(self, x_BTD, context: base.Context, site: base.Site, cache=None):
        """Apply the layer; returns [B,T,D], its keys and values, what its router gives."""
        mixed, new = self.attn(self.norm(x_BTD, self.attn_norm), context, site.under("attn"), cache)
        x_BTD = remat.keep(x_BTD + self.norm(remat.keep(mixed), self.attn_post_norm))
        made, given = self._feed_forward(x_BTD, context, site)
        x_BTD = x_BTD + self.norm(remat.keep(made), self.mlp_post_norm)
        if self.has_input:
            gate = gelu(site("input_gate", x_BTD, self.input_gate)) * context.layer_input
            made = remat.keep(site("input_out", gate, self.input_out))
            x_BTD = x_BTD + self.norm(made, self.input_norm)
        # A buffer in the reference: files have it, and it does not train.
        x_BTD = x_BTD * jax.lax.stop_gradient(self.layer_scalar[...]).astype(x_BTD.dtype)
        return mesh.constrain(x_BTD, "BTD"), new, given

    def _feed_forward(self, x_BTD, context: base.Context, site: base.Site):
        made = self.mlp(self.norm(x_BTD, self.mlp_norm), site.under("mlp"))
        if not self.has_experts:
            return made, None
        own = site.under("moe")
        h = self.norm(x_BTD, self.moe_norm)
        y, given = self.moe.mix(h, *self.moe.route(x_BTD, own), context.segments_BT, own)
        made = self.norm(remat.keep(made), self.mlp_own_norm)
        return made + self.norm(remat.keep(y), self.moe_own_norm), given


class GlobalBlock(Block):
    """A global layer."""

    FAR = True


class SharedBlock(Block):
    """A local layer that takes keys and values."""

    SHARES = True


class SharedGlobalBlock(Block):
    """A global layer that takes keys and values."""

    FAR, SHARES = True, True


class Ends(blocks.Ends):
    """What exists once, with what makes the layers' own inputs."""

    def __init__(self, config: Config, key: jax.Array):
        super().__init__(config, key, norm=_norm(config), embed_scale=config.dim**0.5)
        self.has_inputs, sizes, scale = config.layer_inputs > 0, config.sizes, config.init_scale
        if self.has_inputs:
            keys = jax.random.split(jax.random.fold_in(key, 1))
            self.inputs = base.table("ZMX", sizes, key=keys[0], scale=scale, stored="Z,MX")
            self.inputs_map = base.weight("BTD,DMX->BTMX", sizes, key=keys[1], scale=scale)
            self.inputs_norm = self.norm.declare("X", sizes)

    def layer_inputs(self, tokens_BT, x_BTD, site: base.Site):
        """Make the layers' own inputs [L,B,T,X] of tokens and their embedding; or None."""
        if not self.has_inputs:
            return None
        made = site("inputs_map", x_BTD, self.inputs_map) * x_BTD.shape[-1] ** -0.5
        made = self.norm(made, self.inputs_norm)
        # Scaled by the root of its width, as the embedding is.
        rows = self.inputs[...][tokens_BT].astype(made.dtype) * made.shape[-1] ** 0.5
        # Layers first, as the scan over them takes its inputs.
        return jnp.moveaxis((made + rows) * 2**-0.5, 2, 0)


def _norm(config: Config) -> blocks.Norm:
    # Unlike in Gemma 1 to 3 the scale is kept as it is, not less one.
    return blocks.Norm(norm.rms_norm_wide, 1.0, config.norm_eps)


def make(config: Config, **options) -> decoder.Model:
    """Make the handle of a model; the options are those of `experts.make`, or of `decoder.make`."""
    stacks = {
        "blocks": Block, "global": GlobalBlock, "blocks_shared": SharedBlock,
        "global_shared": SharedGlobalBlock,
    }  # fmt: skip
    own = dict(ends=Ends, blocks=stacks, caches=CACHES)
    return (experts.make if config.experts else decoder.make)(config, **own, **options)


# -- checkpoints -----------------------------------------------------------------------------------

EXAMPLE = {k: v for k, v in llama.EXAMPLE.items() if k not in ("hidden_act", "rope_theta")} | dict(
    model_type="gemma4_text", num_hidden_layers=4, sliding_window=4, head_dim=8, global_head_dim=16,
    num_global_key_value_heads=1, attention_k_eq_v=True, num_kv_shared_layers=2,
    use_double_wide_mlp=True, hidden_size_per_layer_input=0, enable_moe_block=True, num_experts=4,
    top_k_experts=2, moe_intermediate_size=12, final_logit_softcapping=3.0,
    layer_types=["sliding_attention", "full_attention"] * 2,
    rope_parameters=dict(
        full_attention=dict(rope_type="proportional", rope_theta=100.0, partial_rotary_factor=0.5),
        sliding_attention=dict(rope_type="default", rope_theta=10000.0),
    ),
)  # fmt: skip
LAYER = "model.layers.{L}."
OF_LAYER = {
    "attn_norm": "input_layernorm.weight", "attn_post_norm": "post_attention_layernorm.weight",
    "attn/q": "self_attn.q_proj.weight", "attn/k": "self_attn.k_proj.weight",
    "attn/v": "self_attn.v_proj.weight", "attn/o": "self_attn.o_proj.weight",
    "attn/q_norm": "self_attn.q_norm.weight", "attn/k_norm": "self_attn.k_norm.weight",
    "mlp_norm": "pre_feedforward_layernorm.weight",
    "mlp_post_norm": "post_feedforward_layernorm.weight",
    "mlp/gate": "mlp.gate_proj.weight", "mlp/up": "mlp.up_proj.weight",
    "mlp/down": "mlp.down_proj.weight", "layer_scalar": "layer_scalar",
    "mlp_own_norm": "post_feedforward_layernorm_1.weight",
    "moe_norm": "pre_feedforward_layernorm_2.weight",
    "moe_own_norm": "post_feedforward_layernorm_2.weight", "moe/router": "router.proj.weight",
    "moe/scale": "router.scale", "moe/expert_scale": "router.per_expert_scale",
    "moe/gate_up": "experts.gate_up_proj", "moe/down": "experts.down_proj",
    "input_gate": "per_layer_input_gate.weight", "input_out": "per_layer_projection.weight",
    "input_norm": "post_per_layer_input_norm.weight",
}  # fmt: skip
NAMES = {path: name for path, name in llama.NAMES.items() if not path.startswith("blocks/")} | {
    "inputs": "model.embed_tokens_per_layer.weight",
    "inputs_map": "model.per_layer_model_projection.weight",
    "inputs_norm": "model.per_layer_projection_norm.weight",
}
STACKS = ("blocks", "global", "blocks_shared", "global_shared")
NAMES |= {f"{stack}/{path}": LAYER + name for stack in STACKS for path, name in OF_LAYER.items()}


def from_hf(config_json: dict[str, Any]) -> Config:
    """Read a config.json of model type `gemma4_text`.

    Raises:
      ValueError: a key is missing, unknown, or has a value that is not supported.
    """
    keys = hf_config.Keys(config_json)
    keys.only("hidden_activation", ["gelu_pytorch_tanh"], "gelu_pytorch_tanh")  # Gemma4TextConfig
    keys.only("attention_bias", [False], False)  # absent: Gemma4TextConfig says no
    # Bidirectional among the tokens of an image alone, of which text has none.
    keys.only("use_bidirectional_attention", [False, "vision"], False)
    far, near = _read_ropes(keys)
    layer_inputs = keys.get("hidden_size_per_layer_input", 256)
    common = llama.read_common(
        keys, qkv_bias=False, qk_norm=True, rope=far,
        # Absent: Gemma4TextConfig says 256, yes and 512.
        head_dim=keys.get("head_dim", 256), tied=keys.get("tie_word_embeddings", True),
        window=keys.get("sliding_window", 512),
    )  # fmt: skip
    local = gemma.read_local(keys, every=6)  # absent: Gemma4TextConfig has each sixth global
    local = tuple(local[i % len(local)] for i in range(common.layers))
    config = Config(
        **vars(common), **_read_experts(keys), **_read_global(keys, local, common.kv_heads),
        local=local, local_rope=near, layer_inputs=layer_inputs,
        shared_layers=keys.get("num_kv_shared_layers", 0),
        wide=keys.get("use_double_wide_mlp", False),
        # Without such inputs there is no table.
        layer_vocab=keys.get("vocab_size_per_layer_input", 262144) if layer_inputs else 0,
        final_cap=keys.nullable("final_logit_softcapping", None),
    )  # fmt: skip
    keys.finish(harmless=["vocab_size_per_layer_input"])
    return config


def _read_ropes(keys: hf_config.Keys) -> tuple[rope.Rope, rope.Rope]:
    """Read the rotary embeddings of global and of local layers."""
    nested = keys.get("rope_parameters")
    found = []
    for local in (False, True):
        own = dict(nested[gemma.LOCAL[local]])
        partial = own.pop("partial_rotary_factor", 1.0)
        read = keys.rope_of(own, theta=own.pop("rope_theta"))
        found.append(dataclasses.replace(read, partial=float(partial)))
    return tuple(found)


def _read_experts(keys: hf_config.Keys) -> dict[str, Any]:
    """Read the numbers of experts; they are 0 where the block is off."""
    on = keys.get("enable_moe_block", False)  # absent: Gemma4TextConfig says no
    names = dict(experts="num_experts", top="top_k_experts", expert_ffw="moe_intermediate_size")
    numbers = {ours: keys.get(name, 0) if on else 0 for ours, name in names.items()}
    keys.seen |= set(names.values())
    return numbers | dict(
        normalise=True, router_aux=0.0, shared_ffw=None, dispatch=moe.DROPLESS
    )  # fmt: skip


def _read_global(keys: hf_config.Keys, local: tuple[bool, ...], kv_heads: int) -> dict[str, Any]:
    """Read the sizes of global layers, in the words of either dialect.

    Raises:
      ValueError: layers differ otherwise than local and global ones do.
    """
    k_is_v = keys.get("attention_k_eq_v", False)  # absent: Gemma4TextConfig says no
    each = keys.get("per_layer_config", {})
    # JSON has no numbers as keys.
    far = {str(i) for i, near in enumerate(local) if not near}
    sizes = [tuple(sorted(own.items())) for own in each.values()]
    if each and (set(each) != far or len(set(sizes)) > 1):
        raise ValueError(
            f"{keys.where}: got per_layer_config={each}; expected the same numbers for all global "
            f"layers, {sorted(far)}, and for no other"
        )
    own = dict(sizes[0]) if each else {}
    heads = own.get("num_key_value_heads") or keys.get("num_global_key_value_heads", kv_heads)
    return dict(
        # Absent: Gemma4TextConfig says 512.
        global_head_dim=own.get("head_dim") or keys.get("global_head_dim", 512),
        # The reference asks for the other number of heads only where keys are values.
        global_kv_heads=heads if k_is_v else kv_heads, k_is_v=k_is_v,
    )  # fmt: skip


def _rope_json(r: rope.Rope) -> dict[str, Any]:
    partial = {"partial_rotary_factor": r.partial} if r.kind == "proportional" else {}
    return {"rope_type": r.kind, "rope_theta": r.theta} | partial | dict(r.numbers)


def to_hf(config: Config) -> dict[str, Any]:
    """Write a config.json; `from_hf` is its inverse."""
    written = llama.write_common(config)
    for name in ("hidden_act", "rope_theta", "rope_scaling"):
        written.pop(name)
    ropes = {False: config.rope, True: config.local_rope}
    return written | {
        "architectures": ["Gemma4ForCausalLM"],
        "attention_bias": False,
        "attention_k_eq_v": config.k_is_v,
        "enable_moe_block": config.experts > 0,
        "final_logit_softcapping": config.final_cap,
        "global_head_dim": config.global_head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size_per_layer_input": config.layer_inputs,
        "layer_types": [gemma.LOCAL[local] for local in config.local],
        "model_type": "gemma4_text",
        "moe_intermediate_size": config.expert_ffw or None,
        "num_experts": config.experts or None,
        "num_global_key_value_heads": config.global_kv_heads if config.k_is_v else None,
        "num_kv_shared_layers": config.shared_layers,
        "rope_parameters": {gemma.LOCAL[near]: _rope_json(r) for near, r in ropes.items()},
        "sliding_window": config.window,
        "top_k_experts": config.top or None,
        "use_double_wide_mlp": config.wide,
        "vocab_size_per_layer_input": config.layer_vocab or config.vocab_size,
    }
