"""Prompts to answers by one model, whatever weights it has; scores, tokens and seconds of them.

answerer = make(decision, parts)
answers = answerer.answer(params, prompts, asked)      one Answers
answerer.timed(params, prompts, asked, beside)         one Timing

One program serves every arm whose weights have the same structure.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ftjax.core import mesh as meshes
from ftjax.decide import answer_metric, likelihoods
from ftjax.decide.config import Decision
from ftjax.decide.likelihoods import Chosen, Likelihoods
from ftjax.decide.questions import Question
from ftjax.run import prompting
from ftjax.run.build import Parts
from ftjax.sampling import text
from ftjax.train import flops

CHOSEN = ("text", "tokens", "score")
PAIRS = 3  # of a batch and the reference beside it, that are timed at least
PAIRED_S = 0.25  # and for so long at least: a batch of a small model takes a few milliseconds


class Answers(NamedTuple):
    """Of each prompt: the text, its own tokens, how many were sampled or read behind it, a score.

    Of choices all are read, and the text is the likeliest one.
    """

    texts: list[str]
    prompts: list[list[int]]
    new_tokens: list[int]
    scores: list[float]


class Timing(NamedTuple):
    """Measured seconds of queries, when programs are compiled.

    first, whole: to the first token and to the end, of prompts alone. pairs: of a full batch, and
    of the reference right before it.
    """

    first: list[float]
    whole: list[float]
    pairs: list[tuple[float, float]]


class Answerer(NamedTuple):
    """A model that answers; `sample(params, prompts)` of batches, `one` and `first` of one row."""

    sample: Callable
    one: Callable
    first: Callable
    likelihoods: Likelihoods
    encode: Callable[[str], list[int]]
    room: int
    batch_size: int
    latency_rows: int
    metric: answer_metric.Metric

    def count(self, prompt: str) -> int:
        """Count the tokens of a prompt."""
        return len(self.encode(prompt))

    def write(self, params, prompt: str) -> str:
        """Write an answer, greedily."""
        return self.sample(params, [prompt])[0].text

    def answer(
        self, params, prompts: Sequence[str], asked: Sequence[Question], *,
        metric: answer_metric.Metric | None = None,
    ) -> Answers:  # fmt: skip
        """Answer every prompt, greedily or by choice; metric: another than the decision's."""
        metric = metric or self.metric
        if metric.name == answer_metric.CHOICE:
            chosen = self._choose(params, prompts, asked)
            texts, new, scores = ([getattr(each, key) for each in chosen] for key in CHOSEN)
            return Answers(texts, [self.encode(each) for each in prompts], new, scores)
        found = self.sample(params, list(prompts))
        texts = [each.text for each in found]
        if metric.name == answer_metric.NLL:
            scores = [-nats for nats in self.likelihoods.nats(params, prompts, asked)]
        else:
            scores = [metric.score(*pair) for pair in zip(asked, texts, strict=True)]
        prompts, new = [list(each.prompt) for each in found], [len(each.tokens) for each in found]
        return Answers(texts, prompts, new, scores)

    def _choose(self, params, prompts, asked) -> list[Chosen]:
        normalization = self.metric.normalization
        return self.likelihoods.choose(params, prompts, asked, normalization=normalization)

    def timed(
        self, params, prompts: Sequence[str], asked: Sequence[Question], beside: Callable[[], Any]
    ) -> Timing:  # fmt: skip
        """Time some prompts, evenly spread: one by one, and a full batch in turn with `beside`."""
        first, whole, _ = self._calls(params, prompts, asked)
        alone = [[each] for each in self._places(prompts)]
        return Timing(
            [_compiled_seconds(first, each) for each in alone],
            [_compiled_seconds(whole, each) for each in alone],
            paired(self.batch(params, prompts, asked), beside),
        )

    def batch(self, params, prompts: Sequence[str], asked: Sequence[Question]) -> Callable[[], Any]:
        """Return what answers a full batch of those prompts that are timed."""
        places = self._places(prompts)
        full = [places[i % len(places)] for i in range(self.batch_size)]
        return functools.partial(self._calls(params, prompts, asked)[2], full)

    def _places(self, prompts: Sequence[str]) -> list[int]:
        count = min(self.latency_rows, len(prompts))
        return [i * len(prompts) // count for i in range(count)]

    def _calls(self, params, prompts, asked) -> list[Callable[[list[int]], Any]]:
        """Return what answers the prompts at some places: the first token, one, and a batch."""
        take = lambda own, places: [own[i] for i in places]
        if self.metric.name == answer_metric.CHOICE:
            return [lambda at: self._choose(params, take(prompts, at), take(asked, at))] * 3
        samplers = self.first, self.one, self.sample
        return [lambda at, run=run: run(params, take(prompts, at)) for run in samplers]


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
    readers = likelihoods.make(
        parts.model, parts.tokenizer, encode=encode, batch_size=rows, is_chat=decision.chat,
        mesh=parts.mesh,
    )  # fmt: skip
    return Answerer(
        sampler(rows, new), sampler(alone, new), sampler(alone, 1), readers,
        lambda prompt: text.prompt_ids(prompt, parts.tokenizer, encode=encode),
        parts.model.max_length() - new, rows, decision.latency_rows,
        answer_metric.make(decision.metric),
    )  # fmt: skip


def paired(call: Callable[[], Any], beside: Callable[[], Any]) -> list[tuple[float, float]]:
    """Time two calls in turn, once they are compiled: seconds of the call, and of the other."""
    call()
    beside()
    found, until = [], time.perf_counter() + PAIRED_S
    while len(found) < PAIRS or time.perf_counter() < until:
        other = _seconds(beside)
        found.append((_seconds(call), other))
    return found


def _compiled_seconds(call: Callable[[list[int]], Any], places: list[int]) -> float:
    call(places)
    return _seconds(functools.partial(call, places))


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


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
