"""Change what a user brings at random, and read it as a run does: no traceback, no nonsense.

    python -m scripts.fuzz_files
    python -m scripts.fuzz_files --only model,adapter --seed 3 --show read

Rows and files of data are those of `scripts.fuzz_rows`; here are configs, the JSON of models,
tokenizers and adapters, headers of safetensors, and files of prompts. Prints a table: how often
each was read, how often refused in one line, how often it ended in a traceback (CRASH), was taken
although no run could mean it (NONSENSE), or took longer than anybody waits (SLOW).
"""

import argparse
import copy
import dataclasses
import functools
import json
import math
import pathlib
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import ftjax
from configs import sft
from ftjax.adapters import lora
from ftjax.adapters.lib import protocol
from ftjax.adapters.peft import io as peft
from ftjax.core import config as conf
from ftjax.core import errors, tree
from ftjax.data import stops, tokenizer_files
from ftjax.models.families import llama
from ftjax.models.hf import checkpoint, model_types
from ftjax.run import bases, keys, plan, prompting
from ftjax.run import config as settings
from scripts import fuzz_headers, fuzz_rows

TINY = pathlib.Path(ftjax.__file__).parent / "assets" / "tiny"
LONGEST_S = 20
VALUES = (
    None, True, False, 0, 1, -1, 3, 2**31, 10**30, 0.5, -0.5, 1e300, float("nan"), float("inf"), "",
    " ", "x", "8", "nan", "\ud83d", [], {}, [[]], [None], {"a": {}}, ["x", 3], [0] * 3,
)  # fmt: skip
OUTCOMES = ("read", "refused", "CRASH", "NONSENSE", "SLOW")
# What a text goes through once a tokenizer is read; it holds a special token of the embedded one.
PROBE = "Hello <|im_end|> wörld 🎉\n"


class Nonsense(Exception):
    """Something was read that no run could mean."""


class Slow(Exception):
    """Something took longer than LONGEST_S."""


class Bench(NamedTuple):
    """What is changed: a small base with its tokenizer, an adapter over it, a config."""

    folder: pathlib.Path
    base: pathlib.Path
    adapter: pathlib.Path
    model: Any
    tokenizer: Any
    config: Any


def bench(folder: pathlib.Path) -> Bench:
    """Write the base, its adapter and rows into `folder`."""
    config = dataclasses.replace(llama.from_hf(llama.EXAMPLE), vocab_size=2048, layers=1)
    model = llama.make(config)
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), model.abstract)
    checkpoint.save(folder / "base", ones, family=llama, config=config)
    for file in TINY.glob("tokenizer*.json"):
        shutil.copy(file, folder / "base")
    start = lora.make(rank=2, alpha=4.0)
    where = ("blocks/attn/q", "blocks/mlp/up")
    adapters = protocol.init(start, jax.random.key(0), model.linears, ones, where=where)
    given = dict(linears=model.linears, names=llama.NAMES, base_model="org/base", hyper={})
    peft.save(folder / "adapter", adapters, **given)
    tokenizer = tokenizer_files.load(folder / "base")
    plain = sft.get_config(f"base={folder / 'base'},rank=2")
    plain.data.max_tokens = 48
    return Bench(folder, folder / "base", folder / "adapter", model, tokenizer, plain)


# -- changes ---------------------------------------------------------------------------------------


def mutate(rng: random.Random, value: Any, *, deepest: int = 9) -> tuple[Any, str, Any]:
    """Return JSON with one thing changed, the name of the change, and the path that it is at."""
    value = copy.deepcopy(value)
    paths = [path for path in fuzz_rows.places(value) if 0 < len(path) <= deepest]
    path = rng.choice(paths)
    inner = functools.reduce(lambda node, key: node[key], path[:-1], value)
    change = rng.choice(["value", "value", "drop", "rename", "wrap", "add", "text"])
    if change == "drop":
        del inner[path[-1]]
    elif change == "rename" and isinstance(inner, dict):
        inner[typo(rng, path[-1])] = inner.pop(path[-1])
    elif change == "wrap":
        inner[path[-1]] = rng.choice([[inner[path[-1]]], {"value": inner[path[-1]]}])
    elif change == "add" and isinstance(inner, dict):
        inner[typo(rng, path[-1])] = copy.deepcopy(rng.choice(VALUES))
    elif change == "text":
        inner[path[-1]] = json.dumps(inner[path[-1]])
    else:
        inner[path[-1]], change = copy.deepcopy(rng.choice(VALUES)), "value"
    return value, change, path


def typo(rng: random.Random, key: str) -> str:
    """Return a key that is nearly another one."""
    at = rng.randrange(max(len(key), 1))
    return rng.choice([key[:at] + key[at + 1 :], key[:at] + "x" + key[at:], key.upper(), ""])


