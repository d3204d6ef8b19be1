r"""Speed of generation: tokens a second at several batch sizes, against what the machine could do.

    python -m scripts.bench_generate                       # the embedded base, batch 1, 16, 64
    python -m scripts.bench_generate --base DIR --batch 1 16 --new 128 --cache int8
    python -m scripts.bench_generate --base llama3.1-8b --dtype bfloat16   # a preset: drawn

Two bounds of decoding. A token of every row reads all weights once, and the keys and values of all
rows: bytes / bandwidth seconds. And it multiplies 2 * weights * batch: FLOPs / speed seconds.
Bandwidth and speed are measured here, by reading a large array and by a large matmul. `first` is
the time to the first token: the prompts are read and one token is drawn; `decoded_per_s` leaves it
out, and `of_bound` is its share of the lower bound. A second run with prompts of other lengths must
compile nothing. JSON lines come out.
"""

import argparse
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

import ftjax
from ftjax.core import tree
from ftjax.models.hf import checkpoint, presets
from ftjax.ops import products
from ftjax.sampling import generation
from ftjax.train import compile as compiling

TINY = pathlib.Path(ftjax.__file__).parent / "assets" / "tiny"


def seconds(call, *, repeats: int) -> float:
    """Return the shortest time of a call that has been made once."""
    jax.block_until_ready(call())
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        found.append(time.perf_counter() - start)
    return min(found)


def machine(repeats: int, dtype) -> tuple[float, float]:
    """Measure bytes a second of a sum, and FLOPs a second of a matmul in a type."""
    # A GPU reads the array of a CPU's measurement in the time of a launch.
    times, side = (1, 1024) if jax.default_backend() == "cpu" else (32, 8192)
    long = jnp.ones(times * 32 * 2**20, jnp.float32)
    square = jax.random.normal(jax.random.key(0), (side, side), dtype)
    total, product = jax.jit(jnp.sum), jax.jit(products.matmul)
    bandwidth = long.nbytes / seconds(lambda: total(long), repeats=repeats)
    return bandwidth, 2 * side**3 / seconds(lambda: product(square, square), repeats=repeats)


def read(base: str, dtype: str = "float32"):
    """Return the model of a directory or a preset, and its weights; a preset's are drawn."""
    family, config = checkpoint.config_of(base)
    model = family.make(config, dtype=jnp.dtype(dtype))
    if base in presets.PRESETS:
        draw = lambda key: jax.tree.map(lambda w: w.astype(dtype), model.init(key))
        return model, {"model": jax.jit(draw)(jax.random.key(0))}
    return model, {"model": checkpoint.load(base, model, names=family.NAMES, dtype=dtype)}


def call(*, batch: int, new: int = 64, prompt: int = 64):
    """Return a function that generates once with the embedded base."""
    model, params = read(str(TINY))
    rng, key = np.random.default_rng(0), jax.random.key(0)
    prompts = rng.integers(3, model.config.vocab_size, (batch, prompt)).astype(np.int32)
    run = generation.make(model, max_new_tokens=new, temperature=1.0, cache_dtype=None)
    return lambda: run(params, prompts, np.full(batch, prompt, np.int32), key)


def measure(model, params, *, batch: int, args) -> dict:
    """Time one batch size."""
    key, rng = jax.random.key(0), np.random.default_rng(0)
    most = model.max_length() - args.new
    length = min(args.prompt, most)
    prompts = rng.integers(3, model.config.vocab_size, (batch, length)).astype(np.int32)
    lengths = np.full(batch, length, np.int32)
    options = dict(temperature=1.0, cache_dtype=args.cache or None)
    many = generation.make(model, max_new_tokens=args.new, **options)
    one = generation.make(model, max_new_tokens=1, **options)
    first = seconds(lambda: one(params, prompts, lengths, key), repeats=args.repeats)
    whole = seconds(lambda: many(params, prompts, lengths, key), repeats=args.repeats)
    before = compiling.programs()
    shorter = rng.integers(length // 2 + 1, length + 1, batch).astype(np.int32)
    jax.block_until_ready(many(params, prompts[:, : shorter.max()], shorter, key))
    return {
        "batch": batch, "new_tokens": args.new, "prompt_tokens": length,
        "first_token_ms": 1e3 * first, "tokens_per_s": batch * args.new / whole,
        "decoded_per_s": batch * (args.new - 1) / (whole - first),
        "compiled_again": compiling.programs() - before,
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default=str(TINY), help="directory of a model, or a preset")
    parser.add_argument("--dtype", default="float32", help="of weights and products")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens to generate")
    parser.add_argument("--cache", default="", help="type of keys and values, such as int8")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    model, params = read(args.base, args.dtype)
    count, size = tree.size_of(params), tree.bytes_of(params)
    bandwidth, speed = machine(args.repeats, jnp.dtype(args.dtype))
    shown = {"weights": count, "gb_per_s": bandwidth / 1e9, "gflop_per_s": speed / 1e9}
    print(json.dumps(shown))
    for batch in args.batch:
        found = measure(model, params, batch=batch, args=args)
        length = found["prompt_tokens"] + args.new
        cache = model.init_cache(batch=batch, length=length, dtype=args.cache or None)
        moved = size + tree.bytes_of(cache)
        bounds = batch * bandwidth / moved, speed / (2 * count)
        found |= {"bound_by_bytes": bounds[0], "bound_by_matmuls": bounds[1]}
        found["of_bound"] = found["decoded_per_s"] / min(bounds)
        print(json.dumps({k: round(v, 3) for k, v in found.items()}), flush=True)


if __name__ == "__main__":
    main()
