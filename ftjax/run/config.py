"""What a config may say, typed: the one list of keys that the mains read.

    settings = read(config)
    settings.optim["name"], settings.mesh["fsdp"], settings.model.remat

A key that is not a field here is an error with the nearest name, so no key is ever ignored.
Sections with a `name` (adapter, objective, optim, data, each of penalties and of evals) stay dicts:
whatever the name stands for checks its own keywords.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from ftjax.core import config as conf
from ftjax.core.typed import Count, Decay, Natural, NonNegative, Patterns, Positive, Share


@dataclasses.dataclass(frozen=True)
class Seeds:
    """One seed for each thing that is drawn."""

    data: Natural
    init: Natural
    adapter: Natural
    sampling: Natural


@dataclasses.dataclass(frozen=True)
class Model:
    """Which weights, in which types; see `configs/common.py`."""

    base: str
    preset: str
    param_dtype: str
    train_dtype: str
    compute_dtype: str
    remat: str
    chunk: Count
    dispatch: str
    capacity_factor: Positive | None
    router_aux: NonNegative | None
    quantize: dict


@dataclasses.dataclass(frozen=True)
class Reference:
    """What preference losses and distillation compare with; see `ftjax/run/reference.py`."""

    name: str
    base: str
    folder: str


@dataclasses.dataclass(frozen=True)
class Samples:
    """Prompts to continue before and after training."""

    prompts: Sequence[str]
    max_new_tokens: Count
    temperature: NonNegative


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """When to save and what to keep; `best` is a metric such as "eval/facts/nll"."""

    every_steps: Natural
    keep: Count
    best: str
    mode: str


@dataclasses.dataclass(frozen=True)
class Export:
    """How others find what exports refer to: `base_name`, such as "org/name" of a hub."""

    base_name: str = ""

    def __post_init__(self):
        if pathlib.PurePath(self.base_name).is_absolute():
            raise ValueError(
                f"export.base_name: got {self.base_name!r}, a path of this machine; expected a "
                "name that others can load; set it to the base's hub id, such as 'org/name'"
            )


@dataclasses.dataclass(frozen=True)
class Rollout:
    """How answers are sampled to learn from; see `configs/common.py`."""

    prompts: Count
    samples: Count
    epochs: Count
    max_new_tokens: Count
    temperature: Positive
    slots: Natural
    until: Patterns
    faults: str
    kl_target: Positive | None
    kl_horizon: Count | None = None
    mixture: Share | None = None
    mask_truncated: bool = False
    missing_eos_penalty: float | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
    """A whole config."""

    seed: Seeds
    model: Model
    tokenizer: str
    adapter: dict
    adapter_from: str
    trainable: Patterns
    objective: dict
    penalties: dict[str, dict]
    reference: Reference
    optim: dict
    data: dict
    evals: dict[str, dict]
    samples: Samples
    mesh: dict
    steps: Count | None
    epochs: Positive | None
    batch_size: Count
    accumulate: Count
    compile: str
    ema_decay: Decay | None
    log_every_steps: Count
    eval_every_steps: Natural
    checkpoint: Checkpoint
    wandb_project: str
    plain: dict  # the config as it was given, for config.json and the checkpoints' manifest
    export: Export = Export()
    rollout: Rollout | None = None  # of online runs, as are the next two
    rewards: dict[str, dict] = dataclasses.field(default_factory=dict)
    advantages: dict = dataclasses.field(default_factory=dict)


SECTIONS = {
    "seed": Seeds,
    "model": Model,
    "reference": Reference,
    "samples": Samples,
    "checkpoint": Checkpoint,
    "export": Export,
    "rollout": Rollout,
}


def read(config: Mapping) -> Settings:
    """Check the keys and plain types of a config and return it typed.

    Raises:
      ValueError: an unknown or missing key, or a value of the wrong type; the key is named.
    """
    plain = conf.to_dict(config)
    typed = {
        name: conf.call(SECTIONS[name], value, where=name) if name in SECTIONS else value
        for name, value in plain.items()
    }
    settings = conf.call(Settings, typed, where="config", extra={"plain": plain})
    _check_values(settings)
    return settings


def _check_values(settings: Settings) -> None:
    if (settings.steps is None) == (settings.epochs is None):
        got = "not set" if settings.steps is None else f"got {settings.steps} beside epochs"
        raise ValueError(
            f"steps: {got}; expected a value; pass --config.steps=... or --config.epochs=..., one "
            "of them"
        )
    _check_choice("compile", settings.compile, ("jit", "pmap"))
    _check_choice("checkpoint.mode", settings.checkpoint.mode, ("min", "max"))


def _check_choice(key: str, value: str, legal: tuple[str, ...]) -> None:
    if value not in legal:
        hint = conf.nearest(value, legal)
        raise ValueError(f"{key}: got {value!r}; expected one of {', '.join(legal)}; {hint}")
