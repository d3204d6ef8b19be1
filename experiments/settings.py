"""What a config may say, typed: the one list of keys that the mains read.

    settings = read(config)
    settings.optim["name"], settings.mesh["fsdp"], settings.model.remat

A key that is not a field here is an error with the nearest name, so no key is ever ignored.
Sections with a `name` (adapter, objective, optim, data, each of penalties and of evals) stay dicts:
whatever the name stands for checks its own keywords.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ftjax.core import conf


@dataclasses.dataclass(frozen=True)
class Seeds:
    """One seed for each thing that is drawn."""

    data: int
    init: int
    adapter: int
    sampling: int


@dataclasses.dataclass(frozen=True)
class Model:
    """Which weights, in which types; see `configs/common.py`."""

    base: str
    preset: str
    param_dtype: str
    compute_dtype: str
    remat: str
    chunk: int
    dispatch: str
    capacity_factor: float | None
    router_aux: float | None
    quantize: dict


@dataclasses.dataclass(frozen=True)
class Reference:
    """What preference losses and distillation compare with; see `experiments/references.py`."""

    name: str
    base: str
    folder: str


@dataclasses.dataclass(frozen=True)
class Samples:
    """Prompts to continue before and after training."""

    prompts: Any
    max_new_tokens: int
    temperature: float


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """When to save and what to keep; `best` is a metric such as "eval/facts/nll"."""

    every_steps: int
    keep: int
    best: str
    mode: str


@dataclasses.dataclass(frozen=True)
class Rollout:
    """How answers are sampled to learn from; see `configs/common.py`."""

    prompts: int
    samples: int
    epochs: int
    max_new_tokens: int
    temperature: float
    slots: int
    until: Any
    faults: str
    kl_target: float | None
    kl_horizon: int | None = None
    mixture: float | None = None
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
    trainable: Any
    objective: dict
    penalties: dict
    reference: Reference
    optim: dict
    data: dict
    evals: dict
    samples: Samples
    mesh: dict
    steps: int
    batch_size: int
    accumulate: int
    compile: str
    ema_decay: float | None
    log_every_steps: int
    eval_every_steps: int
    checkpoint: Checkpoint
    wandb_project: str
    plain: dict  # the config as it was given, for config.json and the checkpoints' manifest
    rollout: Rollout | None = None  # of online runs, as are the next two
    rewards: dict = dataclasses.field(default_factory=dict)
    advantages: dict = dataclasses.field(default_factory=dict)


SECTIONS = {
    "seed": Seeds,
    "model": Model,
    "reference": Reference,
    "samples": Samples,
    "checkpoint": Checkpoint,
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
    least = {"steps": 1, "batch_size": 1, "accumulate": 1, "log_every_steps": 1,
             "eval_every_steps": 0}  # fmt: skip
    for name, low in least.items():
        if (value := vars(settings)[name]) < low:
            raise ValueError(f"{name}: got {value}; expected at least {low}")
    spec = settings.checkpoint
    _check_choice("compile", settings.compile, ("jit", "pmap"))
    _check_choice("checkpoint.mode", spec.mode, ("min", "max"))
    if spec.keep < 1 or spec.every_steps < 0:
        raise ValueError(
            f"checkpoint: got keep {spec.keep}, every_steps {spec.every_steps}; expected at least "
            "1 and 0"
        )


def _check_choice(key: str, value: str, legal: tuple[str, ...]) -> None:
    if value not in legal:
        hint = conf.nearest(value, legal)
        raise ValueError(f"{key}: got {value!r}; expected one of {', '.join(legal)}; {hint}")
