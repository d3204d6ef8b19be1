r"""Let a run's model write.

    python -m experiments.generate --workdir runs/mine --prompt "The sky is" --prompt "2 + 2 ="
    python -m experiments.generate --workdir runs/mine --prompts_file q.jsonl --output a.jsonl
    python -m experiments.generate --workdir runs/mine --chat --temperature 0.7
    python -m experiments.generate --workdir runs/mine --chat --base        # before the run

In the chat /reset forgets what was said, /quit ends, and ctrl-C cuts an answer short.
"""

import pathlib
import sys

from absl import app, flags

from experiments import commands

WORKDIR = flags.DEFINE_string("workdir", None, "directory of the run", required=True)
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
OUTPUT = flags.DEFINE_string("output", "", "write JSON lines of prompt and text to this file too")


def main(argv: list[str]) -> None:
    """Run what the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"got the arguments {argv[1:]}; expected flags; quote the prompt")
    if CHAT.value == bool(PROMPT.value or PROMPTS_FILE.value):
        raise app.UsageError("expected --prompt or --prompts_file, or --chat, and not both")
    from experiments import generating, workdirs  # jax and the rest: slow to import

    workdir = pathlib.Path(WORKDIR.value)
    if BASE.value:
        parts = workdirs.parts_of(workdir)
        params = workdirs.base_of(parts)
    else:
        run = workdirs.load(workdir, checkpoint=CHECKPOINT.value)
        parts, params = run.parts, run.params
    data = parts.settings.data
    choice = TEMPLATE.value or data.get("chat_template")
    template = generating.find_template(parts.tokenizer, choice)
    options = dict(
        max_new_tokens=NEW.value, temperature=TEMPERATURE.value, top_k=TOP_K.value,
        top_p=TOP_P.value, min_p=MIN_P.value, stop_ids=generating.stop_ids(parts.tokenizer),
    )  # fmt: skip
    if CHAT.value:
        talk(parts, params, template, options)
    else:
        # A model trained on messages expects what a user says inside its template.
        wrap = bool(TEMPLATE.value) or data.get("kind") == "chat"
        write(parts, params, generating.make_encode(parts.tokenizer, template=template, wrap=wrap),
              options)  # fmt: skip


def progress(total: int):
    """Make a callback that tells on stderr how many prompts are done, and how fast."""
    import time

    start, seen = time.perf_counter(), [0, 0]

    def show(prompts: int, tokens: int) -> None:
        seen[:] = seen[0] + prompts, seen[1] + tokens
        speed = seen[1] / (time.perf_counter() - start)
        sys.stderr.write(f"{seen[0]}/{total} prompts  {speed:,.0f} tokens/s\n")

    return show


def write(parts, params, encode, options: dict) -> None:
    """Continue every prompt and print the texts."""
    import jax

    from experiments import generating
    from ftjax.core import mesh as meshes
    from ftjax.sampling import text

    prompts = list(PROMPT.value)
    if PROMPTS_FILE.value:
        prompts += generating.read_prompts(PROMPTS_FILE.value)
    replicas = meshes.replicas(parts.mesh)
    respond = text.make(
        parts.model, parts.tokenizer, encode=encode, until=tuple(UNTIL.value), mesh=parts.mesh,
        batch_size=-(-min(BATCH_SIZE.value, len(prompts)) // replicas) * replicas, **options,
    )  # fmt: skip
    texts = respond(params, prompts, jax.random.key(SEED.value), progress=progress(len(prompts)))
    for prompt, new in zip(prompts, texts, strict=True):
        print(f"> {prompt}\n{new}\n")
    if OUTPUT.value:
        generating.write_results(OUTPUT.value, prompts, texts)


def talk(parts, params, template, options: dict) -> None:
    """Talk with the person at the terminal."""
    import jax

    from experiments import generating
    from ftjax.sampling import text

    encode = generating.make_encode(parts.tokenizer, template=template)
    stream = text.make_stream(parts.model, parts.tokenizer, encode=encode, **options)
    key = jax.random.key(SEED.value)
    most = parts.model.config.max_positions - options["max_new_tokens"]
    dialog = generating.Dialog(encode, template is not None, most, SYSTEM.value)
    if template is None:
        print("No chat template: your text is continued as it is.")
    print(generating.HELP)

    def answer(prompt, number: int):
        return stream(params, prompt, jax.random.fold_in(key, number))

    def show(piece: str) -> None:
        sys.stdout.write(piece)
        sys.stdout.flush()

    with jax.set_mesh(parts.mesh):
        generating.converse(dialog, answer, read=lambda: input("> "), write=show)


if __name__ == "__main__":
    commands.run(main)
