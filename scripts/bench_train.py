r"""Measure training on a CPU: speed, memory and compile time of the step that a run makes.

    python -m scripts.bench_train                    LoRA and full tuning, each in a new process
    python -m scripts.bench_train --depth            compile seconds at 32 layers against 4
    python -m scripts.bench_train --import_time      seconds of `import ftjax` beyond `import jax`

The shape is a float32 llama of dim 256, 4 layers, 4 heads, ffw 1024 and 4096 tied tokens, on full
rows of 8 x 256; LoRA of rank 8 is on all seven linear maps; the optimizer is AdamW. Model,
adapters, optimizer, step and compilation are the ones of `ftjax/run/plan.py`. Prints JSON.
"""

import argparse
import functools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

MODES = ("lora", "full")
SHAPES = {
    "small": dict(dim=256, layers=4, heads=4, kv_heads=4, ffw=1024, vocab=4096, batch=8),
    "tiny": dict(dim=128, layers=6, heads=4, kv_heads=2, ffw=384, vocab=2048, batch=16),
}
SEQUENCE, RANK = 256, 8
GIB = 2**30


# -- what is measured ------------------------------------------------------------------------------


def model_of(shape: dict, **options):
    """Make the handle of a tied llama from a config.json, as loading a checkpoint does."""
    from ftjax.models.families import llama

    heads = ("num_attention_heads", "heads"), ("num_key_value_heads", "kv_heads")
    sizes = ("hidden_size", "dim"), ("num_hidden_layers", "layers"), ("intermediate_size", "ffw")
    read = {key: shape[name] for key, name in (*heads, *sizes, ("vocab_size", "vocab"))}
    config = llama.EXAMPLE | read | dict(head_dim=shape["dim"] // shape["heads"])
    config |= dict(max_position_embeddings=SEQUENCE, tie_word_embeddings=True)
    return llama.make(llama.from_hf(config), **options)


def setup(mode: str, shape: dict, **options):
    """Make the compiled step of LoRA or of full fine-tuning, its first state, the frozen arrays."""
    from ftjax.adapters import lora

    method = lora.make(rank=RANK, alpha=2.0 * RANK) if mode == "lora" else None
    step, create = training(method, shape, **options)
    return step, *create()


def training(method, shape: dict, **options):
    """Make the compiled step, and the function that makes its first state and the frozen arrays.

    `method` initialises adapters; without one it is full fine-tuning.
    """
    import jax

    from ftjax.adapters.lib import protocol
    from ftjax.core import mesh as meshes
    from ftjax.objectives import sft
    from ftjax.optim import optimizer as chain
    from ftjax.train import compile as compiling
    from ftjax.train import state as states
    from ftjax.train.step import make_step

    model, mesh = model_of(shape, **options), meshes.make()
    where = "" if isinstance(method, protocol.OfModel) else "blocks/**"
    optimizer = chain.make(
        name="adamw", learning_rate=1e-3, schedule="constant", total_steps=10_000,
        weight_decay=0.01, clip_norm=1.0,
    )  # fmt: skip

    def create(key):
        weights, inside = model.init(key), None
        if method is not None:
            own = dict(where=where, sizes=model.config.sizes)
            inside = protocol.init(method, key, model.linears, weights, **own)
        pattern = "model/**" if inside is None else "adapters/**"
        trainable, frozen = states.split({"model": weights, "adapters": inside}, pattern)
        return states.create(trainable, optimizer.tx, key=key), frozen

    key = jax.random.key(0)
    abstract, _ = jax.eval_shape(create, key)
    letters = states.axes(model, abstract.params)
    places = states.shardings(abstract, letters, optimizer.tx, mesh)
    create = functools.partial(
        jax.jit(create, out_shardings=(places, meshes.replicated(mesh))), key
    )
    step = make_step(model, sft.make(), optimizer.tx, learning_rate=optimizer.learning_rate)
    return compiling.jit(step, mesh=mesh, state=places), create


def batch_of(shape: dict):
    """Draw a batch of full rows."""
    import jax
    import numpy as np

    from ftjax.core import mesh as meshes

    rows = (shape["batch"], SEQUENCE)
    tokens = np.random.default_rng(0).integers(0, shape["vocab"], rows)
    at = np.broadcast_to(np.arange(SEQUENCE), rows)
    batch = dict(tokens=tokens, positions=at, segments=np.ones(rows))
    batch = jax.tree.map(lambda x: np.asarray(x, np.int32), batch)
    batch |= dict(weights=np.float32(at > 0))
    return meshes.put_local(batch, meshes.make(), rows=len(tokens))


def quantiles(values) -> dict[str, float]:
    """Summarise by median, p10 and p90."""
    tenths = statistics.quantiles(values, n=10)
    return dict(median=statistics.median(values), p10=tenths[0], p90=tenths[-1])


def measure(mode: str, shape: dict, *, steps: int, warmup: int, **options) -> dict:
    """Train for `steps` steps after `warmup` ones and one that compiles."""
    import jax

    step, state, frozen = setup(mode, shape, **options)
    batch, walls, cpus = batch_of(shape), [], []
    for _ in range(1 + warmup + steps):
        wall, cpu = time.perf_counter(), time.process_time()
        state, metrics = step(state, frozen, batch)
        jax.block_until_ready((state, metrics))
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    tokens, kept = shape["batch"] * SEQUENCE, slice(1 + warmup, None)
    speed = quantiles([tokens / wall for wall in walls[kept]])
    return {
        "tokens_per_second": speed["median"],
        "tokens_per_second_p10": speed["p10"],
        "tokens_per_second_p90": speed["p90"],
        "cpu_seconds_per_step": statistics.median(cpus[kept]),
        "compile_seconds": walls[0] - statistics.median(walls[kept]),
        "compilations": step.compilations(),
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB,
        "steps": steps,
        "loss": float(metrics["loss"]),
    }


def compile_seconds(shape: dict, *, layers: tuple[int, ...], repeats: int, **options) -> dict:
    """Trace and compile the step at several depths in turn; the least of some repeats counts."""
    times = {count: [] for count in layers}
    for _ in range(repeats):
        for count in layers:
            deep = shape | dict(layers=count)
            step, state, frozen = setup("lora", deep, **options)
            batch, start = batch_of(deep), time.perf_counter()
            step.lower(state, frozen, batch).compile()
            times[count].append(time.perf_counter() - start)
    least = {count: min(found) for count, found in times.items()}
    ratio = least[max(layers)] / least[min(layers)]
    return {"compile_seconds": least, "ratio": ratio}


def import_seconds(*, repeats: int = 7) -> dict[str, float]:
    """Time `import ftjax` in new processes that have imported jax."""
    code = "import time, jax; t = time.perf_counter(); import ftjax; print(time.perf_counter() - t)"
    run = lambda: subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return {
        "import_seconds_beyond_jax": statistics.median(float(run().stdout) for _ in range(repeats))
    }


# -- command ---------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """Describe the flags."""
    first, *rest = __doc__.split("\n\n")
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=first, epilog="\n\n".join(rest), formatter_class=form)
    p.add_argument("--modes", default=",".join(MODES), help="what trains: lora, full or both")
    p.add_argument("--shape", default="small", choices=SHAPES, help="tiny = the embedded base")
    p.add_argument("--steps", type=int, default=30, help="steps that count, at least 20")
    p.add_argument("--warmup", type=int, default=3, help="steps before them")
    p.add_argument("--remat", default="", help="model.remat, light if not given")
    p.add_argument("--depth", action="store_true", help="compile seconds at 32 layers against 4")
    p.add_argument("--import_time", action="store_true", help="seconds of importing ftjax")
    p.add_argument("--child", default="", help=argparse.SUPPRESS)
    return p


