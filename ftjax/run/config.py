"""What a config may say, typed: the one list of keys that the mains read.

    settings = read(config)
    settings.optim["name"], settings.mesh["fsdp"], settings.model.remat

A key that is not a field here is an error with the nearest name, so no key is ever ignored; its
default stands here too, and `defaults()` is the config that config files start from.
Sections with a `name` (adapter, objective, optim, data, each of penalties and of evals) stay dicts:
whatever the name stands for checks its own keywords.
"""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ftjax.core import config as conf
from ftjax.core import remote
from ftjax.core.typed import Count, Decay, Natural, NonNegative, Patterns, Positive, Share

OPEN = ("plain", "rollout", "rewards", "advantages")  # not in a config until something sets them


@dataclass(frozen=True)
class Seeds:
    """One seed for each thing that is random."""

    data: Natural = 0
    init: Natural = 0
    adapter: Natural = 0
    sampling: Natural = 0


@dataclass(frozen=True)
class Model:
    """Which weights, in which types."""

    base: str = "tiny"  # a Hugging Face directory, org/name[@revision], a URL; "" = random
    preset: str = ""  # sizes by public name, when the weights are random
    param_dtype: str = ""  # of frozen weights in memory, and of exports; "" = as stored
    train_dtype: str = "float32"  # of what trains; in bfloat16 small updates round to nothing
    compute_dtype: str = ""  # "" = float32; bfloat16 on accelerators from 300M parameters on
    # What the backward pass keeps: none | light | full | light_offload | full_offload (on the host)
    remat: str = "light"
    chunk: Count = 64  # positions per chunk of the log-probabilities
    # Of families with experts; "" and None are the family's own:
    dispatch: str = ""  # how tokens reach experts: dropless | capacity
    capacity_factor: Positive | None = None  # seats of an expert over the mean load
    router_aux: NonNegative | None = None  # coefficient of the load-balancing loss
    # A frozen base in few bits: nf4 | int8
    quantize: dict = field(default_factory=lambda: dict(name="", where="blocks/**"))


@dataclass(frozen=True)
class Reference:
    """What preference losses and distillation compare with; see `ftjax/run/reference.py`."""

    name: str = "adapters_off"  # adapters_off | frozen | average | cached (in `folder`) | model
    base: str = ""  # of `model`: another base
    folder: str = ""  # of `cached`; "" = in the workdir


@dataclass(frozen=True)
class Samples:
    """Prompts to continue before and after training."""

    prompts: Sequence[str] = ()
    evals: str = ""  # label of an evaluation whose prompts are continued too
    rows: Count = 3  # ... so many of them
    max_new_tokens: Count = 32
    temperature: NonNegative = 0.0


@dataclass(frozen=True)
class Checkpoint:
    """When to save and what to keep."""

    every_steps: Natural = 0  # 0 = at the end, and when the run is stopped
    keep: Count = 2
    best: str = ""  # a metric such as "eval/facts/nll": its best checkpoint is kept too
    mode: str = "min"  # of `best`: min | max


@dataclass(frozen=True)
class Export:
    """What exports say of the run."""

    base_name: str = ""  # the base's hub id, for who loads an export; "" = its folder's name
    form: str = ""  # adapter | model, adapters merged into it; "" = an adapter where there is one


@dataclass(frozen=True)
class Rollout:
    """How answers are sampled to learn from: prompts per rollout, samples per prompt."""

    prompts: Count  # per rollout
    samples: Count  # per prompt: the size of a group
    max_new_tokens: Count
    epochs: Count = 1  # passes over the answers of a rollout, in batches of batch_size
    temperature: Positive = 1.0  # of the sampling, and of the probabilities that ratios compare
    slots: Natural = 0  # rows that are sampled at a time; 0 = all of a rollout
    until: Patterns = ()  # strings that end an answer; they are no part of its text
    mask_truncated: bool = False  # leave out answers that came to no end within max_new_tokens
    missing_eos_penalty: float | None = None  # taken off the reward of such answers
    faults: str = "raise"  # of reward functions: raise | skip
    # Old log-probabilities by the program of the step and not the sampler's, which rounds at other
    # places; None = where an objective compares them and the model computes in less than float32.
    rescore: bool | None = None
    kl_target: Positive | None = None  # of the controller of kl_weight; None = it stays
    kl_horizon: Count | None = None  # answers in which it reacts; None = 10,000
    # Of a teacher that sees more than the student: a template of the row's fields for its prompt
    demo: str = ""
    mixture: Share | None = None  # the reference's share in a rival; None = the objective's


def _optim() -> dict:
    """Return the optimizer section: AdamW, and what can be said around any optimizer."""
    return dict(
        name="adamw",
        learning_rate=conf.placeholder(float, required=True),
        schedule=dict(name="cosine", warmup_steps=0),
        weight_decay=0.0,
        no_decay=(),  # path patterns, such as "**{norm,bias}"
        groups=(),  # (path pattern, dict(lr_scale=..., weight_decay=...)) pairs
        clip_norm=1.0,  # None = no clipping
        l2sp=0.0,  # decoupled pull to where the weights began, as weight_decay is one to zero
        layer_decay=1.0,  # of the rate from a layer to the one below it
        average={},  # with where they began: every_steps, share
        galore={},  # moments of gradients' largest directions: rank, every_steps, scale
        sam={},  # gradients from uphill: rho
        # Of the moments; bfloat16 halves them and rounds them each step, int8 quarters them: codes
        # of blocks of 128 with a scale each, see `ftjax/optim/moments.py`.
        state_dtype="float32",
        ranks={},  # AdaLoRA's budget: target_rank, init_steps, final_steps, every_steps
    )


