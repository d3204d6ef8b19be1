r"""Serve a run's model over HTTP, as the OpenAI API has it, and a page to talk with it.

    python -m experiments.serve --workdir runs/mine
    python -m experiments.serve --model tiny --adapter a=runs/a/export --adapter b=runs/b/export
    python -m experiments.serve --workdir runs/mine --passages docs
    curl localhost:8000/v1/completions -H 'content-type: application/json'
        -d '{"model": "mine", "prompt": "The sky is", "temperature": 0}'

Requests name a `model`: `base`, what the run started from; the run, by its folder's name; or one of
--adapter. All go through one queue while it runs, each row with its own adapter. Texts are those of
`experiments.generate`. It listens on this machine alone unless --host says otherwise; then set the
environment variable FTJAX_API_KEY, which clients send as their key. SIGTERM ends it once what has
begun is answered.
"""

import os
import pathlib
import signal
import socket
import sys

from absl import app, flags

from experiments import cli

WORKDIR = flags.DEFINE_string("workdir", "", "directory of the run")
MODEL = flags.DEFINE_string("model", "", "a base in place of a run: as model.base of a config")
ADAPTER = flags.DEFINE_multi_string("adapter", [], "NAME=DIR of PEFT's files; may be repeated")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "latest, best or a step")
NAME = flags.DEFINE_string("name", "", "of the run among the models; its folder's if not given")
BASE = flags.DEFINE_bool("base", True, "serve what the run started from too")
TEMPLATE = flags.DEFINE_string(
    "chat_template", None, "chatml, a .jinja file; the run's if not given"
)
HOST = flags.DEFINE_string("host", "127.0.0.1", "address to listen on")
PORT = flags.DEFINE_integer("port", 8000, "0 is any that is free", lower_bound=0)
SLOTS = flags.DEFINE_integer("slots", 16, "answers that are generated at a time", lower_bound=1)
CONTEXT = flags.DEFINE_integer(
    "context", None, "tokens of a prompt and its answer; the model's, 2048 at most", lower_bound=2
)
MAX_QUEUE = flags.DEFINE_integer("max_queue", 256, "answers that may wait", lower_bound=0)
MAX_QUEUE_TOKENS = flags.DEFINE_integer(
    "max_queue_tokens", 2**18, "tokens, prompts and answers, that may wait", lower_bound=0
)
MAX_BODY = flags.DEFINE_integer("max_body", 2**20, "bytes of a request", lower_bound=1)
DRAIN_S = flags.DEFINE_integer("drain_s", 30, "seconds for answers after SIGTERM", lower_bound=0)
PASSAGES = flags.DEFINE_string(
    "passages", "", "documents to answer from: a folder, or JSONL of `id` and `text`; answers cite"
)
PASSAGES_K = flags.DEFINE_integer("passages_k", 4, "passages in a prompt", lower_bound=1)
PASSAGE_TOKENS = flags.DEFINE_integer("passage_tokens", 128, "of a passage at most", lower_bound=1)
PASSAGES_TEMPLATE = flags.DEFINE_string(
    "passages_template", None, "a prompt of {passages} and {prompt}; the one that decisions use"
)
MESH = cli.define_mesh()

KEY = "FTJAX_API_KEY"
BASE_NAME = "base"
CONTEXT_MOST = 2048  # without --context: caches are held for every slot


