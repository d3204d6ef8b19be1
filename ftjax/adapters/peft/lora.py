"""LoRA and DoRA in PEFT's files.

PEFT stores an adapter with a displaced start (PiSSA, OLoRA) beside a base that it changes when it
loads it: w - s * a0 b0. Our base stays as it is, so reading one needs the weights, to find a0 and
b0 again; it is written in PEFT's converted form, a plain LoRA of twice the rank.

Layers of a stack whose ranks differ are padded with zeros to the largest rank, and each layer has
its own scale. Zero columns of `a` facing zero rows of `b` stay zero in training, so on export the
true ranks are found again, and a layer that was not adapted (a and b zero) is left out.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from ftjax.adapters import lora
from ftjax.adapters.dora import DoRA
from ftjax.adapters.lib import inits
from ftjax.adapters.lib.token_rows import Tokens
from ftjax.adapters.lora import LoRA, OffsetLoRA
from ftjax.adapters.peft import config as peft_config
from ftjax.adapters.peft.format import Format, number, pattern
from ftjax.core import einsum, torch_layout

# Initialisations that change the base: their factors belong to the residual, not to the base.
CHANGES_BASE = ("corda", "loftq", "lora_ga", "milora", "olora", "pissa")
LINEAR, LOOKUP = ("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B")
MAGNITUDE, ROWS = "lora_magnitude_vector", "token_adapter.trainable_tokens_delta"


class LoraFormat(Format):
    """Tensors lora_A (r, in) and lora_B (out, r); with `use_dora` lora_magnitude_vector (out).

    Those of E experts are one pair: lora_A (E r, in), the experts one after the other, and lora_B
    (out, r E), where the expert varies fastest.
    """

    peft_type, kinds = "LORA", (LoRA, DoRA, OffsetLoRA, Tokens)
    keys = frozenset({
        "alpha_pattern", "init_lora_weights", "lora_alpha", "lora_dropout", "r", "rank_pattern",
        "target_parameters", "trainable_token_indices", "use_dora", "use_rslora",
        # Without effect on what the tensors mean:
        "corda_config", "eva_config", "fan_in_fan_out", "loftq_config", "lora_ga_config",
        "megatron_core", "qalora_group_size",
    })  # fmt: skip
    required = frozenset({"r", "lora_alpha"})

    def read(self, config):
        """Read ranks, alphas and the dropout."""
        init = config.get("init_lora_weights", True)
        displaced = isinstance(init, str) and init.startswith(CHANGES_BASE)
        if displaced and init not in inits.DISPLACED:
            raise ValueError(f"init_lora_weights={init!r}")
        ids = config.get("trainable_token_indices")
        return dict(
            rank=config["r"], alpha=config["lora_alpha"], rslora=bool(config.get("use_rslora")),
            dropout=float(config.get("lora_dropout") or 0.0), dora=bool(config.get("use_dora")),
            rank_pattern=config.get("rank_pattern") or {},
            alpha_pattern=config.get("alpha_pattern") or {},
            init=init if displaced else "kaiming", tokens=ids or (),
        )  # fmt: skip

    def write(self, layers, hyper):
        """Find ranks and alphas; the shortest patterns that give each module its own."""
        rslora = bool(hyper.get("rslora"))
        ending = lambda name: name.rpartition(".")[2]
        rows = {ending(n): x.ids.tolist() for n, x in layers.items() if isinstance(x, Tokens)}
        layers = {name: x for name, x in layers.items() if self.is_target(x)}
        ranks = {name: adapter.b.shape[0] for name, adapter in layers.items()}
        alphas = {n: alpha_of(float(x.scale), ranks[n], rslora=rslora) for n, x in layers.items()}
        (rank, rank_pattern), (alpha, alpha_pattern) = pattern(ranks), pattern(alphas)
        return {
            "alpha_pattern": {key: number(value) for key, value in alpha_pattern.items()},
            "bias": "none",
            "fan_in_fan_out": False,
            # The factors are in the file: nothing is to be drawn, and no base to be decomposed.
            "init_lora_weights": True,
            "lora_alpha": number(alpha),
            "lora_dropout": max(adapter.dropout for adapter in layers.values()),
            "r": rank,
            "rank_pattern": rank_pattern,
            # A list is of the embedding, and of a head that is tied to it.
            "trainable_token_indices": rows if len(rows) > 1 else next(iter(rows.values()), None),
            "use_dora": any(isinstance(adapter, DoRA) for adapter in layers.values()),
            "use_rslora": rslora,
        }

    def covers(self, module):
        """Linear maps, embeddings and experts."""
        return True

    def besides(self, module, hyper):
        """An embedding, or a head, of which some rows train."""
        return bool(rows_of(module, hyper))

    def is_target(self, adapter):
        """All but trained rows."""
        return not isinstance(adapter, Tokens)

    def shapes(self, module, hyper):
        """Return (r, in), (out, r), and (out,); or (tokens, out)."""
        if self.besides(module, hyper):
            width = module.outputs if module.linear.is_lookup else module.inputs
            return {ROWS: (len(rows_of(module, hyper)), width)}
        rank = rank_of(module.name, hyper) * einsum.size(module.e.shared, module.sizes)
        a, b = factors(module)
        length = {MAGNITUDE: (module.outputs,)} if hyper["dora"] else {}
        return {a: (rank, module.inputs), b: (module.outputs, rank)} | length

    def from_torch(self, module, hyper, tensors):
        """Unflatten A and B into our letters."""
        if ROWS in tensors:
            return Tokens(tensors[ROWS], _ids(module, hyper))
        e, rank = module.e, rank_of(module.name, hyper)
        a, b = (tensors[name] for name in factors(module))
        low = einsum.lora(module.linear.equation)
        a = module.from_torch(a, e.shared + "R", e.contracted, letters=low.a, R=rank)
        b = module.from_torch(b, e.kept, "R" + e.shared, letters=low.b, R=rank)
        rest = (np.float32(scale_of(module.name, hyper)), hyper["dropout"])
        if not hyper["dora"]:
            return LoRA(a, b, *rest)
        return DoRA(a, b, module.from_torch(tensors[MAGNITUDE], e.kept, letters=e.kept), *rest)

    def to_torch(self, module, adapter):
        """Flatten a and b."""
        if isinstance(adapter, Tokens):
            return {ROWS: adapter.rows}
        e, low = module.e, einsum.lora(module.linear.equation)
        if e.shared and isinstance(adapter, DoRA):
            raise ValueError(f"adapters/{module.path}: got a DoRA; PEFT has none for experts")
        a = torch_layout.Layout((e.shared + "R", e.contracted), low.a).to_torch(adapter.a)
        b = torch_layout.Layout((e.kept, "R" + e.shared), low.b).to_torch(adapter.b)
        length = {MAGNITUDE: adapter.m.reshape(-1)} if isinstance(adapter, DoRA) else {}
        return dict(zip(factors(module), (a, b), strict=True)) | length

    def needs_weight(self, hyper):
        """Starts that are made of the weight."""
        return hyper["init"] in inits.DISPLACED

    def on_weight(self, module, hyper, adapter, w):
        """Find the start of a displaced adapter again."""
        equation, scale = module.linear.equation, float(adapter.scale)
        options = dict(rank=adapter.b.shape[0], scale=scale)
        a0, b0 = lora.draw(hyper["init"], None, equation, w, **options)
        own = (adapter.a, adapter.b, np.asarray(a0), -np.asarray(b0), adapter.scale)
        return OffsetLoRA(*own, adapter.dropout)

    def trim(self, adapter):
        """Cut a and b to their true rank."""
        if isinstance(adapter, Tokens):
            return adapter
        if isinstance(adapter, OffsetLoRA):  # the rank is the last axis of a and the first of b
            a = np.concatenate([adapter.a, adapter.a0], -1)
            b = np.concatenate([adapter.b, adapter.b0], 0)
            adapter = LoRA(a, b, adapter.scale, adapter.dropout)
        a, b = adapter.a, adapter.b
        used = np.any(a.reshape(-1, a.shape[-1]), 0) | np.any(b.reshape(b.shape[0], -1), 1)
        return dataclasses.replace(adapter, a=a[..., used], b=b[used]) if used.any() else None

    def align(self, layers):
        """Pad with zeros to the largest rank."""
        most = max(layer.b.shape[0] for layer in layers)

        def pad(x):
            lacking = (0, most - x.b.shape[0])
            a = np.pad(x.a, [(0, 0)] * (x.a.ndim - 1) + [lacking])
            b = np.pad(x.b, [lacking] + [(0, 0)] * (x.b.ndim - 1))
            return dataclasses.replace(x, a=a, b=b)

        return [pad(layer) for layer in layers]


def rows_of(module, hyper) -> list[int]:
    """Return the ids of the tokens whose rows of this module train."""
    tokens = hyper["tokens"]
    if isinstance(tokens, Mapping):  # by the end of a module's name
        return next((ids for name, ids in tokens.items() if module.name.endswith(name)), [])
    return list(tokens) if module.linear.is_lookup else []


def _ids(module, hyper) -> np.ndarray:
    found, size = np.asarray(rows_of(module, hyper), np.int32), module.sizes["V"]
    if found.max() >= size:
        raise ValueError(
            f"trainable_token_indices: got the token {found.max()} for a base of {size} tokens; "
            "expected one that has it; set data.new_tokens as the run did that made the adapter"
        )
    return found


def factors(module) -> tuple[str, str]:
    """Name the tensors A and B; those of an embedding are called otherwise."""
    return LOOKUP if module.linear.is_lookup else LINEAR


def rank_of(name: str, hyper) -> int:
    """Return the rank of an adapted module."""
    return peft_config.by_pattern(hyper["rank_pattern"], name, hyper["rank"])


def scale_of(name: str, hyper) -> float:
    """Return the factor of a b: alpha / r, or alpha / sqrt(r) with rsLoRA."""
    rank = rank_of(name, hyper)
    alpha = peft_config.by_pattern(hyper["alpha_pattern"], name, hyper["alpha"])
    return alpha / (rank**0.5 if hyper["rslora"] else rank)


def alpha_of(scale: float, rank: int, *, rslora: bool) -> float:
    """Invert the scale; the roundest number that gives the same float32."""
    divisor = rank**0.5 if rslora else rank
    exact = scale * divisor
    rounder = (round(exact, digits) for digits in range(8))
    same = (x for x in rounder if np.float32(x / divisor) == np.float32(scale))
    return next(same, exact)


PEFT = LoraFormat()
