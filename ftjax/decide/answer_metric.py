r"""What an answer is worth: the metric of a decision, by name.

    exact_match, f1      of the text, against the row's answers; the best match counts
    choice               whether the right one of `choices` is the likeliest after the prompt
    nll                  minus the nats a token of the row's response after the prompt
    exact, number, ...   a reward of `sampling.rewards`, or the dotted path of one's own

The higher, the better. Options stand beside the name: dict(name="choice", normalization="bytes"),
dict(name="pattern", regex=r"\d+"). A reward is asked with each of a row's answers as `answer`, and
the best counts.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ftjax.core import config as conf

CHOICE, NLL = "choice", "nll"
OF_TEXT = ("exact_match", "f1")


class Metric(NamedTuple):
    """A metric; score: (question, text) -> float, None where the model's likelihoods score.

    normalization: of `choice`, see `evals.choice`.
    """

    name: str
    score: Callable[[Any, str], float] | None = None
    normalization: str = "none"

    @property
    def of_old(self) -> "Metric":
        """The metric of old abilities, whose rows know nothing of the task: one of texts."""
        return self if self.name in OF_TEXT else make("exact_match")


def check(spec: str | Mapping) -> None:
    """Check the section of a metric.

    Raises:
      ValueError: an unknown metric, or an option that it has no use for.
    """
    if spec not in (*OF_TEXT, CHOICE, NLL):  # the others need imports that are slow
        make(spec)


def make(spec: str | Mapping) -> Metric:
    """Make the metric of a name, or of a section with options.

    Raises:
      ValueError: see `check`.
    """
    from ftjax.sampling import rewards

    options = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = str(options.pop("name", ""))
    factories = {**dict.fromkeys(OF_TEXT, _of_text), CHOICE: _choice, NLL: _nll}
    if name in factories:
        return conf.call(factories[name], options, where="metric", extra={"name": name})
    if "." not in name and name not in rewards.FUNCTIONS:
        legal = [*factories, *rewards.FUNCTIONS]
        raise ValueError(
            f"metric: got {name!r}; {conf.nearest(name, legal)}expected one of "
            f"{conf.listed(legal)}, or the dotted path of a function that makes a reward"
        )
    factory = rewards.find(name, rewards.FUNCTIONS, where="metric")
    return Metric(name, _of_reward(name, conf.call(factory, options, where="metric")))


def _of_text(*, name: str) -> Metric:
    from ftjax.evals import generate

    def score(question, text: str) -> float:
        found = generate.compare([text], [question.answers], normalize=question.normalize)
        return float(found[name][0])

    return Metric(name, score)


def _choice(*, name: str, normalization: str = "none") -> Metric:
    from ftjax.evals import choice

    if normalization not in choice.NORMALIZATIONS:
        raise ValueError(
            f"metric.normalization: got {normalization!r}; "
            f"{conf.nearest(normalization, choice.NORMALIZATIONS)}expected one of "
            f"{conf.listed(choice.NORMALIZATIONS)}"
        )
    return Metric(name, None, normalization)


def _nll(*, name: str) -> Metric:
    return Metric(name)


def _of_reward(name: str, reward: Callable) -> Callable:
    from ftjax.sampling import rewards

    if isinstance(reward, rewards.BatchReward):
        raise ValueError(
            f"metric: got {name!r}, a reward of whole batches; expected one of a text and its row"
        )

    def ask(text: str, row: Mapping, where: str) -> float:
        told = f"metric: {name} {{}} for the answer {text[:80]!r} to {where}; mend it"
        try:
            value = reward(text, row)
        except rewards.RAISED as error:
            raise ValueError(told.format(f"raised {error!r}")) from error
        if value is None or not math.isfinite(value):
            raise ValueError(told.format(f"returned {value}, which is no finite number"))
        return float(value)

    def score(question, text: str) -> float:
        rows = ({**question.row, "answer": answer} for answer in question.answers)
        return max(ask(text, row, question.where) for row in rows)

    return score
