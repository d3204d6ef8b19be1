"""Open our exports in PEFT and transformers: logits, greedy text, and where it stops.

    python -m scripts.check_export --make DIR
    THEIRS/bin/python scripts/check_export.py --check DIR --out docs/export.md

The first stage writes exports of small random models, as runs write them, with what we compute. The
second imports nothing of ours and runs where torch, transformers and peft are (extra `check`). It
ends with 1 where something differs, and puts its table between the marks of --out.
"""

import argparse
import json
import pathlib
import sys
from typing import NamedTuple

import numpy as np

TOLERANCE = 1e-3  # of logits of size 10 or so in float32
TOKENS = 5 + np.arange(24, dtype=np.int32).reshape(2, 12) * 37 % 2000
PROMPTS = ("The sky is", "Two and two are four, and")
NEW_TOKENS = 16
CHAT = [{"role": "user", "content": "Hello"}]
MARKS = "<!-- check_export -->", "<!-- /check_export -->"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}: {{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}"
)
# What the libraries raise for a file that they cannot use.
FAILURES = (
    OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError, IndexError,
)  # fmt: skip
SIZES = dict(
    vocab_size=2048, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=128, initializer_range=0.3,
)  # fmt: skip
GATED = dict(
    SIZES, intermediate_size=48, num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-5,
    rope_theta=10000.0, hidden_act="silu",
)  # fmt: skip
BASES = {
    "llama": dict(GATED, model_type="llama", tie_word_embeddings=False),
    "tied": dict(GATED, model_type="llama", tie_word_embeddings=True),
    "mixtral": dict(
        {key: x for key, x in GATED.items() if key != "head_dim"}, model_type="mixtral",
        num_local_experts=4, num_experts_per_tok=2, tie_word_embeddings=False,
    ),
    "gpt2": dict(
        model_type="gpt2", vocab_size=2048, n_embd=32, n_layer=2, n_head=4, n_positions=128,
        initializer_range=0.3,
    ),
}  # fmt: skip
# Greedy text of random weights ends where it meets one of many ids.
ENDS = list(range(7, 2048, 12))


class Case(NamedTuple):
    """One export: over which base, of which adapter, in which form."""

    base: str
    adapter: dict
    form: str = ""
    trainable: tuple[str, ...] = ()
    objective: str = "sft"
    shard_gb: float = 5.0


# -- the first stage: with ftjax -------------------------------------------------------------------


def cases() -> dict[str, Case]:
    """List every adapter method's exports, and those of other shapes."""
    from ftjax.adapters.multi import catalogue

    lora = dict(name="lora", where="blocks/**", rank=4, alpha=8.0)
    found = {}
    for name, module in catalogue.modules().items():
        merges = not catalogue.is_of_model(name)
        where = "blocks/**" if merges else ""  # a prefix changes no weight
        found[name] = Case("llama", dict(name=name, where=where, **module.EXAMPLE))
        if merges:
            found[f"{name}_merged"] = found[name]._replace(form="model")
    every = dict(lora, where=("embed", "blocks/**", "head"))
    experts = dict(lora, where="blocks/**/{gate_up,down}")
    return found | {
        "lora_sharded": Case("llama", lora, "model", shard_gb=1e-4),
        "lora_rslora": Case("llama", dict(lora, rslora=True)),
        "lora_embed_head": Case("llama", every),
        "lora_embed_head_merged": Case("llama", every, "model"),
        "lora_embed_tied": Case("tied", dict(lora, where=("embed", "blocks/**"))),
        "lora_tokens": Case("llama", dict(lora, token_ids=(3, 4, 9))),
        "lora_tokens_tied": Case("tied", dict(lora, token_ids=(3, 4, 9))),
        "lora_and_norms": Case("llama", lora, trainable=("adapters/**", "model/**norm")),
        "lora_and_head": Case(
            "llama", lora, trainable=("adapters/**", "model/head")),
        "lora_experts": Case("mixtral", experts),
        "lora_experts_merged": Case("mixtral", experts, "model"),
        "lora_gpt2": Case("gpt2", lora),
        "lora_gpt2_merged": Case("gpt2", lora, "model"),
        "full": Case("llama", dict(name="", where="blocks/**")),
        "full_tied": Case("tied", dict(name="", where="blocks/**")),
        "full_mixtral": Case("mixtral", dict(name="", where="blocks/**")),
        "reward": Case("llama", lora, objective="reward"),
        "reward_merged": Case("llama", lora, "model", objective="reward"),
        "norms": Case("llama", dict(name="", where="blocks/**"), "norms", ("model/**norm",)),
    }  # fmt: skip