def main(argv: list[str]) -> None:
    """Run what the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"got the arguments {argv[1:]}; expected flags alone")
    check_flags()
    uvicorn = server_library()
    cli.start()
    import jax  # slow to import

    from ftjax.run import prompting
    from ftjax.serve import endpoints, served, service

    if jax.process_count() > 1:
        raise app.UsageError(f"got {jax.process_count()} processes; expected one")
    parts, models = load()
    form = prompting.form_of(parts.tokenizer, parts.settings.data, chat_template=TEMPLATE.value)
    note = prompting.chat_note(form, parts.settings.data) if WORKDIR.value else ""
    sys.stderr.write(f"{note}\n" if note else "")
    length = context(parts, models)
    source_ = source(parts.tokenizer)
    built = served.build(
        parts, models, count=SLOTS.value, length=length, stop_ids=form.stop_ids,
        max_queue=MAX_QUEUE.value, max_queue_tokens=MAX_QUEUE_TOKENS.value,
    )  # fmt: skip
    own = service.Service(
        built, parts.tokenizer, form, length=length, max_body=MAX_BODY.value, source=source_
    )
    listener = listen()
    for engine in own.engines:
        engine.warm_up()
    app_ = endpoints.make(own, api_key=os.environ.get(KEY, ""))
    serve(uvicorn, app_, listener, list(built))


def check_flags() -> None:
    """Refuse flags that do not go together."""
    names = [text.partition("=")[0] for text in ADAPTER.value] or [run_name()] * bool(WORKDIR.value)
    for wrong, message in (
        (bool(WORKDIR.value) == bool(MODEL.value), "expected --workdir, or --model, and not both"),
        (not BASE.value and not names, "--nobase: got no --adapter, and nothing else to serve"),
        (BASE.value and BASE_NAME in names,
         f"got {BASE_NAME!r} for a run or an adapter, which is what the base is called; expected "
         "another; pass --name, rename the adapter, or leave the base out with --nobase"),
    ):  # fmt: skip
        if wrong:
            raise app.UsageError(message)


def run_name() -> str:
    """Return what requests call the run."""
    return NAME.value or pathlib.Path(WORKDIR.value).resolve().name


def server_library():
    """Import the server.

    Raises:
      ValueError: the extra is not installed.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise ValueError(
            f"experiments.serve: got no module {error.name!r}; expected the extra `serve`; "
            "pip install 'ftjax[serve]'"
        ) from None
    return uvicorn


def load():
    """Read the parts, and the params of every model by name."""
    from ftjax.run import named_adapters, reader, workdirs

    sizes, given = cli.mesh_of(MESH.value), named_adapters.named(ADAPTER.value)
    if not WORKDIR.value:
        parts = named_adapters.parts_over(MODEL.value, sizes=sizes)
    else:
        with workdirs.read(WORKDIR.value) as workdir:
            if not given:
                run = reader.load(workdir, checkpoint=CHECKPOINT.value, sizes=sizes)
                return run.parts, named({run_name(): run.params}, run.base)
            parts = reader.parts_of(workdir, sizes=sizes)
    base = reader.base_of(parts)
    found = named_adapters.read(parts, base["model"], given)
    return parts, named({name: {**base, "adapters": own} for name, own in found.items()}, base)


def named(tuned: dict, base: dict) -> dict:
    """Put the base before the models that are made of it, if it is to be served."""
    return {BASE_NAME: base, **tuned} if BASE.value else tuned


def source(tokenizer):
    """Open what --passages names; None without it.

    Raises:
      ValueError: it cannot be read or indexed.
    """
    from ftjax.serve import cited

    if not PASSAGES.value:
        return None
    found = cited.open_source(
        PASSAGES.value, tokens=PASSAGE_TOKENS.value, k=PASSAGES_K.value,
        count=lambda text: len(tokenizer.encode(text)),
        template=PASSAGES_TEMPLATE.value or cited.TEMPLATE,
    )  # fmt: skip
    sys.stderr.write(f"--passages: {len(found.passages)} passages\n")
    return found


def context(parts, models: dict) -> int:
    """Return the positions of a slot: --context, or what all models have.

    Raises:
      ValueError: --context is more than that.
    """
    most = min(parts.model.max_length(params.get("adapters")) for params in models.values())
    if CONTEXT.value and CONTEXT.value > most:
        raise ValueError(
            f"--context: got {CONTEXT.value}; expected at most {most}, the model's positions"
        )
    return CONTEXT.value or min(most, CONTEXT_MOST)


def listen() -> socket.socket:
    """Take the address.

    Raises:
      ValueError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in HOST.value else socket.AF_INET
    try:
        return socket.create_server((HOST.value, PORT.value), family=family)
    except OSError as error:
        raise ValueError(
            f"--host, --port: got {HOST.value}:{PORT.value}: {error.strerror or error}; expected "
            "an address of this machine and a port that is free; --port=0 finds one"
        ) from None


def serve(uvicorn, app_, listener: socket.socket, names: list[str]) -> None:
    """Answer until SIGTERM or ctrl-C; then until what has begun is answered."""
    config = uvicorn.Config(
        app_, log_level="warning", timeout_graceful_shutdown=DRAIN_S.value, ws="none",
        # Nobody looks at where a request came from; each of both takes its part of every answer.
        access_log=False, proxy_headers=False,
    )  # fmt: skip
    # uvicorn raises the signal that ended it once more: the process would end by it, not with 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    host, port = listener.getsockname()[:2]
    if host not in ("127.0.0.1", "::1") and not os.environ.get(KEY):
        sys.stderr.write(f"--host {host}: everybody who reaches it may ask; set {KEY} for a key\n")
    print(f"{', '.join(names)} at http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    cli.run(main)