@dataclass(frozen=True)
class Settings:
    """A whole config."""

    seed: Seeds = field(default_factory=Seeds)
    model: Model = field(default_factory=Model)
    tokenizer: str = ""  # a file, a directory, org/name[@revision], a URL; "" = the base's
    # name="" = no adapter
    adapter: dict = field(default_factory=lambda: dict(name="", where="blocks/**"))
    adapter_from: str = ""  # to start from: a PEFT directory, org/name[@revision], a URL
    trainable: Patterns = ()  # paths; () = the adapters where there are any, else the model
    trainable_layers: Iterable[Natural] = ()  # of what trains, by their numbers; () = all layers
    objective: dict = field(default_factory=lambda: dict(name="sft"))
    penalties: dict[str, dict] = field(default_factory=dict)  # label = dict(name="orthogonal", ...)
    # label = dict(name="kl_forward", weight=1.0, rows=4, data=...[, temperature, use])
    anchors: dict[str, dict] = field(default_factory=dict)
    reference: Reference = field(default_factory=Reference)
    optim: dict = field(default_factory=_optim)
    data: dict = field(default_factory=lambda: dict(name="jsonl", max_tokens=256))
    evals: dict[str, dict] = field(default_factory=dict)  # label = dict(name="nll", data=...)
    samples: Samples = field(default_factory=Samples)
    mesh: dict = field(
        default_factory=lambda: dict(data=-1, member=1, fsdp=1, expert=1, sequence=1, tensor=1)
    )
    steps: Count | None = None  # the length of the run, or
    epochs: Positive | None = None  # ... how often it goes through the data: one of them
    min_steps: Natural = 0  # of `epochs`: no fewer steps, however few rows there are
    batch_size: Count = 8
    accumulate: Count = 1  # microbatches that a batch is cut into
    compile: str = "jit"  # jit | pmap
    compile_cache: str = "auto"  # folder of compiled programs; "auto" = the user's, "" = none
    ema_decay: Decay | None = None  # of an average of the trainable parameters; None = no average
    log_every_steps: Count = 10
    eval_every_steps: Natural = 0  # 0 = before the first step and after the last
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    export: Export = field(default_factory=Export)
    # Where metrics go besides: name = wandb | mlflow | trackio, and project
    tracker: dict = field(default_factory=lambda: dict(name="", project=""))
    # Of online runs:
    rollout: Rollout | None = None
    rewards: dict[str, dict] = field(default_factory=dict)  # label = dict(name=..., weight=1.0)
    advantages: dict = field(default_factory=dict)  # of rewards; see `ftjax/rl/batches.py`
    # The config as it was given, for config.json and the checkpoints' manifest:
    plain: dict = field(default_factory=dict)


SECTIONS = {
    "seed": Seeds,
    "model": Model,
    "reference": Reference,
    "samples": Samples,
    "checkpoint": Checkpoint,
    "export": Export,
    "rollout": Rollout,
}


def defaults():
    """Return the config that all others start from; the learning rate is required."""
    return conf.from_dataclass(Settings, without=OPEN)


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
    if settings.min_steps and settings.epochs is None:
        raise ValueError(
            f"min_steps: got {settings.min_steps} beside steps; expected 0, since it bounds the "
            "steps of `epochs`; drop it"
        )
    if pathlib.PurePath(name := settings.export.base_name).is_absolute():
        raise ValueError(
            f"export.base_name: got {name!r}, a path of this machine; expected a name that others "
            "can load; set it to the base's hub id, such as 'org/name'"
        )
    for key, path in (
        ("compile_cache", settings.compile_cache),
        ("reference.folder", settings.reference.folder),
    ):
        remote.check_local(path, where=key)
    _check_off("tracker", settings.tracker, ("name", "project"), ("project",))
    _check_off("model.quantize", settings.model.quantize, ("name", "where"), ())
    _check_choice("compile", settings.compile, ("jit", "pmap"))
    _check_choice("export.form", settings.export.form, ("", "adapter", "model"))
    _check_choice("checkpoint.mode", settings.checkpoint.mode, ("min", "max"))


def _check_off(where: str, section: Mapping, known: Sequence[str], unset: Sequence[str]) -> None:
    """Refuse what a section without a name says: nothing reads it.

    known: keys that it may have. unset: those that must be empty.
    """
    if section.get("name"):
        return
    for key, value in section.items():
        if key not in known or (key in unset and value):
            raise ValueError(
                f"{where}.{key}: got {value!r} and no {where}.name, so that nothing reads it; "
                f"expected a name; set {where}.name, or leave the key out"
            )


def _check_choice(key: str, value: str, legal: tuple[str, ...]) -> None:
    if value not in legal:
        hint, shown = conf.nearest(value, legal), ", ".join(each or "''" for each in legal)
        raise ValueError(f"{key}: got {value!r}; expected one of {shown}; {hint}")
