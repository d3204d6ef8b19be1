"""The objective of a run: its module, its function, and what of a config it does not read.

A key that a user wrote and that nothing reads is refused here, by name.
"""

from collections.abc import Callable
from types import ModuleType

from ftjax.core import config as conf
from ftjax.objectives.losses import spec as specs
from ftjax.run.config import Settings

PACKAGE, WHERE = "objectives", "objective"


def module_of(settings: Settings) -> ModuleType:
    """Return the objective's module.

    Raises:
      ValueError: there is none of this name.
    """
    return conf.resolve(settings.objective.get("name"), PACKAGE, where=f"{WHERE}.name")


def make(settings: Settings) -> Callable:
    """Make the objective; the temperature of its probabilities is that of the sampling.

    Raises:
      ValueError: a key of `objective` is unknown or wrong.
    """
    # Where none is compared with what was sampled, a temperature would change the loss alone.
    samples = settings.rollout is not None and specs.of(module_of(settings)).ratio
    own = {"temperature": settings.rollout.temperature} if samples else {}
    return conf.build(settings.objective, PACKAGE, where=WHERE, **own)


def check_cut(settings: Settings, *, devices: int) -> None:
    """Check that the loss stays the same one when a batch is cut.

    Raises:
      ValueError: its rows are coupled, and microbatches or mapped devices would part them.
    """
    keywords = {key: value for key, value in settings.objective.items() if key != "name"}
    if not specs.of(module_of(settings)).couples(keywords):
        return
    name = settings.objective["name"]
    if settings.accumulate > 1:
        raise ValueError(
            f"accumulate: got {settings.accumulate} for objective {name!r}, whose loss of a row "
            "depends on the other rows of its microbatch; expected 1, or the loss would be another "
            "one; lower batch_size instead, or choose another loss"
        )
    if settings.compile == "pmap" and devices > 1:
        raise ValueError(
            f"compile: got 'pmap' on {devices} devices for objective {name!r}, whose loss of a row "
            "depends on the other rows of its device; expected 'jit', which sees the whole batch"
        )


def check_offline(settings: Settings) -> None:
    """Check that a run which learns from data as it is has no keys of sampling.

    Raises:
      ValueError: it has.
    """
    # An evaluation by rewards reads the run's, unless it has its own.
    judges = any(spec.get("name") == "reward" for spec in settings.evals.values())
    if specs.of(module_of(settings)).batch.sampled:
        return  # refused for a better reason, when its data are looked at
    if settings.rollout is not None or settings.advantages or (settings.rewards and not judges):
        given = {"rollout": settings.rollout, "advantages": settings.advantages,
                 "rewards": settings.rewards}  # fmt: skip
        raise ValueError(
            f"{next(key for key, value in given.items() if value)}: got a section that nothing "
            "reads: this run learns from data as it is; expected none; run experiments.online, or "
            "drop it"
        )


def check_rollout(settings: Settings) -> None:
    """Check that each key of `rollout` means something to the objective.

    Raises:
      ValueError: naming the one that does not.
    """
    r, name = settings.rollout, settings.objective["name"]
    _check_demo(r.demo, module_of(settings), name)
    # Not given, kl_weight is the objective's own default, which is above 0.
    steers = specs.of(module_of(settings)).kl_scale and settings.advantages.get("kl_weight", 1) != 0
    if r.kl_target is not None and not steers:
        raise ValueError(
            f"rollout.kl_target: got {r.kl_target} with objective {name!r}; expected none: nothing "
            "there has a kl_weight in the reward to steer; drop it, or choose ppo, rloo or "
            "reinforce with advantages.kl_weight above 0"
        )
    if r.kl_horizon is not None and r.kl_target is None:
        raise ValueError(
            f"rollout.kl_horizon: got {r.kl_horizon} without a kl_target; expected none; drop it, "
            "or set rollout.kl_target"
        )
    if r.rescore and not specs.of(module_of(settings)).ratio:
        raise ValueError(
            f"rollout.rescore: got True with objective {name!r}; expected none: it compares the "
            "policy with nothing that was sampled; drop it"
        )
    # Both are about scores, which a teacher's or a judge's preference is not.
    if not settings.rewards and (r.faults != "raise" or r.missing_eos_penalty is not None):
        key = "faults" if r.faults != "raise" else "missing_eos_penalty"
        raise ValueError(
            f"rollout.{key}: got {vars(r)[key]!r} without rewards; expected none; drop it, or set "
            "rewards"
        )
    if r.missing_eos_penalty is not None and (r.mask_truncated or r.missing_eos_penalty <= 0):
        raise ValueError(
            f"rollout.missing_eos_penalty: got {r.missing_eos_penalty} with mask_truncated="
            f"{r.mask_truncated}; expected a number above 0 where unfinished answers are not left "
            "out; drop one of them"
        )


def _check_demo(demo: str, module: ModuleType, name: str) -> None:
    spec = specs.of(module)
    if demo and not (spec.reference and not spec.batch.judged):
        raise ValueError(
            f"rollout.demo: got {demo[:80]!r} with objective {name!r}; expected none: it is what a "
            "teacher is shown; drop it, or take distillation"
        )
