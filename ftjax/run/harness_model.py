"""A run's model as EleutherAI's lm-evaluation-harness asks it: by tokens, in fixed shapes.

    engine = Engine(parts, longest=512)
    lm = as_lm(engine, params)              # the harness's `TemplateLM`, over JAX alone
    engine.cut                              # what was cut so far: {"contexts": 3}

The harness decides what is asked; here it is scored and sampled by what the evaluators use. Texts
are encoded as the harness's own model for Hugging Face does it, so that numbers compare: with the
special tokens that the tokenizer adds by itself, and no others.
"""

import collections
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ftjax.core import mesh as meshes
from ftjax.core.config import listed, nearest
from ftjax.evals.lib import scoring
from ftjax.run import prompting
from ftjax.run.build import Parts
from ftjax.sampling import text

NEW_TOKENS = 256  # of an answer where a task names no number: the harness's own default
COUNTS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
KNOWN = ("until", "do_sample", "temperature", "top_k", "top_p", "min_p", *COUNTS)


class Drawing(NamedTuple):
    """How an answer is drawn and where it ends."""

    until: tuple[str, ...]
    max_new_tokens: int
    temperature: float
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None


class Engine:
    """Scores pairs of tokens and continues texts, for any weights of one model.

    Args:
      parts: of the run.
      longest: tokens of a context and its continuation together, at most.
      chat: write contexts through the run's chat template.
      batch_size: sequences at a time, rounded up to the mesh's replicas.
      seed: of sampled answers.

    Raises:
      ValueError: `chat`, and the run has no chat template.
    """

    def __init__(
        self, parts: Parts, *, longest: int, chat: bool = False, batch_size: int = 8, seed: int = 0
    ):
        self.tokenizer, self.longest, self.chat, self._seed = parts.tokenizer, longest, chat, seed
        self.form = prompting.form_of(parts.tokenizer, parts.settings.data)
        if chat and self.form.template is None:
            raise ValueError(
                "--lm_eval_chat: got a run without a chat template; expected one; leave the flag "
                "out, or name data.chat_template in the run's config"
            )
        self.cut = collections.Counter()
        size = meshes.round_up_to_replicas(batch_size, parts.mesh)
        self._score = scoring.make_greedy_scorer(parts.model, batch_size=size, mesh=parts.mesh)
        sampler = functools.partial(
            text.make, parts.model, self.tokenizer, batch_size=size, mesh=parts.mesh,
            stop_ids=self.form.stop_ids, encode=list,  # prompts come as tokens
        )  # fmt: skip
        self._sampler = functools.cache(lambda drawing: sampler(**drawing._asdict()))

    @property
    def prefix_id(self) -> int:
        """Return the token that a text without context follows: bos, else eos."""
        for token in (self.tokenizer.bos_id, self.tokenizer.eos_id):
            if token is not None:
                return token
        raise ValueError(
            "--lm_eval: got a tokenizer without bos and eos, and a text without context; expected "
            "one of them; name it in tokenizer_config.json"
        )

    def encode(self, string: str, *, special: bool | None = None) -> list[int]:
        """Return ids; special: whether what the tokenizer adds around a text is added.

        By default as the tokenizer has it, and never behind a chat template, which prints its own.
        """
        adds = not self.chat if special is None else special
        ids = list(self.tokenizer.encode(string, add_special_tokens=adds))
        # Some tokenizers end every text with eos; what continues a context must not follow it.
        is_added = adds and ids[-1:] == [self.tokenizer.eos_id]
        return ids[:-1] if is_added and not string.endswith(self.tokenizer.eos_token) else ids

    def logps(self, params, pairs: Sequence) -> list[tuple[float, bool]]:
        """Score (context ids, continuation ids): log p of the continuation, and if it is greedy."""
        examples = [self._example(*pair) for pair in pairs]
        logps, greedy = self._score(params, examples)
        return list(zip(logps.tolist(), (greedy > 0).tolist(), strict=True))

    def _example(self, context: Sequence[int], continuation: Sequence[int]) -> tuple:
        context, room = list(context) or [self.prefix_id], self.longest - len(continuation)
        if not continuation or room < 1:
            raise ValueError(
                f"--lm_eval: got a continuation of {len(continuation)} tokens; expected 1 to "
                f"{self.longest - 1}, since the model reads {self.longest} tokens; leave the task "
                "out"
            )
        ids = [*self.shortened(context, room), *continuation]
        weights = np.arange(len(ids)) >= len(ids) - len(continuation)
        return np.asarray(ids, np.int32), weights.astype(np.float32)

    def shortened(self, ids: list[int], room: int) -> list[int]:
        """Cut a context from the left to `room` tokens, and count it."""
        self.cut["contexts"] += len(ids) > room
        return ids[-room:]

    def generate(self, params, asked: Sequence[tuple[str, Mapping]]) -> list[str]:
        """Continue (context, the harness's generation_kwargs) of each."""
        groups, texts = collections.defaultdict(list), [""] * len(asked)
        for index, (_, options) in enumerate(asked):
            groups[json.dumps(options, sort_keys=True)].append(index)
        for index in groups.values():
            drawing = drawing_of(asked[index[0]][1], default=min(NEW_TOKENS, self.longest // 2))
            room = self.longest - drawing.max_new_tokens
            if room < 1:
                raise ValueError(
                    f"generation_kwargs.max_gen_toks: got {drawing.max_new_tokens}; expected less "
                    f"than {self.longest}, the tokens that the model reads; lower it in the task"
                )
            prompts = [self.shortened(self.encode(asked[i][0]), room) for i in index]
            found = self._sampler(drawing)(params, prompts, jax.random.key(self._seed))
            for i, answer in zip(index, found, strict=True):
                texts[i] = answer
        return texts


def drawing_of(options: Mapping[str, Any], *, default: int = NEW_TOKENS) -> Drawing:
    """Read a task's generation_kwargs, with the harness's own meaning of each key.

    default: tokens of an answer where no number is named.

    Raises:
      ValueError: a key that is not honoured here, or two names of one number.
    """
    for key in options:
        if key not in KNOWN:
            raise ValueError(
                f"generation_kwargs.{key}: got {options[key]!r}; expected some of {listed(KNOWN)}; "
                f"{nearest(key, KNOWN)}take it out of the task"
            )
    counts = [key for key in COUNTS if options.get(key) is not None]
    if len(counts) > 1:
        raise ValueError(
            f"generation_kwargs: got {' and '.join(counts)}; expected one of them: they mean the "
            "same; keep one in the task"
        )
    until = options.get("until") or ()
    until = (until,) if isinstance(until, str) else tuple(until)
    drawn = {key: options[key] for key in ("top_k", "top_p", "min_p") if key in options}
    return Drawing(
        tuple(each for each in until if each),  # an empty string is in every text
        int(options[counts[0]] if counts else default), _temperature(options), **drawn,
    )  # fmt: skip


def _temperature(options: Mapping[str, Any]) -> float:
    """Return the temperature, 0 of greedy answers, which `do_sample=False` asks for above all."""
    sampled, temperature = options.get("do_sample"), float(options.get("temperature") or 0)
    if sampled and not temperature:
        raise ValueError(
            f"generation_kwargs.temperature: got {options.get('temperature')} with do_sample: "
            "true; expected more than 0; set it in the task, or do_sample: false"
        )
    return 0.0 if sampled is False else temperature


def _windows(engine: Engine, string: str) -> list[tuple[list[int], list[int]]]:
    """Cut a text into (context, continuation) by the harness's rule: each token is scored once."""
    from lm_eval import utils

    found = utils.get_rolling_token_windows(
        token_list=engine.encode(string, special=False), prefix_token=engine.prefix_id,
        max_seq_len=engine.longest - 1, context_len=1,
    )  # fmt: skip
    return [utils.make_disjoint_window(each) for each in found]


def as_lm(engine: Engine, params):
    """Make the harness's model over an engine and weights; needs the package lm_eval."""
    from lm_eval.api.model import TemplateLM

    class Model(TemplateLM):
        eot_token_id = property(lambda self: engine.tokenizer.eos_id)
        prefix_token_id = property(lambda self: engine.prefix_id)
        tokenizer_name = property(lambda self: engine.tokenizer.digest())

        def tok_encode(self, string, add_special_tokens=None, **kwargs):
            del kwargs  # of other models
            return engine.encode(string, special=add_special_tokens)

        def _loglikelihood_tokens(self, requests, **kwargs):
            del kwargs  # whether to show progress
            return engine.logps(params, [pair for _, *pair in requests])

        def loglikelihood_rolling(self, requests, *, disable_tqdm=False):
            parts = [_windows(engine, each.args[0]) for each in requests]
            scores = iter(engine.logps(params, [pair for part in parts for pair in part]))
            return [float(sum(next(scores)[0] for _ in part)) for part in parts]

        def generate_until(self, requests, *, disable_tqdm=False):
            return engine.generate(params, [each.args for each in requests])

        def apply_chat_template(self, chat_history, *, add_generation_prompt=True):
            if not engine.chat:
                return super().apply_chat_template(chat_history, add_generation_prompt)
            if add_generation_prompt:
                return engine.form.template.render(chat_history, add_generation_prompt=True)
            return engine.form.template.opening(chat_history)

    return Model()
