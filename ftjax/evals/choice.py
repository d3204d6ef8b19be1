"""Multiple choice by log-likelihood: the choice that the model finds likeliest after the prompt.

    score_c = log p(choice_c | prompt) / n_c       n_c = 1, tokens, or UTF-8 bytes of the choice

Without normalisation long choices lose because they are long; by tokens the result depends on the
tokenizer; by bytes it does not. `margin` is the answer's score less the best other score: unlike
accuracy it moves before the decision does, so small changes show.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ftjax.core.typed import Count
from ftjax.evals.lib import scoring

NORMALIZATIONS = ("none", "tokens", "bytes")

INPUTS = ("rows",)  # see `ftjax/run/evaluation.py`
METRICS = ("accuracy", "margin", "nll", "chance")  # of the summary


def make(
    *, model, tokenizer, rows: Sequence[Mapping], normalization: str = "none",
    template: str = "{prompt}", batch_size: Count = 8, chunk: Count = 64, mesh=None,
) -> scoring.Evaluator:  # fmt: skip
    """Make the evaluator of {accuracy, margin, nll, chance}.

    Args:
      model: the handle.
      tokenizer: `encode`, `bos_id`, `eos_id`.
      rows: {"prompt" or "question": str, "choices": list of str, "answer": index or the choice}.
        A choice is appended to the prompt as it is: write the space that separates them.
      normalization: none, tokens or bytes.
      template: of the prompt, with the row's fields.
      batch_size: choices at a time.
      chunk: positions of logits at a time.
      mesh: shard the choices over its replicas.

    Raises:
      ValueError: an unknown normalisation, or a row without choices or with an unknown answer.
    """
    _check(normalization)
    answers = np.array([answer_index(row, where=f"row {i}") for i, row in enumerate(rows)], int)
    examples, lengths = [], []
    for row in rows:
        prompt = template.format_map(_with_prompt(row))
        for choice in row["choices"]:
            examples.append(encode(prompt, choice, tokenizer))
            lengths.append(length(choice, examples[-1], normalization))
    counts = [len(row["choices"]) for row in rows]
    score = scoring.make_scorer(model, batch_size=batch_size, chunk=chunk, mesh=mesh)

    def per_example(params) -> dict[str, np.ndarray]:
        logp, _ = score(params, examples)
        by_row = lambda flat: np.split(flat, np.cumsum(counts)[:-1])
        return decide(by_row(logp), by_row(np.array(lengths)), answers)

    return scoring.Evaluator(per_example, summary)


def decide(logps: Sequence, lengths: Sequence, answers: Sequence[int]) -> dict[str, np.ndarray]:
    """Compare the choices of each row: correct, margin, nll of the answer, chance; arrays [n].

    logps, lengths: per row, one number per choice. Choices that tie with the best one share it:
    a model that cannot tell two choices apart is half right.
    """
    table = {"correct": [], "margin": [], "nll": [], "chance": []}
    for logp, length, answer in zip(logps, lengths, answers, strict=True):
        scores = logp / length
        best = scores == scores.max()
        table["correct"].append(best[answer] / best.sum())
        table["margin"].append(scores[answer] - np.delete(scores, answer).max())
        table["nll"].append(-logp[answer])
        table["chance"].append(1 / len(scores))
    return {name: np.array(column, np.float64) for name, column in table.items()}


def summary(arrays: scoring.Arrays) -> dict[str, float]:
    """Average the columns of `decide`; nll is the mean over rows of the answer's total nats."""
    names = {"accuracy": "correct", "margin": "margin", "nll": "nll", "chance": "chance"}
    return {name: float(np.mean(arrays[column])) for name, column in names.items()}


def encode(prompt: str, choice: str, tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Encode prompt + choice as one text; targets begin where it leaves the prompt's tokens.

    So the model sees the tokens of running text, also where a token spans the border.
    """
    begin = lambda ids: _begun(_open(ids, tokenizer), tokenizer)
    context, whole = begin(tokenizer.encode(prompt)), begin(tokenizer.encode(prompt + choice))
    pairs = enumerate(zip(context, whole, strict=False))
    start = next((i for i, (a, b) in pairs if a != b), min(len(context), len(whole)))
    weights = (np.arange(len(whole)) >= max(start, 1)).astype(np.float32)
    return np.asarray(whole, np.int32), weights


def answer_index(row: Mapping, *, where: str) -> int:
    """Return the index of the row's answer, given as an index or as one of the choices."""
    for name in ("choices", "answer"):
        if row.get(name) is None:
            raise ValueError(
                f"{where}: {name}: got none, but {', '.join(row)}; expected a question, its "
                "choices and the answer; name the fields, or evaluate these rows by nll"
            )
    choices, answer = list(row["choices"]), row["answer"]
    if len(choices) < 2:
        raise ValueError(f"{where}: choices: got {choices}; expected two at least")
    if isinstance(answer, str) and answer in choices:
        return choices.index(answer)
    if isinstance(answer, str) or not 0 <= answer < len(choices):
        raise ValueError(
            f"{where}: answer: got {answer!r}; expected one of the choices {choices}, or an index "
            f"from 0 to {len(choices) - 1}"
        )
    return int(answer)


def _check(normalization: str):
    if normalization not in NORMALIZATIONS:
        raise ValueError(
            f"evals.choice.normalization: got {normalization!r}; expected one of "
            f"{', '.join(NORMALIZATIONS)}"
        )


def length(choice: str, example, normalization: str) -> float:
    """Return what a choice's log-likelihood is divided by; example: its tokens and weights."""
    sizes = {"none": 1.0, "tokens": example[1].sum(), "bytes": len(choice.encode())}
    return float(max(sizes[normalization], 1))


def _with_prompt(row: Mapping) -> Mapping:
    return row if "prompt" in row else {**row, "prompt": row["question"]}


def _open(ids: list[int], tokenizer) -> list[int]:
    """Drop an eos that the tokenizer puts at the end of every text."""
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_id else ids


def _begun(ids: list[int], tokenizer) -> list[int]:
    """Begin with bos (or eos) where the tokenizer does not: a first token has no predecessor."""
    start = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    return ids if start is None or ids[:1] == [start] else [start, *ids]
