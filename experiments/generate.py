r"""Let a run's model write.

    python -m experiments.generate --workdir runs/mine --prompt "The sky is"
    python -m experiments.generate --workdir runs/mine --prompt "The sky is" --prompt "2 + 2 ="
    python -m experiments.generate --workdir runs/mine --prompts_file q.jsonl --output a.jsonl
    python -m experiments.generate --workdir runs/mine --chat --temperature 0.7
    python -m experiments.generate --workdir runs/mine --chat --base        # before the run
    python -m experiments.generate --model tiny --adapter a=runs/a/export --prompt "The sky is"
    python -m experiments.generate --model tiny --adapter a=runs/a/export --adapter b=runs/b/export
        --prompts_file q.jsonl      # lines such as {"prompt": "The sky is", "adapter": "a"}

Prompts of several adapters run in one program, each row with its own; one without a name is the
base's. With --workdir the adapters are over that run's base, in place of its own adapter.

A single prompt is answered as the tokens come. In the chat /reset forgets what was said, /quit
ends, and ctrl-C cuts an answer short.
"""

import sys

from absl import app, flags

from experiments import cli

WORKDIR = flags.DEFINE_string("workdir", "", "directory of the run")
MODEL = flags.DEFINE_string("model", "", "a base in place of a run: as model.base of a config")
ADAPTER = flags.DEFINE_multi_string("adapter", [], "NAME=DIR of PEFT's files; may be repeated")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "latest, best or a step")
BASE = flags.DEFINE_bool("base", False, "what the run started from: its base, adapter off")
PROMPT = flags.DEFINE_multi_string("prompt", [], "a prompt; may be repeated")
PROMPTS_FILE = flags.DEFINE_string("prompts_file", "", "prompts: .jsonl, or a text of one a line")
CHAT = flags.DEFINE_bool("chat", False, "talk with the model")
SYSTEM = flags.DEFINE_string("system", "", "what a chat begins with")
TEMPLATE = flags.DEFINE_string(
    "chat_template", None, "chatml, a .jinja file; the run's if not given"
)
TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "0 is greedy", lower_bound=0.0)
TOP_K = flags.DEFINE_integer("top_k", None, "draw from the k likeliest tokens", lower_bound=1)
TOP_P = flags.DEFINE_float("top_p", None, "draw from the likeliest tokens of this probability")
MIN_P = flags.DEFINE_float("min_p", None, "draw from tokens this likely beside the likeliest")
NEW = flags.DEFINE_integer("max_new_tokens", 128, "tokens of an answer at most", lower_bound=1)
UNTIL = flags.DEFINE_multi_string("until", [], "cut each text before this string; not in chats")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "prompts at a time", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "of the sampling")
MESH = cli.define_mesh()
OUTPUT = flags.DEFINE_string("output", "", "write JSON lines of prompt and text to this file too")


def main(argv: list[str]) -> None:
    """Run what the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"got the arguments {argv[1:]}; expected flags; quote the prompt")
    check_flags()
    cli.start()
    import jax  # slow to import

    from ftjax.run import named_adapters, prompting

    if CHAT.value and jax.process_count() > 1:
        raise app.UsageError(f"--chat: got {jax.process_count()} processes; expected one")

    asked, given = prompts(), named_adapters.named(ADAPTER.value)
    which = named_adapters.places(asked, given)
    parts, params = load(adapters=bool(given))
    params, of_rows = named_adapters.over(parts, params, given, which)
    data = parts.settings.data
    form = prompting.form_of(parts.tokenizer, data, chat_template=TEMPLATE.value)
    options = dict(
        max_new_tokens=NEW.value, temperature=TEMPERATURE.value, top_k=TOP_K.value,
        top_p=TOP_P.value, min_p=MIN_P.value, stop_ids=form.stop_ids,
    )  # fmt: skip
    if CHAT.value:
        # What it started from has learned nothing of the run.
        note = "" if BASE.value or not WORKDIR.value else prompting.chat_note(form, data)
        sys.stderr.write(f"{note}\n" if note else "")
        talk(parts, params, form.template, options)
        return
    ids = prompting.encoded(
        asked, prompting.encode_of(parts.tokenizer, form), parts.tokenizer,
        most=parts.model.max_length(params.get("adapters")), new=NEW.value,
    )  # fmt: skip
    options["encode"] = lambda ids: ids
    texts = [each.prompt for each in asked]
    if len(texts) == 1 and not UNTIL.value and jax.process_count() == 1:
        stream(parts, params, texts[0], ids[0], options)
    else:
        write(parts, params, texts, ids, options, of_rows=of_rows)


def check_flags() -> None:
    """Refuse flags that do not go together."""
    for wrong, message in (
        (CHAT.value == bool(PROMPT.value or PROMPTS_FILE.value),
         "expected --prompt or --prompts_file, or --chat, and not both"),
        (bool(WORKDIR.value) == bool(MODEL.value), "expected --workdir, or --model, and not both"),
        (BASE.value and (MODEL.value or ADAPTER.value), "--base is for --workdir, no --adapter"),
        (CHAT.value and len(ADAPTER.value) > 1, "--chat is with one --adapter at most"),
    ):  # fmt: skip
        if wrong:
            raise app.UsageError(message)


def prompts() -> list:
    """Collect the prompts; a chat begins with none, which stands for what will be said."""
    from ftjax.run import prompting

    if CHAT.value:
        return [prompting.PromptRequest("")]
    found = [prompting.PromptRequest(prompt) for prompt in PROMPT.value]
    return found + (prompting.read_prompts(PROMPTS_FILE.value) if PROMPTS_FILE.value else [])


def load(*, adapters: bool):
    """Read the parts and weights that the flags name; `adapters` come in place of a run's own."""
    from ftjax.run import named_adapters, reader, workdirs

    sizes = cli.mesh_of(MESH.value)
    if not WORKDIR.value:
        parts = named_adapters.parts_over(MODEL.value, sizes=sizes)
        return parts, reader.base_of(parts)
    with workdirs.read(WORKDIR.value) as workdir:
        if BASE.value or adapters:
            parts = reader.parts_of(workdir, sizes=sizes)
            return parts, reader.base_of(parts)
        run = reader.load(workdir, checkpoint=CHECKPOINT.value, sizes=sizes)
        return run.parts, run.params


