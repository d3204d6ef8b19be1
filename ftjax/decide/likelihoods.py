"""Answers that a model finds likely: the best of several choices, and how likely the right one is.

    model = make(model, tokenizer, encode=encode, batch_size=16, is_chat=False)
    chosen = model.choose(params, prompts, asked)      one Chosen a question
    nats = model.nats(params, prompts, asked)          minus log p a token of each response

An answer follows its prompt as training has it: behind a space, or in a chat as it is.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ftjax.decide.questions import Question
from ftjax.evals import choice
from ftjax.evals.lib import scoring


class Chosen(NamedTuple):
    """The likeliest choice; tokens: of all choices, which were read.

    score: 1 where it is the right one, which several that tie share.
    """

    text: str
    tokens: int
    score: float


class Likelihoods(NamedTuple):
    """`example(prompt, answer)` -> tokens and weights; `score(params, examples)` -> log p, n."""

    example: Callable
    score: Callable

    def choose(
        self, params, prompts: Sequence[str], asked: Sequence[Question], *, normalization: str
    ) -> list[Chosen]:  # fmt: skip
        """Choose among the choices of every question; normalization: see `evals.choice`."""
        pairs = [
            (each, self.example(prompt, each))
            for prompt, own in zip(prompts, asked, strict=True)
            for each in own.choices
        ]
        logps, counts = self.score(params, [example for _, example in pairs])
        lengths = np.array([choice.length(*pair, normalization) for pair in pairs])
        ends = np.cumsum([len(own.choices) for own in asked])[:-1]
        columns = (np.split(x, ends) for x in (logps, lengths, counts))
        return [_chosen(*row) for row in zip(asked, *columns, strict=True)]

    def nats(self, params, prompts: Sequence[str], asked: Sequence[Question]) -> list[float]:
        """Return minus the mean log-probability of a token of every response."""
        pairs = zip(prompts, asked, strict=True)
        examples = [self.example(prompt, own.response.strip()) for prompt, own in pairs]
        logps, counts = self.score(params, examples)
        return (-logps / np.maximum(counts, 1)).tolist()


def _chosen(question: Question, logps, lengths, counts) -> Chosen:
    right = question.choices.index(question.answers[0])
    found = choice.decide([logps], [lengths], [right])
    best = question.choices[int(np.argmax(logps / lengths))]
    return Chosen(best, int(counts.sum()), float(found["correct"][0]))


def make(
    model, tokenizer, *, encode: Callable, batch_size: int, is_chat: bool, mesh=None
) -> Likelihoods:  # fmt: skip
    """Make what reads answers; encode: prompt -> ids, of a chat with its template."""

    def example(prompt: str, answer: str):
        if not is_chat:
            space = "" if prompt[-1:].isspace() else " "
            return choice.encode(prompt, f"{space}{answer}", tokenizer)
        before, own = encode(prompt), tokenizer.encode(answer, add_special_tokens=False)
        weights = np.repeat(np.float32([0, 1]), [len(before), len(own)])
        return np.int32([*before, *own]), weights

    return Likelihoods(example, scoring.make_scorer(model, batch_size=batch_size, mesh=mesh))