def make(out: pathlib.Path, *, only: str = "") -> None:
    """Write the bases, every export and what we compute of it."""
    (out / "expected").mkdir(parents=True)
    (out / "trained.jinja").write_text(TEMPLATE, encoding="utf-8")
    for name, config_json in BASES.items():
        _write_base(out / "bases" / name, config_json)
    for name, case in cases().items():
        if only in name:
            print(f"{name}: {_write(out, name, case)}", flush=True)


def _write_base(folder: pathlib.Path, config_json: dict) -> None:
    import jax

    from ftjax.models.hf import checkpoint
    from ftjax.run import bases

    family = checkpoint.family_of(config_json["model_type"])
    config = family.from_hf(config_json)
    weights = family.make(config).init(jax.random.key(0))
    checkpoint.save(folder, weights, family=family, config=config, extra={"eos_token_id": ENDS})
    for path in bases.locate(bases.TINY).glob("tokenizer*.json"):
        (folder / path.name).write_bytes(path.read_bytes())


def _write(out: pathlib.Path, name: str, case: Case) -> str:
    """Write one export as a run does, and what we expect of it; returns its form."""
    from ftjax.adapters.peft import ln_tuning
    from ftjax.run import build as setup
    from ftjax.run import export as exporting

    parts = setup.build(_settings(out, case))
    params = _moved(parts, setup.weights(parts))
    folder = out / "exports" / name
    if case.form == "norms":
        own = dict(linears=parts.model.linears, names=parts.family.NAMES, base_model=case.base)
        ln_tuning.save(folder, params["model"], where="**norm", **own)
        form = "adapter"
    else:
        options = dict(form=case.form, max_shard_gb=case.shard_gb)
        form = exporting.write(parts, params, folder, **options)
    known = dict(case._asdict(), form=form, export=str(folder.relative_to(out)))
    _expect(out / "expected" / name, parts, params, known)
    return form


def _settings(out: pathlib.Path, case: Case):
    from configs import common
    from ftjax.run import config as settings

    c = common.base()
    c.model.base = str(out / "bases" / case.base)
    c.adapter = case.adapter
    c.trainable, c.objective.name = case.trainable, case.objective
    c.data.chat_template = str(out / "trained.jinja")
    c.optim.learning_rate, c.steps = 1e-3, 1
    return settings.read(c)


def _moved(parts, params):
    """Move what trains, as after training, and nothing that is data."""
    import jax

    from ftjax.core import tree
    from ftjax.train import state as states

    wave = lambda x: x + (0.1 * np.cos(np.arange(x.size).reshape(x.shape))).astype(x.dtype)
    trainable, frozen = states.split(params, parts.patterns)
    return tree.combine(jax.tree.map(wave, trainable), frozen)