def in_new_process(child: str) -> dict:
    """Run this command again for one measurement: its memory and compilations are its own."""
    found = subprocess.run(
        [sys.executable, "-m", "scripts.bench_train", *sys.argv[1:], "--child", child],
        stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    return json.loads(found.stdout.splitlines()[-1])


def prepare() -> None:
    """Prepare this process as `experiments/train.py` does."""
    from ftjax.core import device

    device.reuse_memory()


def one(child: str, given: argparse.Namespace) -> dict:
    """Measure one thing in this process."""
    prepare()
    shape, options = SHAPES[given.shape], {"remat": given.remat} if given.remat else {}
    if child == "depth":
        return compile_seconds(shape, layers=(4, 32), repeats=3, **options)
    return measure(child, shape, steps=given.steps, warmup=given.warmup, **options)


def main() -> None:
    """Print the measurements as JSON."""
    given = parser().parse_args()
    if given.child:
        print(json.dumps(one(given.child, given)))
        return
    if given.import_time:
        found = import_seconds()
    elif given.depth:
        found = in_new_process("depth")
    else:
        found = {mode: in_new_process(mode) for mode in given.modes.split(",")}
    machine = dict(python=platform.python_version(), cores=os.cpu_count())
    print(json.dumps(machine | {"shape": SHAPES[given.shape]} | found, indent=2))


if __name__ == "__main__":
    main()
