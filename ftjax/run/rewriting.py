r"""Self-distillation: the base says given answers in its own words (SDFT, arXiv:2402.13669).

    c.data = dict(
        name="self", rows=1000, prompts=dict(name="jsonl", path="train.jsonl"),
        rewrite="Q: {prompt}\nThe right answer: {response}\nThe same in my words:",
        check=dict(name="number", field="response", min_reward=1.0),
    )

A run learns the base's own words where these are finished and not empty, and the check, a reward of
the row, gives them `min_reward` at least; else the given answer stands. The less a target surprises
the model that learns it, the less else moves.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ftjax.evals import generate
from ftjax.sampling import rewards, text

ANSWER = "response"
CHECKED = 1.0  # the default of `min_reward`: of a reward that is 1 for a right answer


class Rewrites(NamedTuple):
    """Rows of a data set, and what the base is asked for each."""

    rows: Sequence[Mapping]
    asked: list[str]


def read(rows: Sequence[Mapping], template: str, *, count: int, where: str) -> Rewrites:
    """Take `count` rows in turn, and fill the template with the fields of each.

    Raises:
      ValueError: a row has no prompt or no answer as a text, or not a field of the template.
    """
    chosen = [rows[i % len(rows)] for i in range(count)]
    for row in chosen:
        if not (isinstance(row.get(ANSWER), str) and isinstance(generate.prompt_of(row), str)):
            raise ValueError(
                f"{where}.prompts: got a row with the fields {', '.join(sorted(row))}; expected "
                f"texts as prompt and {ANSWER}, which are to be rewritten"
            )
    try:
        return Rewrites(chosen, [template.format_map(row) for row in chosen])
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"{where}.rewrite: got {template[:80]!r}; expected fields of the rows alone, "
            f"{', '.join(sorted(chosen[0]))} ({error!r}); double braces stand for themselves"
        ) from None


def lines(
    found: Rewrites, answers: Sequence[text.Answer], check: Mapping | None, *, where: str
) -> tuple[list[dict], int]:
    """Return a line for each row, with the answer that is learned, and how many are the base's."""
    spec = {"min_reward": CHECKED, **(check or {})}
    min_reward = spec.pop("min_reward")
    said = [answer.text.strip() for answer in answers]
    is_good = [bool(own) and answer.finished for own, answer in zip(said, answers, strict=True)]
    if check:
        scores = rewards.make({f"{where}.check": spec})(said, found.rows).values_BF[:, 0]
        # NaN, of a reward that says nothing, is not enough.
        is_good = [
            good and score >= min_reward for good, score in zip(is_good, scores, strict=True)
        ]
    result = []
    for row, own, good in zip(found.rows, said, is_good, strict=True):
        given = row[ANSWER]
        # White space around an answer is the data's way of joining it to the prompt.
        before = given[: len(given) - len(given.lstrip())]
        after = given[len(given.rstrip()) :]
        answer = before + own + after if good else given
        result.append({"prompt": generate.prompt_of(row), ANSWER: answer, "rewritten": bool(good)})
    return result, sum(map(bool, is_good))
