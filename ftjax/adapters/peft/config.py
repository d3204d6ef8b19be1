"""What every adapter_config.json says, whatever the method: which modules are adapted.

The rules are PEFT's. A list of `target_modules` matches by the end of the module's name, a string
is a regular expression over all of it, "all-linear" is everything but the head; `exclude_modules`
takes away in the same way; `layers_to_transform` keeps some layers. Keys of patterns such as
`rank_pattern` are regular expressions that match the end of a name after a dot. `target_parameters`
matches parameters that are no linear module's by the end of their names: the fused experts.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ftjax.core import typed
from ftjax.core.typed import Count, Natural, Positive, Share

# Keys that do not change what the weights in the file compute.
HARMLESS = frozenset({
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "inference_mode",
    "peft_version", "revision", "runtime_config", "task_type", "tokenizer_kwargs",
    "tokenizer_name_or_path",
})  # fmt: skip
COMMON = frozenset({
    "exclude_modules", "layers_pattern", "layers_to_transform", "modules_to_save", "peft_type",
    "target_modules",
})  # fmt: skip
NAMES = str | list[str]
# What the keys hold that say something of the tensors, whatever the method.
TYPES: Mapping[str, Any] = {
    "alpha": Positive, "alpha_pattern": dict[str, Positive], "block_share": bool,
    "boft_block_num": Natural, "boft_block_size": Natural, "boft_n_butterfly_factor": Count,
    "d_initial": Positive, "decompose_both": bool, "decompose_factor": int,
    "exclude_modules": NAMES, "feedforward_modules": NAMES, "init_lora_weights": bool | str,
    "init_r": Count, "layers_pattern": NAMES, "layers_to_transform": int | list[int],
    "lora_alpha": Positive, "lora_dropout": Share, "modules_to_save": list[str],
    "n_frequency": Count, "n_frequency_pattern": dict[str, Count], "num_attention_heads": Count,
    "num_cayley_neumann_terms": Natural, "num_layers": Count, "num_virtual_tokens": Count,
    "oft_block_size": Natural, "prefix_projection": bool, "projection_prng_key": Natural,
    "r": Natural, "random_loc_seed": Natural, "rank_pattern": dict[str, Count],
    "save_projection": bool, "scaling": Positive, "target_modules": NAMES,
    "target_parameters": NAMES, "token_dim": Count, "use_cayley_neumann": bool, "use_dora": bool,
    "use_rslora": bool,
}  # fmt: skip
OFF = (None, False, "none", [], {})
TASKS = ("CAUSAL_LM", "SEQ_CLS")  # of decoders: with their own head, and with one of scores
SCORE = "base_model.model.score.weight"  # a classifier's head, which no decoder has
VERSION = "0.21.2"  # the release whose format this is


@dataclasses.dataclass(frozen=True)
class Targets:
    """Which modules an adapter_config.json adapts."""

    targets: str | tuple[str, ...] = ()
    exclude: str | tuple[str, ...] = ()
    layers: tuple[int, ...] | None = None
    layers_pattern: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()

    def adapts(self, module: str, *, head: bool) -> bool:
        """Return whether the linear map called `module` is adapted.

        `head` marks the maps outside of the layers: embedding and output head.
        """
        if self.exclude and match(self.exclude, module):
            return False
        if isinstance(self.targets, str):
            everything = self.targets.lower() == "all-linear"
            return not head if everything else match(self.targets, module)
        if module in self.targets:  # a full name counts in every layer
            return True
        return match(self.targets, module) and self._has_layer(module)

    def adapts_parameter(self, name: str) -> bool:
        """Return whether a parameter of no linear module, such as fused experts, is adapted."""
        return match(self.parameters, name)

    def _has_layer(self, module: str) -> bool:
        if self.layers is None:
            return True
        patterns = self.layers_pattern or (r"[^.]*",)
        found = (re.match(rf".*\.{pattern}\.(\d+)\.", module) for pattern in patterns)
        first = next((each for each in found if each), None)
        return first is not None and int(first.group(1)) in self.layers


def match(names: str | Iterable[str], module: str) -> bool:
    """Return whether a list of endings, or a regular expression, covers the module's name."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def by_pattern(patterns: Mapping[str, Any], module: str, default):
    """Return the value of the first pattern that matches the module's name, or the default."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def check(config: Mapping[str, Any], method, *, where: str) -> None:
    """Check the keys of an adapter_config.json against what a method's format reads.

    Raises:
      ValueError: a setting is not supported, or a key is missing; named.
    """
    known = HARMLESS | COMMON | set(method.keys)
    unsupported = {
        key: value for key, value in config.items() if key not in known and value not in OFF
    }
    if config.get("task_type") not in (None, *TASKS):
        unsupported["task_type"] = config["task_type"]
    aims = config.get("target_modules") not in OFF or config.get("target_parameters") not in OFF
    if method.has_targets and not aims:
        unsupported["target_modules"] = config.get("target_modules")
    if unsupported:
        shown = ", ".join(f"{key}={value!r}" for key, value in sorted(unsupported.items()))
        raise ValueError(f"{where}: got settings that are not supported: {shown}")
    # null stands for an absent key.
    missing = [key for key in sorted(method.required) if config.get(key) is None]
    if missing:
        raise ValueError(f"{where}: the keys {missing} are missing")
    for key, kind in TYPES.items():
        value = config.get(key)
        if value is not None and (expected := typed.problem(value, kind)):
            shown = f"{key}={str(value)[:80]!r}"
            raise ValueError(f"{where}: got {shown}; expected {expected}; write it as PEFT does")


def read(config: Mapping[str, Any]) -> Targets:
    """Read which modules are adapted."""
    layers = config.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers
    return Targets(
        targets=_names(config.get("target_modules")), exclude=_names(config.get("exclude_modules")),
        layers=tuple(layers) if layers else None,
        layers_pattern=_as_tuple(config.get("layers_pattern")),
        parameters=_as_tuple(config.get("target_parameters")),
    )  # fmt: skip


def _names(value) -> str | tuple[str, ...]:
    return value if isinstance(value, str) else tuple(value or ())


def _as_tuple(value) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def saved(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return which modules of the base the file holds whole; a classifier's head is none."""
    heads = ("score", "classifier") if config.get("task_type") == "SEQ_CLS" else ()
    return tuple(name for name in config.get("modules_to_save") or () if name not in heads)


def classifier(config: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a decoder's config into that of a classifier, whose head is saved whole."""
    beside = [*(config["modules_to_save"] or ()), "score"]
    return {**config, "task_type": "SEQ_CLS", "modules_to_save": beside}


def write(targets: Targets | None, *, peft_type: str, base_model: str | None) -> dict[str, Any]:
    """Write the keys that every method has; `None` is a method without targets."""
    config = {
        "auto_mapping": None,
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "modules_to_save": None,
        "peft_type": peft_type,
        "peft_version": VERSION,
        "revision": None,
        "task_type": "CAUSAL_LM",
    }
    if targets is None:
        return config
    names = targets.targets
    parameters = {"target_parameters": list(targets.parameters)} if targets.parameters else {}
    return (
        config
        | parameters
        | {
            "exclude_modules": None,
            "layers_pattern": None,
            "layers_to_transform": None if targets.layers is None else list(targets.layers),
            "target_modules": names if isinstance(names, str) else sorted(names),
        }
    )
