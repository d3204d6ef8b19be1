"""Mutate rows and files at random and read them as a run does; no mutation may end in a traceback.

    python scripts/fuzz_rows.py --count 6000 --seed 0

Prints a table: what was mutated, how often it was read, and how often refused in one line.
"""

import argparse
import copy
import json
import pathlib
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict

import numpy as np

import ftjax
from ftjax.data import prepare, tokenizer_files

COUNT = 6_000
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
SEEDS = {
    "prompt": [
        {"prompt": "a:", "response": "b", "id": 1},
        {"prompt": [{"role": "user", "content": "Hi"}], "response": "Yo"},
        {"instruction": "Add", "input": "1", "output": "2"},
    ],
    "chat": [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]},
        {
            "tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                {"role": "assistant", "content": None, "tool_calls": [CALL], "weight": 1},
                {"role": "tool", "content": "blue"},
                {"role": "assistant", "content": "Blue", "reasoning_content": "so"},
            ],
        },
    ],
    "text": [{"text": "a b c"}],
    "preference": [{"prompt": "a:", "chosen": "b", "rejected": "c"}],
}
VALUES = [
    None, True, 0, -1, 1.5, float("nan"), float("inf"), "", " ", "\ud83d", "\ufdd0", "\U00100003",
    "<|im_end|>", "[", "{}", '[{"role": "user"}]', "x" * 5_000, [], {}, [[]], [None], {"a": {}},
    10**4200,
]  # fmt: skip
KEYS = [
    "role",
    "content",
    "weight",
    "train",
    "tools",
    "system",
    "from",
    "value",
    "text",
    "",
    "\ud83d",
]
# What a fault of ours would raise.
CRASHES = (
    TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError, OSError,
    AssertionError, MemoryError,
)  # fmt: skip
TEMPLATE = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}<|im_start|>"
    "{{ m.role + ':' + m.content }}{{ m.reasoning_content or '' }}{% for c in m.tool_calls or [] %}"
    "{{ c | tojson }}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
)


def places(value, path=()):
    """Yield the path of every value inside of a row."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, each in items:
        yield from places(each, (*path, key))


def mutate_row(rng: random.Random, row):
    """Return a row with one thing changed, and the name of the change."""
    row = copy.deepcopy(row)
    *before, last = rng.choice([path for path in places(row) if path])
    inner = row
    for key in before:
        inner = inner[key]
    change = rng.choice(["value", "drop", "rename", "wrap", "add", "text", "deep"])
    if change == "drop":
        del inner[last]
    elif change == "rename" and isinstance(inner, dict):
        inner[rng.choice(KEYS)] = inner.pop(last)
    elif change == "wrap":
        inner[last] = rng.choice([[inner[last]], {"value": inner[last]}])
    elif change == "add" and isinstance(inner, dict):
        inner[rng.choice(KEYS)] = copy.deepcopy(rng.choice(VALUES))
    elif change == "text":
        inner[last] = json.dumps(inner[last])
    elif change == "deep":
        for _ in range(rng.choice([50, 300, 2_000])):
            inner[last] = [inner[last]]
    else:
        inner[last], change = copy.deepcopy(rng.choice(VALUES)), "value"
    return row, f"row: {change}"


def mutate_file(rng: random.Random, content: bytes):
    """Return the bytes of a file with one thing changed, and the name of the change."""
    at = rng.randrange(len(content))
    changes = {
        "cut": lambda: content[:at],
        "byte": lambda: content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :],
        "insert": lambda: content[:at] + rng.randbytes(rng.randrange(1, 5)) + content[at:],
        "utf-16": lambda: content.decode("utf-8", "replace").encode("utf-16"),
        "carriage returns": lambda: content.replace(b"\n", b"\r"),
        "array": lambda: b"[" + b",".join(content.splitlines()) + b"]",
        "one line": lambda: content.replace(b"\n", b" "),
        "NUL": lambda: content[:at] + b"\0" * 8 + content[at:],
        "random": lambda: rng.randbytes(64),
    }
    name = rng.choice(sorted(changes))
    return changes[name](), f"file: {name}"


def attempt(rng: random.Random, tokens, folder: pathlib.Path) -> tuple[str, str]:
    """Read one mutation; returns (name of the change, "read" or "refused").

    Raises whatever is no message of ours.
    """
    kind = rng.choice(sorted(SEEDS))
    row, change = mutate_row(rng, rng.choice(SEEDS[kind]))
    content = dumped([row, *SEEDS[kind][:1]])
    if rng.random() < 0.4:
        content, change = mutate_file(rng, dumped(SEEDS[kind]))
    path = folder / "rows.jsonl"
    path.write_bytes(content)
    options = {"turns": rng.choice(["all", "last", "each"]), "special": rng.random() < 0.5}
    try:
        data = prepare.load(
            name="jsonl", path=str(path), kind=kind, tokenizer=tokens, max_tokens=64,
            chat_template=TEMPLATE, on_bad_row=rng.choice(["error", "skip"]), **options,
        )  # fmt: skip
    except ValueError as error:
        if "\n" in str(error) or not str(error).startswith((str(path), "data")):
            raise
        return change, "refused"
    check(data.store, tokens)
    return change, "read"


def check(store, tokens) -> None:
    """Assert what must hold of all that was read: tokens that there are, and something to learn."""
    for i in range(len(store)):
        answers = getattr(store[i], "answers", None) or [store[i]]
        for ids, weights in (each for each in answers if len(each.tokens)):  # the rest fills up
            assert 0 <= ids.min() <= ids.max() < tokens.vocab_size
            assert np.isfinite(weights).all()
            assert weights.min() >= 0
            assert weights[1:].any(), "nothing to learn"


def dumped(rows) -> bytes:
    """Return JSON lines; what JSON cannot spell is left out of no row."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    sys.setrecursionlimit(20_000)
    try:
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    finally:
        sys.set_int_max_str_digits(limit)
        sys.setrecursionlimit(1_000)


def run(count: int, seed: int, *, stop: bool = False) -> dict[str, Counter]:
    """Return change -> how often each of "read", "refused" and "CRASH" came of it."""
    tokens = tokenizer_files.load(pathlib.Path(ftjax.__file__).parent / "assets" / "tiny")
    table = defaultdict(Counter)
    with tempfile.TemporaryDirectory() as folder:
        for n in range(count):
            rng = random.Random(f"{seed} {n}")
            try:
                change, how = attempt(rng, tokens, pathlib.Path(folder))
            except CRASHES as error:
                if stop:
                    raise
                change, how = f"number {n}: {type(error).__name__}: {str(error)[:80]!r}", "CRASH"
            table[change][how] += 1
    return dict(table)


def main() -> int:
    """Print the table; returns 1 when something crashed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start, table = time.perf_counter(), run(options.count, options.seed)
    print(f"{'change':32} {'read':>6} {'refused':>8} {'CRASH':>6}")
    for change, found in sorted(table.items()):
        print(f"{change:32} {found['read']:6} {found['refused']:8} {found['CRASH']:6}")
    total = sum(table.values(), Counter())
    print(f"{sum(total.values())} mutations in {time.perf_counter() - start:.0f} s: {dict(total)}")
    return 1 if total["CRASH"] else 0


if __name__ == "__main__":
    sys.exit(main())