def _expect(path: pathlib.Path, parts, params, known: dict) -> None:
    """Save logits (or scores), greedy answers and the prompt of a chat."""
    import jax

    from ftjax.run import prompting
    from ftjax.sampling import text

    positions = np.broadcast_to(np.arange(TOKENS.shape[1], dtype=np.int32), TOKENS.shape)
    given = dict(positions_BT=positions, segments_BT=np.ones_like(TOKENS))

    def numbers(params):
        own = dict(adapters=params["adapters"])
        x = parts.model.hidden(params["model"], TOKENS, **given, **own)
        if parts.heads:
            return x[:, -1] @ params["head"][parts.heads[0]]
        return parts.model.logits(params["model"], x, **own)

    data = parts.settings.data
    sample = text.make_sampler(
        parts.model, parts.tokenizer, batch_size=len(PROMPTS), max_new_tokens=NEW_TOKENS,
        stop_ids=prompting.stop_ids(parts.tokenizer, data), temperature=0.0,
    )  # fmt: skip
    answers = [each._asdict() for each in sample(params, PROMPTS)]
    chat = prompting.template_of(parts.tokenizer, data).render(CHAT, add_generation_prompt=True)
    np.save(path.with_suffix(".npy"), np.asarray(jax.jit(numbers)(params)))
    whole = known | {"answers": answers, "chat": chat, "heads": list(parts.heads)}
    path.with_suffix(".json").write_text(json.dumps(whole), encoding="utf-8")


# -- the second stage: with PEFT and transformers --------------------------------------------------


class Result(NamedTuple):
    """What one export came to in the other libraries."""

    name: str
    reader: str
    apart: float
    tokens: str = ""
    stops: str = ""
    template: str = ""
    error: str = ""

    @property
    def is_right(self) -> bool:
        """Return whether nothing differs."""
        words = (self.tokens, self.stops, self.template)
        return self.apart < TOLERANCE and not self.error and "differ" not in words


def check(out: pathlib.Path) -> list[Result]:
    """Open every export and compare it with what is expected."""
    results = []
    for path in sorted((out / "expected").glob("*.json")):
        known = json.loads(path.read_text(encoding="utf-8"))
        reader = "PEFT" if known["form"] == "adapter" else "transformers"
        try:
            result = _compare(out, path, known, reader)
        except FAILURES as error:
            first = f"{type(error).__name__}: {error}".splitlines()[0]
            result = Result(path.stem, reader, np.inf, error=first)
        results.append(result)
        print("ok " if result.is_right else "BAD", *result, flush=True)
    return results


def _compare(out: pathlib.Path, path: pathlib.Path, known: dict, reader: str) -> Result:
    import torch

    folder, wanted = out / known["export"], np.load(path.with_suffix(".npy"))
    model = _read(out, folder, known).eval()
    with torch.no_grad():
        got = model(torch.tensor(TOKENS, dtype=torch.long)).logits.numpy()
    if known["heads"]:
        return Result(path.stem, reader, float(np.abs(got[:, 0] - wanted).max()))
    apart = float(np.abs(got[:, -wanted.shape[1] :] - wanted).max())  # virtual tokens come first
    result = Result(path.stem, reader, apart)
    if not (folder / "generation_config.json").is_file():  # norms alone: no run wrote them
        return result
    return result._replace(**_compare_text(model, folder, known))


def _read(out: pathlib.Path, folder: pathlib.Path, known: dict):
    """Open a model, or a base with an adapter; as a classifier where there is a head."""
    import peft
    import torch
    import transformers
    from safetensors.torch import load_file

    options = dict(dtype=torch.float32, attn_implementation="eager")
    kind = transformers.AutoModelForCausalLM
    if known["heads"]:
        kind = transformers.AutoModelForSequenceClassification
        options |= dict(num_labels=1, pad_token_id=0)
    adapter = known["form"] == "adapter"
    model = kind.from_pretrained(out / "bases" / known["base"] if adapter else folder, **options)
    for head in () if adapter else known["heads"]:  # an adapter brings its own
        model.load_state_dict(load_file(folder / f"{head}_head.safetensors"), strict=False)
    return peft.PeftModel.from_pretrained(model, folder) if adapter else model


