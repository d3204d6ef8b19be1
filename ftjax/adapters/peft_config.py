"""The settings of a PEFT LoRA: which modules it adapts, and with what rank and alpha.

The rules are PEFT's. A list of `target_modules` matches by the end of the module's name, a string
is a regular expression over all of it, "all-linear" is everything but the head; `exclude_modules`
takes away in the same way; `layers_to_transform` keeps some layers. Keys of `rank_pattern` and
`alpha_pattern` are regular expressions that match the end of a name after a dot.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

# Keys that do not change what the weights in the file compute.
HARMLESS = frozenset({
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config",
    "fan_in_fan_out", "inference_mode", "loftq_config", "lora_ga_config", "corda_config",
    "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config",
    "task_type",
})  # fmt: skip
READ = frozenset({
    "alpha_pattern", "exclude_modules", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "lora_alpha", "lora_dropout", "peft_type", "r", "rank_pattern",
    "target_modules", "use_rslora",
})  # fmt: skip
OFF = (None, False, "none", [], {})
# Initialisations that change the base: their factors belong to the residual, not to the base.
CHANGES_BASE = ("corda", "loftq", "lora_ga", "olora", "pissa")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What an adapter_config.json says."""

    rank: int
    alpha: float
    rslora: bool
    dropout: float
    targets: str | tuple[str, ...]
    exclude: str | tuple[str, ...] = ()
    layers: tuple[int, ...] | None = None
    layers_pattern: tuple[str, ...] = ()
    rank_pattern: Mapping[str, int] = dataclasses.field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def adapts(self, module: str, *, head: bool) -> bool:
        """Say whether the linear map called `module` is adapted; `head` marks the output head."""
        if self.exclude and _match(self.exclude, module):
            return False
        if isinstance(self.targets, str):
            everything = self.targets.lower() == "all-linear"
            return not head if everything else _match(self.targets, module)
        if module in self.targets:  # a full name counts in every layer
            return True
        return _match(self.targets, module) and self._has_layer(module)

    def _has_layer(self, module: str) -> bool:
        if self.layers is None:
            return True
        patterns = self.layers_pattern or (r"[^.]*",)
        found = (re.match(rf".*\.{pattern}\.(\d+)\.", module) for pattern in patterns)
        first = next((match for match in found if match), None)
        return first is not None and int(first.group(1)) in self.layers

    def rank_of(self, module: str) -> int:
        """Return the rank of an adapted module."""
        return _by_pattern(self.rank_pattern, module, self.rank)

    def scale_of(self, module: str) -> float:
        """Return the factor of a b: alpha / r, or alpha / sqrt(r) with rsLoRA."""
        rank, alpha = self.rank_of(module), _by_pattern(self.alpha_pattern, module, self.alpha)
        return alpha / (rank**0.5 if self.rslora else rank)


def _match(names: str | Iterable[str], module: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _by_pattern(patterns: Mapping[str, Any], module: str, default):
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def read(config: Mapping[str, Any], *, where: str) -> Settings:
    """Read an adapter_config.json.

    Raises:
      ValueError: another method than LoRA, or a setting that is not supported; named.
    """
    if config.get("peft_type") != "LORA":
        raise ValueError(f"{where}: got peft_type={config.get('peft_type')!r}; expected 'LORA'")
    unsupported = {
        key: value for key, value in config.items()
        if key not in HARMLESS | READ and value not in OFF
    }  # fmt: skip
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.startswith(CHANGES_BASE):
        unsupported["init_lora_weights"] = init
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        unsupported["task_type"] = config["task_type"]
    if config.get("target_modules") in OFF:
        unsupported["target_modules"] = config.get("target_modules")
    if unsupported:
        shown = ", ".join(f"{key}={value!r}" for key, value in sorted(unsupported.items()))
        raise ValueError(f"{where}: got settings that are not supported: {shown}")
    missing = {"r", "lora_alpha"} - config.keys()
    if missing:
        raise ValueError(f"{where}: the keys {sorted(missing)} are missing")
    return _settings(config)


def _settings(config: Mapping[str, Any]) -> Settings:
    layers = config.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers
    return Settings(
        rank=config["r"], alpha=config["lora_alpha"], rslora=bool(config.get("use_rslora")),
        dropout=float(config.get("lora_dropout") or 0.0),
        targets=_names(config["target_modules"]), exclude=_names(config.get("exclude_modules")),
        layers=tuple(layers) if layers else None,
        layers_pattern=_as_tuple(config.get("layers_pattern")),
        rank_pattern=config.get("rank_pattern") or {},
        alpha_pattern=config.get("alpha_pattern") or {},
    )  # fmt: skip


def _names(value) -> str | tuple[str, ...]:
    return value if isinstance(value, str) else tuple(value or ())


def _as_tuple(value) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def write(settings: Settings, *, base_model: str | None) -> dict[str, Any]:
    """Write the adapter_config.json that PEFT, vLLM and `read` understand."""
    number = lambda x: int(x) if float(x).is_integer() else float(x)
    targets = settings.targets
    return {
        "alpha_pattern": {key: number(value) for key, value in settings.alpha_pattern.items()},
        "auto_mapping": None,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        # The factors are in the file: nothing is to be drawn, and no base to be decomposed.
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None if settings.layers is None else list(settings.layers),
        "lora_alpha": number(settings.alpha),
        "lora_dropout": settings.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "peft_version": "0.21.2",  # the release whose format this is
        "r": settings.rank,
        "rank_pattern": dict(settings.rank_pattern),
        "target_modules": targets if isinstance(targets, str) else sorted(targets),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": settings.rslora,
    }
