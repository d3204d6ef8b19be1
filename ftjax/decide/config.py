"""What a decision is about: data, arms, prices; the list of keys that `experiments.decide` reads.

A need is a kind of question with a verdict of its own, such as facts or a skill; the sections of
`train`, `validation`, `test` and `old` are labelled with needs, and a row's own `need` overrides.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ftjax.core import config as conf
from ftjax.core.typed import Count, Natural, Patterns, Share
from ftjax.decide import answer_metric, arms, prices


@dataclass(frozen=True)
class Templates:
    """How prompts are put together; `{prompt}` is the question as its section makes it."""

    passages: str = "Text: {passages}\n{prompt}"
    separator: str = " "  # between passages
    shot: str = "{prompt}{response}\n\n"
    system: str = "{instruction}\n\n"  # in front, where a trial has an instruction
    rewrite: str = "Say it in other words: {instruction}\nIn other words:"  # asked of the base


@dataclass(frozen=True)
class Changed:
    """The knowledge after a change, which every arm is brought up to; without `test` there is none.

    Arms that retrieve get a new index. Other trained ones go on from their weights, on `train`.
    """

    train: dict[str, dict] = field(default_factory=dict)
    test: dict[str, dict] = field(default_factory=dict)  # need = questions asked after the change
    passages: dict = field(default_factory=dict)
    config: dict = field(default_factory=dict)  # keys of the training config: {"steps": 50}


@dataclass(frozen=True)
class Decision:
    """A whole config."""

    base: str = "tiny"  # a Hugging Face directory
    chat: bool = False  # prompts are what a user says, in the base's chat template
    train: dict[str, dict] = field(default_factory=dict)  # need = a data section, maybe `weight`
    validation: dict[str, dict] = field(default_factory=dict)  # where trials are compared
    test: dict[str, dict] = field(default_factory=dict)
    old: dict[str, dict] = field(default_factory=dict)  # what the base can do, before and after
    passages: dict = field(default_factory=dict)  # a data section; {} = no retrieval
    changed: Changed = field(default_factory=Changed)
    passage_tokens: Count = 128  # of one passage at most; documents are cut into such
    index: dict = field(default_factory=lambda: dict(name="bm25"))
    # label = dict(name=..., trials=(...)[, weights=label][, train=(...)])
    arms: dict[str, dict] = field(default_factory=dict)
    runs: dict[str, dict] = field(default_factory=dict)  # of `lora` and `full`: configs of training
    seeds: Iterable[Natural] = (0,)  # of trained arms
    equal_effort: bool = True  # refuse arms with more trials than others
    gold_left_out: Share = 0.2  # of training prompts with passages (RAFT, arXiv:2403.10131)
    templates: Templates = field(default_factory=Templates)
    metric: str | dict = "exact_match"  # or dict(name=...), with options; see `answer_metric`
    max_new_tokens: Count = 16
    until: Patterns = ("\n",)
    batch_size: Count = 16
    latency_rows: Natural = 16  # questions that are timed one by one; 0 = none
    latency_rounds: Count = 3  # in which arms are timed one after the other, beside a reference
    overlap: Share = 0.3  # of a test row's 13-grams in training rows, from which on it is refused
    gates: bool = False  # end with an error where a gate of `findings` does not come out
    shown: Natural = 20  # questions of each need with every arm's answer
    prices: dict = field(default_factory=lambda: dict(queries=1000, updates=0))
    plain: dict = field(default_factory=dict)  # the config as it was given


def defaults():
    """Return the config that the others start from."""
    return conf.from_dataclass(Decision, without=("plain",))


def read(config: Mapping) -> Decision:
    """Check the keys and types of a config and return it typed.

    Raises:
      ValueError: an unknown or missing key, a wrong value, an arm that needs what is not there.
    """
    plain = conf.to_dict(config)
    typed = plain | {
        name: conf.call(kind, plain.get(name, {}), where=name)
        for name, kind in (("templates", Templates), ("changed", Changed))
    }
    found = conf.call(Decision, typed, where="config", extra={"plain": plain})
    for key, sections in (("train", found.train), ("test", found.test), ("arms", found.arms)):
        if not sections:
            raise ValueError(f"{key}: got nothing; expected a section at least; add one")
    answer_metric.check(found.metric)
    priced = conf.call(prices.make, found.prices, where="prices")
    if priced.device_hour is not None and not found.latency_rows:
        raise ValueError(
            "prices.device_hour: got a price of time and latency_rows=0, with which no query is "
            "timed; expected some rows; set latency_rows"
        )
    for label, spec in found.arms.items():
        arms.check(label, spec)
    _check_effort(found)
    _check_weights(found)
    _check_changed(found)
    return found


def _check_effort(found: Decision) -> None:
    """Refuse arms that were tried more often than others; the ceiling competes with nobody."""
    counts = {
        label: len(arms.trials(spec))
        for label, spec in found.arms.items()
        if not arms.of(spec).is_ceiling
    }
    if max(counts.values(), default=1) > 1 and not found.validation:
        raise ValueError(
            "validation: got nothing beside arms with several trials; expected a section: the test "
            "rows must not choose among them"
        )
    if found.equal_effort and len(set(counts.values())) > 1:
        raise ValueError(
            f"arms: got so many trials: {counts}; expected as many for each, or the comparison "
            "favours some; add trials, or set equal_effort=False, which the report says"
        )


def _check_weights(found: Decision) -> None:
    """Check what arms are trained on, and whose weights they take."""
    sections = {*found.train, *found.changed.train}
    for label, spec in found.arms.items():
        run, source = arms.of(spec).run, spec.get("weights")
        if run and run not in found.runs:
            raise ValueError(
                f"arms.{label}: got {spec['name']!r}, which trains runs.{run}; expected that "
                f"section among runs: {conf.listed(found.runs)}; add it"
            )
        trained = [k for k, own in found.arms.items() if arms.of(own).run]
        if source is not None and source not in trained:
            raise ValueError(
                f"arms.{label}.weights: got {source!r}; {conf.nearest(source, trained)}expected "
                f"the label of an arm that is trained: {conf.listed(trained)}"
            )
        for name in spec.get("train") or ():
            if name not in sections:
                raise ValueError(
                    f"arms.{label}.train: got {name!r}; {conf.nearest(name, sorted(sections))}"
                    f"expected sections of train: {conf.listed(sorted(sections))}"
                )


def _check_changed(found: Decision) -> None:
    """Check that a change of the knowledge reaches every arm that has some."""
    if not found.changed.test:
        return
    if both := set(found.changed.test) & set(found.test):
        raise ValueError(
            f"changed.test.{min(both)}: got a need that test has too; expected another name, since "
            "it has a verdict of its own"
        )
    if bool(found.passages) != bool(found.changed.passages):
        raise ValueError("changed.passages: expected passages there if and only if there are any")
    for label, spec in found.arms.items():
        chosen = spec.get("train") or found.train
        if arms.of(spec).run and not set(chosen) & set(found.changed.train):
            raise ValueError(
                f"changed.train: got {conf.listed(found.changed.train)}; expected some of "
                f"{conf.listed(chosen)}, which arms.{label} is trained on; add a section"
            )