def _continue(model, inputs: dict, settings) -> list[int]:
    """Continue a prompt greedily; returns its tokens and the new ones."""
    import torch

    learned = getattr(model, "active_peft_config", None)
    with torch.no_grad():
        if learned is None or not learned.is_prompt_learning:
            return model.generate(**inputs, generation_config=settings)[0].tolist()
        # PEFT 0.21 with the caches of transformers 5.24 forgets virtual tokens after the first
        # step, so that `generate` gives other tokens than the very same model without a cache.
        tokens = inputs["input_ids"]
        for _ in range(settings.max_new_tokens):
            new = model(tokens).logits[:, -1:].argmax(-1)
            tokens = torch.cat([tokens, new], dim=1)
            if new.item() in settings.eos_token_id:
                break
    return tokens[0].tolist()


def _compare_text(model, folder: pathlib.Path, known: dict) -> dict[str, str]:
    """Continue the prompts as the export says: same tokens, same end, same prompt of a chat."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    settings = transformers.GenerationConfig.from_pretrained(folder)
    settings.update(do_sample=False, max_new_tokens=NEW_TOKENS)
    same = dict(tokens=True, stops=True)
    for prompt, wanted in zip(PROMPTS, known["answers"], strict=True):
        given = tokenizer(prompt, return_tensors="pt")
        inputs = dict(input_ids=given["input_ids"], attention_mask=given["attention_mask"])
        every = _continue(model, inputs, settings)
        got = every[len(wanted["prompt"]) :]
        ends = {*np.atleast_1d(settings.eos_token_id).tolist()}
        same["tokens"] &= every[: len(wanted["prompt"])] == wanted["prompt"]
        same["tokens"] &= all(a == b for a, b in zip(got, wanted["tokens"], strict=False))
        same["stops"] &= len(got) == len(wanted["tokens"])
        same["stops"] &= (got[-1] in ends) == wanted["finished"]
        own = tokenizer.decode([token for token in got if token not in ends])
        same["tokens"] &= own == wanted["text"]
    chat = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    same["template"] = chat == known["chat"]
    return {name: "same" if is_same else "differ" for name, is_same in same.items()}


def table(results: list[Result]) -> str:
    """Write the results in Markdown, with the versions that gave them."""
    import peft
    import torch
    import transformers

    lines = [
        f"transformers {transformers.__version__}, peft {peft.__version__}, "
        f"torch {torch.__version__}; float32 on a CPU; logits within {TOLERANCE:g}.",
        "",
        "| export | reader | largest difference | greedy tokens | where it stops | chat prompt |",
        "|---|---|---:|---|---|---|",
    ]
    for own in results:
        difference = own.error or f"{own.apart:.1e}"
        mark = "" if own.is_right else "**differs** "
        cells = [own.name, own.reader, mark + difference, own.tokens, own.stops, own.template]
        lines.append(f"| {' | '.join(cell or '-' for cell in cells)} |")
    return "\n".join(lines)


def put(page: pathlib.Path, text: str) -> None:
    """Put a text between the marks of a page."""
    whole = page.read_text(encoding="utf-8")
    before, _, rest = whole.partition(MARKS[0])
    _, found, after = rest.partition(MARKS[1])
    if not found:
        raise ValueError(f"{page}: got no {' ... '.join(MARKS)}; expected both; add them")
    inner = f"{MARKS[0]}\n{text}\n{MARKS[1]}"
    page.write_text(before + inner + after, encoding="utf-8")


def main() -> int:
    """Run the stage that the flags name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    stage = parser.add_mutually_exclusive_group(required=True)
    stage.add_argument("--make", type=pathlib.Path, help="a new directory")
    stage.add_argument("--check", type=pathlib.Path, help="the directory that --make wrote")
    parser.add_argument("--out", type=pathlib.Path, help="a page with marks for the table")
    parser.add_argument("--only", default="", help="with --make: names that contain this")
    flags = parser.parse_args()
    if flags.make:
        make(flags.make.absolute(), only=flags.only)
        return 0
    results = check(flags.check)
    if flags.out:
        put(flags.out, table(results))
    return int(not results or not all(each.is_right for each in results))


if __name__ == "__main__":
    sys.exit(main())