def progress(total: int):
    """Make a callback that tells on stderr how many prompts are done, and how fast."""
    import time

    start, seen = time.perf_counter(), [0, 0]

    def show(prompts: int, tokens: int) -> None:
        seen[:] = seen[0] + prompts, seen[1] + tokens
        speed = seen[1] / (time.perf_counter() - start)
        sys.stderr.write(f"{seen[0]}/{total} prompts  {speed:,.0f} tokens/s\n")

    return show


def write(parts, params, asked: list, ids: list, options: dict, *, of_rows) -> None:
    """Continue every prompt, encoded as `ids`, and print the texts."""
    import jax

    from ftjax.core import mesh as meshes
    from ftjax.core import processes
    from ftjax.run import prompting
    from ftjax.sampling import text

    respond = text.make(
        parts.model, parts.tokenizer, until=tuple(UNTIL.value), mesh=parts.mesh,
        batch_size=meshes.round_up_to_replicas(min(BATCH_SIZE.value, len(asked)), parts.mesh),
        **options,
    )  # fmt: skip
    key, show = jax.random.key(SEED.value), progress(len(asked))
    texts = respond(params, ids, key, of_rows=of_rows, progress=show)
    if not processes.is_first():
        return
    for prompt, new in zip(asked, texts, strict=True):
        print(f"> {prompt}\n{new}\n")
    if OUTPUT.value:
        prompting.write_results(OUTPUT.value, asked, texts)


def show(piece: str) -> None:
    """Print a piece of a text at once."""
    sys.stdout.write(piece)
    sys.stdout.flush()


def stream(parts, params, prompt, ids: list[int], options: dict) -> None:
    """Continue one prompt, encoded as `ids`, and print what comes as it comes."""
    import jax

    from ftjax.run import prompting
    from ftjax.sampling import text

    pieces, said = text.make_stream(parts.model, parts.tokenizer, **options), []
    show(f"> {prompt}\n")
    with jax.set_mesh(parts.mesh):
        for piece in pieces(params, ids, jax.random.key(SEED.value)):
            show(piece)
            said.append(piece)
    show("\n\n")
    if OUTPUT.value:
        prompting.write_results(OUTPUT.value, [prompt], ["".join(said)])


def talk(parts, params, template, options: dict) -> None:
    """Talk with the person at the terminal."""
    import jax

    from ftjax.run import prompting
    from ftjax.sampling import text

    encode = prompting.make_encode(parts.tokenizer, template=template)
    stream = text.make_stream(parts.model, parts.tokenizer, encode=encode, **options)
    key = jax.random.key(SEED.value)
    most = parts.model.max_length(params.get("adapters")) - options["max_new_tokens"]
    dialog = prompting.Dialog(encode, template is not None, most, SYSTEM.value)
    if template is None:
        print("No chat template: your text is continued as it is.")
    print(prompting.HELP)

    def answer(prompt, number: int):
        return stream(params, prompt, jax.random.fold_in(key, number))

    with jax.set_mesh(parts.mesh):
        prompting.converse(dialog, answer, read=lambda: input("> "), write=show)


if __name__ == "__main__":
    cli.run(main)