def spoil(rng: random.Random, file: pathlib.Path, *, deepest: int = 9) -> str:
    """Change one thing in a file of JSON: a value of it, or its bytes; returns what and where."""
    if rng.random() < 0.15:
        content, change = fuzz_rows.mutate_file(rng, file.read_bytes())
        file.write_bytes(content)
        return change
    value, change, path = mutate(rng, json.loads(file.read_bytes()), deepest=deepest)
    file.write_bytes(fuzz_rows.dumped([value]))
    return f"{change}: {'.'.join(map(str, path))} {_shown(value, path)}"


def _shown(value: Any, path: tuple) -> str:
    for key in path:
        if not isinstance(value, list) and not (isinstance(value, dict) and key in value):
            return "(gone)"
        value = value[key] if isinstance(value, dict) or key < len(value) else "(gone)"
    return repr(value)[:60]


def fresh(rng: random.Random, source: pathlib.Path, name: str, *, deepest: int = 9):
    """Copy a folder and spoil one of its files; returns (the copy, what was done)."""
    target = source.parent / "spoilt"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target, f"{name} {spoil(rng, target / name, deepest=deepest)}"


# -- what is changed, and what must hold of what was read ------------------------------------------


def check(what: str, *, fault: bool) -> None:
    """Raise Nonsense where something is wrong."""
    if fault:
        raise Nonsense(what)


def is_finite(value: Any) -> bool:
    """Return whether all numbers inside of a value are finite."""
    if isinstance(value, dict | list | tuple):
        return all(map(is_finite, value.values() if isinstance(value, dict) else value))
    if dataclasses.is_dataclass(value):
        return is_finite(vars(value))
    return not isinstance(value, float) or math.isfinite(value)


def a_config(rng: random.Random, b: Bench) -> str:
    """A key of a config: set on the command line, or by a config file."""
    config = copy.deepcopy(b.config)
    paths = [path for path in fuzz_rows.places(conf.to_dict(config)) if path and path[0] != "data"]
    path, value = list(rng.choice(paths)), copy.deepcopy(rng.choice(VALUES))
    if rng.random() < 0.3:
        path[-1] = typo(rng, str(path[-1]))
    path = list(map(str, path))
    yield f"{'.'.join(path)}={value!r:.60}"
    if rng.random() < 0.5:
        config = keys.apply(config, [f"{'.'.join(path)}={value}"])
    else:
        conf.put(config, path, value)
    read = plan.plan(settings.read(config))
    check("a number that is none", fault=not is_finite(read.settings.plain))
    check("no steps", fault=read.length.total < 1)


def a_model(rng: random.Random, b: Bench):
    """The config.json of a model, with the weights that it had."""
    folder, change = fresh(rng, b.base, checkpoint.CONFIG)
    name = rng.choice(model_types.families()) if rng.random() < 0.5 else "llama"
    if name != "llama":  # without weights: sizes alone
        example = model_types.family_of(name).EXAMPLE | {"model_type": name}
        (folder / checkpoint.CONFIG).write_text(json.dumps(example))
        yield f"{name} {spoil(rng, folder / checkpoint.CONFIG)}"
        family, config = checkpoint.config_of(folder)
        check("a number that is none", fault=not is_finite(config))
        tree.size_of(family.make(config).abstract)
        return
    yield change
    spec = dataclasses.replace(settings.Model(), base=str(folder))
    family, model, source = bases.read(spec)
    check("a number that is none", fault=not is_finite(model.config))
    tokenizer_files.load(folder)
    found = checkpoint.load(source, model, names=family.NAMES)
    same = jax.tree.map(np.shape, found) == jax.tree.map(np.shape, model.abstract)
    check("weights of other shapes", fault=not same)
    sizes = [value for value in vars(model.config).values() if type(value) is int]
    check("a size that is none", fault=min(sizes) < 1)


def a_tokenizer(rng: random.Random, b: Bench):
    """The files of a tokenizer."""
    name, deepest = rng.choice([("tokenizer.json", 4), ("tokenizer_config.json", 9)])
    folder, change = fresh(rng, b.base, name, deepest=deepest)
    yield change
    tokenizer = tokenizer_files.load(folder)
    ids = tokenizer.encode(PROBE)
    check("ids beyond the vocabulary", fault=max(ids) >= tokenizer.vocab_size)
    tokenizer.decode(ids)
    template = prompting.find_template(tokenizer, None)
    if template is not None:
        template.opening([{"role": "user", "content": "Hi"}])
    ends = stops.ids(tokenizer, template)
    check("ends that are no tokens", fault=any(type(i) is not int or i < 0 for i in ends))


def an_adapter(rng: random.Random, b: Bench):
    """The adapter_config.json of an adapter, with the weights that it had."""
    folder, change = fresh(rng, b.adapter, peft.CONFIG)
    yield change
    found = peft.load(folder, linears=b.model.linears, names=llama.NAMES)
    finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    check("numbers that are none", fault=not finite)
    scales = [float(np.min(site.scale)) for site in protocol.sites(found).values()]
    check(f"scales of {scales}", fault=min(scales) <= 0)


