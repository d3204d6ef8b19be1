"""The arms of a decision: what stands in a prompt, and which weights answer it.

    arm            in the prompt                       weights
    zero_shot      the question                        the base
    prompt_search  the question in a searched prompt   the base
    few_shot       answered questions before it        the base
    rag            passages that an index found        the base
    rag_oracle     the passage that answers it         the base; a ceiling, not for use
    few_shot_rag   both                                the base
    lora, full     the question                        trained on questions and answers
    lora_rag       passages, in training too           trained (RAFT, arXiv:2403.10131)

An arm has trials, ways to set it up, of which validation chooses one. Its section may name sections
of `train` that it is trained on alone, and one that is not trained may take the `weights` of an arm
that is: dict(name="rag", weights="lora") is training, then retrieval.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ftjax.core import config as conf
from ftjax.core.typed import Count


class Arm(NamedTuple):
    """What an arm does. passages: "", "index" or "gold"; run: "", or what of `runs` it trains."""

    shots: bool = False
    passages: str = ""
    run: str = ""
    searches: bool = False  # wordings of the prompt

    @property
    def is_ceiling(self) -> bool:
        """Whether it uses what nobody has when a question comes."""
        return self.passages == "gold"


ARMS = {
    "zero_shot": Arm(),
    "prompt_search": Arm(searches=True),
    "few_shot": Arm(shots=True),
    "rag": Arm(passages="index"),
    "rag_oracle": Arm(passages="gold"),
    "few_shot_rag": Arm(shots=True, passages="index"),
    "lora": Arm(run="lora"),
    "full": Arm(run="full"),
    "lora_rag": Arm(passages="index", run="lora"),
}


KEYS = ("name", "trials", "weights", "train")


@dataclass(frozen=True)
class Trial:
    """One way to set an arm up."""

    instruction: str = ""  # in front of every prompt
    template: str = "{prompt}"  # around every question
    rewrite: bool = False  # the instruction of the best trial before, in the base's own words
    shots: Count = 4  # answered questions
    nearest: bool = False  # shots that BM25 finds nearest, in place of the same ones for all
    k: Count = 4  # passages
    budget: Count | None = None  # tokens of passages in a prompt; None = what there is room for
    config: dict = field(default_factory=dict)  # keys of the training config: {"optim.b2": 0.95}


def of(spec: Mapping) -> Arm:
    """Return the arm that a section names."""
    return ARMS[spec["name"]]


def trials(spec: Mapping) -> list[Trial]:
    """Return the trials of a section; one of defaults where it lists none."""
    where = f"arms: trials of {spec['name']}"
    return [conf.call(Trial, each, where=where) for each in spec.get("trials") or ({},)]


def check(label: str, spec: Mapping) -> None:
    """Check the section of an arm.

    Raises:
      ValueError: an unknown arm, key or keyword, or one that the arm has no use for.
    """
    where = f"arms.{label}"
    if unknown := sorted(set(spec) - set(KEYS)):
        raise ValueError(f"{where}: got the key {unknown[0]!r}; expected {', '.join(KEYS)}")
    name = spec.get("name")
    if name not in ARMS:
        raise ValueError(
            f"{where}.name: got {name!r}; {conf.nearest(str(name), ARMS)}expected one of "
            f"{', '.join(ARMS)}"
        )
    for key, kind in (("trials", dict), ("train", str)):
        conf.check(spec.get(key), list[kind] | tuple[kind, ...] | None, where=f"{where}.{key}")
    for key, is_idle in (("train", not ARMS[name].run), ("weights", bool(ARMS[name].run))):
        if is_idle and spec.get(key):
            what = "is" if ARMS[name].run else "is not"
            raise ValueError(f"{where}.{key}: got {spec[key]!r}; {name} {what} trained; drop it")
    legal = _keys(ARMS[name])
    for n, each in enumerate(spec.get("trials") or ()):
        trial = conf.call(Trial, each, where=f"{where}.trials[{n}]")
        _check_wording(trial, trials(spec)[:n], where=f"{where}.trials[{n}]")
        if idle := sorted(set(each) - legal):
            raise ValueError(
                f"{where}.trials[{n}].{idle[0]}: got {each[idle[0]]!r}, which {name} has no use "
                f"for; expected some of {conf.listed(legal)}; take it out"
            )


def _check_wording(trial: Trial, before: list[Trial], *, where: str) -> None:
    if "{prompt}" not in trial.template:
        raise ValueError(
            f"{where}.template: got {trial.template!r}; expected {{prompt}} in it, where the "
            "question goes"
        )
    if trial.rewrite and not any(each.instruction for each in before):
        raise ValueError(
            f"{where}.rewrite: got no trial with an instruction before it; expected one, which "
            "the base then rewrites"
        )
    if trial.rewrite and trial.instruction:
        raise ValueError(
            f"{where}.instruction: got {trial.instruction!r} beside rewrite; expected one of them"
        )


def _keys(arm: Arm) -> set[str]:
    """Return the keywords of a trial that this arm reads."""
    return (
        {"instruction"}
        | ({"template", "rewrite"} if arm.searches else set())
        | ({"shots", "nearest"} if arm.shots else set())
        | ({"k", "budget"} if arm.passages == "index" else set())
        | ({"config"} if arm.run else set())
    )
