"""Generated answers against references: exact match and token F1.

    none    texts as they are, white space at their ends aside
    squad   lower case, no punctuation, no articles, single spaces (arXiv:1606.05250)

Squad's rules are for words of a passage: they make 3.5 of 35, -3 of 3, and drop the letter a. F1 is
the harmonic mean of precision and recall over the bag of words. With several references an answer
counts as its best match.
"""

import collections
import re
import string
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ftjax.core.config import listed, nearest
from ftjax.evals.lib import scoring

ARTICLES = re.compile(r"\b(a|an|the)\b")
DROPPED = str.maketrans("", "", string.punctuation)

INPUTS = ("responses",)  # see `ftjax/run/evaluation.py`
METRICS = ("exact_match", "f1")  # of the summary
ANSWERS = ("answers", "answer", "response")  # fields that hold the right ones, the first one there


def make(
    *, respond: Callable, rows: Sequence[Mapping], template: str | None = None,
    normalize: str = "none",
) -> scoring.Evaluator:  # fmt: skip
    """Make the evaluator of {exact_match, f1}.

    Args:
      respond: (params, prompts) -> texts, such as `sampling.text.make` at temperature 0.
      rows: {"prompt" or "question", and "response", "answer" or a list "answers"}.
      template: of the prompt, with the row's fields; None gives the row's prompt as it is, which
        may be a list of messages.
      normalize: what texts are compared after, "none" or "squad".

    Raises:
      ValueError: an unknown one, or a row without an answer.
    """
    if normalize not in NORMALIZERS:
        raise ValueError(
            f"evals.generate.normalize: got {normalize!r}; expected one of {listed(NORMALIZERS)}; "
            f"{nearest(normalize, NORMALIZERS)}"
        )
    prompts = [prompt_of(row, template) for row in rows]
    wanted = [references(row, where=f"row {i}") for i, row in enumerate(rows)]

    def answered(params) -> tuple[dict[str, np.ndarray], list[dict]]:
        texts = respond(params, prompts)
        asked = zip(prompts, texts, wanted, strict=True)
        told = [dict(prompt=prompt, answer=text, target=right) for prompt, text, right in asked]
        return compare(texts, wanted, normalize=normalize), told

    return scoring.Evaluator(lambda params: answered(params)[0], summary, answered)


def compare(
    texts: Sequence[str], wanted: Sequence[Sequence[str]], *, normalize: str
) -> dict[str, np.ndarray]:
    """Score texts against their references: arrays exact_match, f1 [n]."""
    best = lambda metric: [
        max(metric(text, each, normalize=normalize) for each in references)
        for text, references in zip(texts, wanted, strict=True)
    ]
    return {"exact_match": np.array(best(exact_match)), "f1": np.array(best(f1))}


def summary(arrays: scoring.Arrays) -> dict[str, float]:
    """Average over examples."""
    return {name: float(np.mean(arrays[name])) for name in ("exact_match", "f1")}


def squad(text: str) -> str:
    """Lower the case, strip punctuation, then articles, then surplus white space."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(DROPPED)).split())


NORMALIZERS: Mapping[str, Callable] = {"none": str.strip, "squad": squad}


def exact_match(text: str, reference: str, *, normalize: str) -> float:
    """Return 1.0 when the normalised texts are equal, else 0.0."""
    change = NORMALIZERS[normalize]
    return float(change(text) == change(reference))


def f1(text: str, reference: str, *, normalize: str) -> float:
    """Return the F1 of the bags of normalised words; two empty texts agree."""
    ours, theirs = (NORMALIZERS[normalize](each).split() for each in (text, reference))
    if not ours or not theirs:
        return float(ours == theirs)
    common = (collections.Counter(ours) & collections.Counter(theirs)).total()
    return 2 * common / (len(ours) + len(theirs))


def references(row: Mapping, *, where: str) -> list[str]:
    """List the right answers of a row.

    Raises:
      ValueError: it has none.
    """
    found = next((row[name] for name in ANSWERS if name in row), None)
    found = [found] if isinstance(found, str) else list(found or [])
    if not found:
        raise ValueError(
            f"{where}: got the fields {sorted(row)}; expected answers, answer or response, filled"
        )
    return found


def text_of_prompt(row: Mapping) -> str | None:
    """Return the prompt of a row where it is one text, or all that a user says in it, else None."""
    if isinstance(prompt := row.get("prompt", row.get("question")), str):
        return prompt
    said = row.get("messages", ())
    is_pair = [each["role"] for each in said] == ["user", "assistant"] and not row.get("tools")
    return said[0]["content"] if is_pair and isinstance(said[0]["content"], str) else None


def prompt_of(row: Mapping, template: str | None = None):
    """Return the prompt (or question) of a row, in a template of its fields if there is one."""
    prompt = row["prompt"] if "prompt" in row else row["question"]
    return prompt if template is None else template.format_map({**row, "prompt": prompt})
