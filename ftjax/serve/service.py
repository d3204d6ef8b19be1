"""What an endpoint knows: models by name, how prompts become tokens, limits and counts.

service = Service(models, tokenizer, form, length=512, max_body=1 << 20)
ids = service.chat_ids(messages)                 what experiments.generate makes of them
reply = service.answer("chat", raw, size=99)     an ASGI response; raises Refusal
"""

import asyncio
import collections
import dataclasses
import random
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool

from ftjax.core import config as conf
from ftjax.run import prompting
from ftjax.sampling import text as texts
from ftjax.serve import fields, openai_json
from ftjax.serve.answer_text import AnswerText
from ftjax.serve.cited import Source
from ftjax.serve.engine import Closed, Full, Job
from ftjax.serve.fields import Refusal
from ftjax.serve.reply import Reply
from ftjax.serve.served import Model

SHORT = 4096  # bytes of a request that become tokens in less time than a thread takes to begin
RETRY_S = 1  # a slot is free again in about that time, where answers are short


@dataclasses.dataclass
class Service:
    """See the module.

    length: positions of a slot. max_body: bytes of a request. source: of passages that go into
    prompts of text, see `cited`.
    """

    models: Mapping[str, Model]
    tokenizer: Any
    form: prompting.Form
    length: int
    max_body: int
    source: Source | None = None
    disconnects: int = 0
    answered: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def __post_init__(self):
        self._encode_text = prompting.encode_of(self.tokenizer, self.form)
        self._encode_chat = prompting.make_encode(self.tokenizer, template=self.form.template)

    @property
    def engines(self) -> list:
        """List the queues, each once."""
        return list(dict.fromkeys(model.engine for model in self.models.values()))

    def deliver(self, found: Sequence) -> None:
        """Hand pieces to their answers; on the loop of the endpoint."""
        for job, piece in found:
            job.sink(piece)

    async def answer(self, kind: str, raw: Mapping[str, Any], *, size: int) -> Reply:
        """Put a request into its queue.

        Args:
          kind: "chat" or "completion".
          raw: the fields of the body.
          size: its bytes.

        Raises:
          Refusal: a field is wrong, a prompt does not fit, or the queue is full.
        """
        is_chat = kind == "chat"
        asked = fields.read(raw, fields.CHAT if is_chat else fields.COMPLETION)
        model = self.model(asked["model"])
        read = self._read_chat if is_chat else self._read_texts
        if size <= SHORT and self.source is None:
            found = read(asked)
        else:  # beside the loop, which other answers go through
            found = await run_in_threadpool(read, asked)
        prompts = [prompt for prompt, _ in found]
        if len(prompts) * asked["n"] > fields.MAX_CHOICES:
            message = f"n: got {asked['n']} answers to each of {len(prompts)} prompts; expected "
            raise Refusal(f"{message}{fields.MAX_CHOICES} answers at most", param="n")
        shape, best = self._shape(asked, is_chat=is_chat)
        if self.source is not None:
            shape.citations = [own for _, own in found for _ in range(asked["n"])]
        inbox, jobs = asyncio.Queue(), []
        for number, prompt in enumerate(p for p in prompts for _ in range(asked["n"])):
            jobs.append(self._job(asked, prompt, number, best, model.member))
            jobs[-1].sink = lambda piece, number=number: inbox.put_nowait((number, piece))
        own = [self._text(asked["stop"]) for _ in jobs]
        _submit(model, jobs)
        return Reply(
            shape, jobs, own, inbox, is_stream=asked["stream"], on_gone=self._count_gone,
            includes_usage=bool((asked["stream_options"] or {}).get("include_usage")),
        )  # fmt: skip

    def _read_texts(self, asked) -> list[tuple[list[int], list]]:
        """Return tokens and citations of every prompt; prompts of ids stay as they are."""
        encode = lambda text: self.text_ids([text])[0]
        return [
            (self.text_ids([prompt])[0], [])
            if self.source is None or isinstance(prompt, list)
            else self.source.put(prompt, encode, room=self._room(asked))
            for prompt in asked["prompt"]
        ]

    def _read_chat(self, asked) -> list[tuple[list[int], list]]:
        """Return tokens and citations of a conversation; passages go into what was said last."""
        *before, last = asked["messages"]
        is_text = isinstance(last, dict) and isinstance(last.get("content"), str)
        if self.source is None or not is_text or last.get("role") != "user":
            return [(self.chat_ids(asked["messages"])[0], [])]
        encode = lambda text: self.chat_ids([*before, {**last, "content": text}])[0]
        return [self.source.put(last["content"], encode, room=self._room(asked))]

    def _room(self, asked) -> int:
        """Return the tokens that a prompt may have: a quarter is the answer's, or what it wants."""
        wanted = asked.get("max_completion_tokens") or asked["max_tokens"] or self.length // 4
        return self.length - wanted

    def text_ids(self, prompts: Sequence) -> list[list[int]]:
        """Encode the prompts of a completion: as `experiments.generate --prompt`, or ids."""
        return [
            self._checked_ids(prompt) if isinstance(prompt, list)
            else self._ids(prompt, self._encode_text, "prompt")
            for prompt in prompts
        ]  # fmt: skip

    def chat_ids(self, messages: Sequence) -> list[list[int]]:
        """Encode a conversation, as `experiments.generate --chat`."""
        return [self._ids(messages, self._encode_messages, "messages")]

    def _encode_messages(self, messages) -> list[int]:
        found, _ = prompting.conversation(messages)
        if self.form.template is None:  # what was said is continued as it is
            beside = sorted(
                {key for each in found for key in each if key not in ("role", "content")}
            )
            if beside:
                raise ValueError(
                    f"got {beside[0]!r} of a message, and the model has no chat template; "
                    "expected role and content; drop it"
                )
            return self.tokenizer.encode("".join(each.get("content") or "" for each in found))
        return self._encode_chat(messages)

    def _ids(self, prompt, encode, param: str) -> list[int]:
        try:
            return texts.prompt_ids(prompt, self.tokenizer, encode=encode)
        except ValueError as error:
            raise Refusal(f"{param}: {error}", param=param) from None

    def _checked_ids(self, ids: list[int]) -> list[int]:
        most = self.tokenizer.vocab_size
        wrong = next((i for i in ids if not 0 <= i < most), None)
        if wrong is not None:
            message = f"prompt: got the token {wrong}; expected ids from 0 to {most - 1}"
            raise Refusal(message, param="prompt")
        return ids

    def model(self, name: str) -> Model:
        """Return the model of a name; raises Refusal when there is none."""
        if name not in self.models:
            raise Refusal(
                f"model: got {name!r}; {conf.nearest(name, list(self.models))}expected one of "
                f"{conf.listed(self.models)}", status=404, param="model", code="model_not_found",
            )  # fmt: skip
        return self.models[name]

    def _job(self, asked, prompt: list[int], number: int, best: int, member: int) -> Job:
        seed = random.randrange(fields.SEEDS) if asked["seed"] is None else asked["seed"]
        return Job(
            prompt, self._limit(asked, prompt), seed=seed, number=number, alternatives=best,
            temperature=asked["temperature"], top_p=asked["top_p"], member=member,
        )  # fmt: skip

    def _limit(self, asked, prompt: list[int]) -> int:
        """Return how many new tokens there may be: what is asked for, or what there is room for."""
        room, param = self.length - len(prompt), "messages" if "messages" in asked else "prompt"
        names = [n for n in ("max_completion_tokens", "max_tokens") if asked.get(n) is not None]
        if len({asked[n] for n in names}) > 1:
            message = "max_tokens: got another number than max_completion_tokens; leave out one"
            raise Refusal(message, param="max_tokens")
        wanted = asked[names[0]] if names else max(room, 1)
        if wanted > room:
            raise Refusal(
                f"{param}: got {len(prompt)} tokens, and {wanted} new ones at most; expected "
                f"{self.length} together; shorten the prompt, or set max_tokens lower",
                param=param, code="context_length_exceeded",
            )  # fmt: skip
        return wanted

    def _shape(self, asked, *, is_chat: bool):
        identity, best = uuid.uuid4().hex, asked["logprobs"]
        common = dict(model=asked["model"], decode=self.tokenizer.decode)
        if not is_chat:
            return openai_json.Completion("cmpl-" + identity, logprobs=best, **common), best or 0
        best = asked["top_logprobs"]
        if best and not asked["logprobs"]:
            message = f"top_logprobs: got {best}; expected logprobs=true beside it"
            raise Refusal(message, param="top_logprobs")
        own = best if asked["logprobs"] else None
        return openai_json.Chat("chatcmpl-" + identity, logprobs=own, **common), best

    def _text(self, until: Sequence[str]) -> AnswerText:
        return AnswerText(self.tokenizer.decode, stop_ids=self.form.stop_ids, until=until)

    def _count_gone(self) -> None:
        self.disconnects += 1


def _submit(model: Model, jobs: Sequence[Job]) -> None:
    try:
        model.engine.submit(jobs)
    except Full as full:
        raise Refusal(
            f"the queue is full: {full}; ask again later", status=429, code="queue_full",
            kind="rate_limit_error", headers={"retry-after": str(RETRY_S)},
        ) from None  # fmt: skip
    except Closed:
        message = "the server is going away; ask again"
        raise Refusal(message, status=503, kind="server_error") from None
