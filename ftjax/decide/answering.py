"""Prompts to answers by one model, whatever weights it has; scores, tokens and seconds of them.

answerer = make(decision, parts)
answers = answerer.answer(params, prompts)             one Answers
answerer.timed(params, prompts)                        one Latency

One program serves every arm whose weights have the same structure.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ftjax.core import mesh as meshes
from ftjax.decide.config import Decision
from ftjax.decide.questions import Question
from ftjax.evals import generate
from ftjax.run import prompting
from ftjax.run.build import Parts
from ftjax.sampling import text
from ftjax.train import flops

BATCHES = 5  # that are timed; the fastest counts, since what else runs only adds to it


class Answers(NamedTuple):
    """Of each prompt: the text, its own tokens and those that were sampled."""

    texts: list[str]
    prompts: list[list[int]]
    new_tokens: list[int]


class Latency(NamedTuple):
    """Measured seconds of a query, when programs are compiled: medians and 95th percentiles.

    first: to the first token, alone. whole: to the end, alone. batch: of a full batch, over its
    rows, the least of BATCHES.
    """

    first_s: float
    first_p95_s: float
    whole_s: float
    whole_p95_s: float
    batch_s: float


class Answerer(NamedTuple):
    """A model that answers; `sample(params, prompts)` of batches, `one` and `first` of one row."""

    sample: Callable
    one: Callable
    first: Callable
    count: Callable[[str], int]
    room: int
    batch_size: int
    latency_rows: int

    def answer(self, params, prompts: Sequence[str]) -> Answers:
        """Answer every prompt, greedily."""
        found = self.sample(params, list(prompts))
        return Answers(
            [each.text for each in found],
            [list(each.prompt) for each in found],
            [len(each.tokens) for each in found],
        )

    def timed(self, params, prompts: Sequence[str]) -> Latency | None:
        """Time some prompts, evenly spread; None where none are wanted."""
        count = min(self.latency_rows, len(prompts))
        if not count:
            return None
        chosen = [prompts[i * len(prompts) // count] for i in range(count)]
        first = [_seconds(self.first, params, [each]) for each in chosen]
        whole = [_seconds(self.one, params, [each]) for each in chosen]
        full = [chosen[i % count] for i in range(self.batch_size)]
        batch = _seconds(self.sample, params, full, times=BATCHES) / self.batch_size
        p95 = lambda own: float(np.quantile(own, 0.95))
        return Latency(
            float(np.median(first)), p95(first), float(np.median(whole)), p95(whole), batch
        )


def make(decision: Decision, parts: Parts) -> Answerer:
    """Make what answers for a base and everything that was trained from it."""
    template = prompting.template_of(parts.tokenizer, {}) if decision.chat else None
    encode = prompting.make_encode(parts.tokenizer, template=template, wrap=decision.chat)
    alone = meshes.round_up_to_replicas(1, parts.mesh)
    rows = meshes.round_up_to_replicas(decision.batch_size, parts.mesh)

    def sampler(batch_size: int, new: int) -> Callable:
        return text.make_sampler(
            parts.model, parts.tokenizer, batch_size=batch_size, max_new_tokens=new, encode=encode,
            stop_ids=prompting.stop_ids(parts.tokenizer), until=tuple(decision.until),
            mesh=parts.mesh,
        )  # fmt: skip

    new = decision.max_new_tokens
    return Answerer(
        sampler(rows, new), sampler(alone, new), sampler(alone, 1),
        lambda prompt: len(encode(prompt)), parts.model.max_length() - new, rows,
        decision.latency_rows,
    )  # fmt: skip


def _seconds(call: Callable, params, prompts: list[str], *, times: int = 1) -> float:
    """Time a call that has been made once, so that its program is compiled: the least of some."""
    call(params, prompts)
    found = []
    for _ in range(times):
        start = time.perf_counter()
        call(params, prompts)
        found.append(time.perf_counter() - start)
    return min(found)


def score(asked: Sequence[Question], texts: Sequence[str], *, metric: str) -> list[float]:
    """Score answers by the metric, each normalised as its section says."""
    return [
        float(generate.compare([text], [each.answers], normalize=each.normalize)[metric][0])
        for each, text in zip(asked, texts, strict=True)
    ]


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Count the tokens that all prompts begin with, which are read once and kept; not the last."""
    if len(prompts) < 2:
        return 0
    least = min(len(each) for each in prompts) - 1
    same = [len({each[i] for each in prompts}) == 1 for i in range(least)]
    return same.index(False) if False in same else max(least, 0)


def constants(parts: Parts) -> dict[str, float]:
    """Return FLOPs of a forward pass: of a token's matmuls, and of attention a token and position.

    An adapter that was merged costs nothing more, so none is counted.
    """
    plain, one = (flops.forward(parts.model, sequence=length).causal for length in (0, 1))
    return {"token": plain, "attention": one - plain}


def query_flops(
    constants: Mapping[str, float], *, prompt: float, new: float, shared: float
) -> float:
    """Compute the FLOPs of a query of so many tokens, of which a shared prefix is kept."""
    read = prompt - shared + new
    return read * (constants["token"] + constants["attention"] * (prompt + new))