def a_header(rng: random.Random, b: Bench):
    """The header of a model's weights, or the bytes around it."""
    folder = b.folder / "header"
    if not folder.exists():
        shutil.copytree(b.base, folder)
    data = (b.base / checkpoint.WEIGHTS).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    draw = np.random.default_rng(rng.randrange(2**32))
    way = rng.choice(fuzz_headers.HEADERS)
    size, header, body = way(draw, data[8 : 8 + size], data[8 + size :])
    yield way.__name__
    (folder / checkpoint.WEIGHTS).write_bytes(struct.pack("<Q", size) + header + body)
    found = checkpoint.load(folder, b.model, names=llama.NAMES)
    same = jax.tree.map(np.shape, found) == jax.tree.map(np.shape, b.model.abstract)
    check("weights of other shapes", fault=not same)


PROMPTS = (
    {"prompt": "The sky is", "adapter": "law"},
    {"messages": [{"role": "user", "content": "Hi"}], "system": "be kind"},
    {"prompt": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
    {"conversations": [{"from": "human", "value": "Hi"}]},
)


def a_prompt(rng: random.Random, b: Bench):
    """A file of prompts, and what becomes of one."""
    row, change = fuzz_rows.mutate_row(rng, rng.choice(PROMPTS))
    content, path = fuzz_rows.dumped([row, *PROMPTS[:1]]), b.folder / "prompts.jsonl"
    if rng.random() < 0.4:
        content, change = fuzz_rows.mutate_file(rng, fuzz_rows.dumped(PROMPTS))
    yield change
    path.write_bytes(content)
    template = prompting.find_template(b.tokenizer, None)
    encode = prompting.make_encode(b.tokenizer, template=template)
    for asked in prompting.read_prompts(path):
        ids = encode(asked.prompt)
        check("ids beyond the vocabulary", fault=max(ids, default=0) >= b.tokenizer.vocab_size)


TARGETS = {
    "config": (500, a_config), "model": (250, a_model), "tokenizer": (250, a_tokenizer),
    "adapter": (250, an_adapter), "header": (263, a_header), "prompts": (250, a_prompt),
}  # fmt: skip


# -- the table -------------------------------------------------------------------------------------


def attempt(make: Callable, rng: random.Random, b: Bench) -> tuple[str, str, str]:
    """Make one change and read it; returns (the change, one of OUTCOMES, why)."""
    change, steps = "(nothing)", make(rng, b)
    signal.alarm(LONGEST_S)
    try:
        change = next(steps)
        next(steps, None)
        return change, "read", ""
    except Nonsense as found:
        return change, "NONSENSE", str(found)
    except Slow:
        return change, "SLOW", f"longer than {LONGEST_S} s"
    except fuzz_rows.CRASHES as error:
        ours = isinstance(error, errors.MESSAGES) and errors.is_message(error)
        is_line = ours and "\n" not in str(error)
        return change, "refused" if is_line else "CRASH", f"{type(error).__name__}: {error}"[:300]
    finally:
        signal.alarm(0)


def run(
    counts: dict[str, int], seed: int, *, tell: Callable[..., None] = lambda *found: None
) -> dict[str, Counter]:
    """Return, by what was changed, how often each outcome came of it; `tell` hears of each."""
    signal.signal(signal.SIGALRM, _stop)
    table = defaultdict(Counter)
    with tempfile.TemporaryDirectory() as folder:
        b = bench(pathlib.Path(folder))
        for kind, count in counts.items():
            for n in range(count):
                rng = random.Random(f"{seed} {kind} {n}")
                change, outcome, why = attempt(TARGETS[kind][1], rng, b)
                table[kind][outcome] += 1
                tell(kind, n, change, outcome, why)
    return dict(table)


def _stop(number, frame):
    raise Slow


def main() -> int:
    """Print the table; returns 1 when something crashed, was nonsense or slow."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(["row", *TARGETS]), help="a,b: some of them")
    parser.add_argument("--count", type=int, default=0, help="of each, in place of the usual ones")
    parser.add_argument("--show", default="", help="print these too, of read,refused")
    options = parser.parse_args()

    def tell(kind, n, change, outcome, why) -> None:
        if outcome not in ("read", "refused") or outcome in options.show.split(","):
            print(f"{outcome} {kind} {n}: {change}: {why}", flush=True)

    chosen, start = options.only.split(","), time.perf_counter()
    counts = {kind: options.count or TARGETS[kind][0] for kind in chosen if kind != "row"}
    table = run(counts, options.seed, tell=tell)
    if "row" in chosen:
        rows = fuzz_rows.run(options.count or fuzz_rows.COUNT, options.seed)
        table = {"row": sum(rows.values(), Counter())} | table
    print(f"{'':10} {'made':>6}" + "".join(f"{outcome:>10}" for outcome in OUTCOMES))
    for kind, found in table.items():
        cells = "".join(f"{found[outcome]:10}" for outcome in OUTCOMES)
        print(f"{kind:10} {sum(found.values()):6}{cells}")
    print(f"{time.perf_counter() - start:.0f} s")
    total = sum(table.values(), Counter())
    return 1 if total["CRASH"] + total["NONSENSE"] + total["SLOW"] else 0


if __name__ == "__main__":
    sys.exit(main())
