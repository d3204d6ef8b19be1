"""The arms of a decision: what stands in a prompt, and which weights answer it.

    arm            in the prompt                       weights
    zero_shot      the question                        the base
    few_shot       answered questions before it        the base
    rag            passages that an index found        the base
    rag_oracle     the passage that answers it         the base; a ceiling, not for use
    few_shot_rag   both                                the base
    lora, full     the question                        trained on questions and answers
    lora_rag       passages, in training too           trained (RAFT, arXiv:2403.10131)

An arm has trials, ways to set it up, of which validation chooses one.
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

    @property
    def is_ceiling(self) -> bool:
        """Whether it uses what nobody has when a question comes."""
        return self.passages == "gold"


ARMS = {
    "zero_shot": Arm(),
    "few_shot": Arm(shots=True),
    "rag": Arm(passages="index"),
    "rag_oracle": Arm(passages="gold"),
    "few_shot_rag": Arm(shots=True, passages="index"),
    "lora": Arm(run="lora"),
    "full": Arm(run="full"),
    "lora_rag": Arm(passages="index", run="lora"),
}


@dataclass(frozen=True)
class Trial:
    """One way to set an arm up."""

    instruction: str = ""  # in front of every prompt
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
    if unknown := sorted(set(spec) - {"name", "trials"}):
        raise ValueError(f"{where}: got the key {unknown[0]!r}; expected name and trials")
    name = spec.get("name")
    if name not in ARMS:
        raise ValueError(
            f"{where}.name: got {name!r}; {conf.nearest(str(name), ARMS)}expected one of "
            f"{', '.join(ARMS)}"
        )
    conf.check(spec.get("trials"), list[dict] | tuple[dict, ...] | None, where=f"{where}.trials")
    legal = _keys(ARMS[name])
    for n, each in enumerate(spec.get("trials") or ()):
        conf.call(Trial, each, where=f"{where}.trials[{n}]")
        if idle := sorted(set(each) - legal):
            raise ValueError(
                f"{where}.trials[{n}].{idle[0]}: got {each[idle[0]]!r}, which {name} has no use "
                f"for; expected some of {conf.listed(legal)}; take it out"
            )


def _keys(arm: Arm) -> set[str]:
    """Return the keywords of a trial that this arm reads."""
    return (
        {"instruction"}
        | ({"shots", "nearest"} if arm.shots else set())
        | ({"k", "budget"} if arm.passages == "index" else set())
        | ({"config"} if arm.run else set())
    )
