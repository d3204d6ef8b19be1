r"""Measure preference training on a CPU: speed, memory and compile time of a DPO step.

    python -m scripts.bench_preference                       LoRA and full tuning, each its process
    python -m scripts.bench_preference --reference cached    log-probabilities from before training

The shape is that of scripts/bench_train.py, float32: 4 pairs of 2 x 256 tokens, of which the first
64 are the prompt; LoRA of rank 8 on all linear maps; AdamW. Tokens a second count every token of
both answers once: the reference's pass over the same tokens is part of the work, not of the count.
The reference is the base with adapters off for LoRA, a frozen copy for full tuning. Prints JSON.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

from scripts import bench_train

MODES = ("lora", "full")
PAIRS, SEQUENCE, PROMPT = 4, 256, 64


def optimizer_of():
    """Make AdamW with clipping."""
    from ftjax.optim import optimizer as chain

    return chain.make(
        name="adamw", learning_rate=1e-4, schedule="constant", total_steps=10_000,
        weight_decay=0.01, clip_norm=1.0,
    )  # fmt: skip


def setup(mode: str, *, reference: str, **options):
    """Make the compiled step, its first state and the frozen arrays."""
    import jax
    import jax.numpy as jnp

    from ftjax.adapters import lora
    from ftjax.adapters.lib import protocol
    from ftjax.core import mesh as meshes
    from ftjax.objectives import dpo
    from ftjax.train import compile as compiling
    from ftjax.train import reference_policy
    from ftjax.train import state as states
    from ftjax.train.step import make_step

    model, mesh = bench_train.model_of(bench_train.SHAPES["small"], **options), meshes.make()
    optimizer = optimizer_of()
    method = lora.make(rank=bench_train.RANK, alpha=2.0 * bench_train.RANK)

    def create(key):
        weights, inside, more = model.init(key), None, {}
        if mode == "lora":
            inside = protocol.init(method, key, model.linears, weights, where="blocks/**")
        if reference == "frozen":
            more = {"reference": {"model": jax.tree.map(jnp.copy, weights), "adapters": None}}
        pattern = "model/**" if inside is None else "adapters/**"
        trainable, frozen = states.split({"model": weights, "adapters": inside} | more, pattern)
        return states.create(trainable, optimizer.tx, key=key), frozen

    key = jax.random.key(0)
    abstract, _ = jax.eval_shape(create, key)
    letters = states.axes(model, abstract.params)
    if reference == "frozen":
        letters |= {"reference": {"model": letters["model"], "adapters": None}}
    places = states.shardings(abstract, letters, optimizer.tx, mesh)
    state, frozen = jax.jit(create, out_shardings=(places, meshes.replicated(mesh)))(key)
    step = make_step(
        model, dpo.make(), optimizer.tx, learning_rate=optimizer.learning_rate,
        reference=vars(reference_policy)[reference],
    )  # fmt: skip
    return compiling.jit(step, mesh=mesh, state=places), state, frozen


def batch_of(*, reference: str):
    """Draw a batch of full rows."""
    import numpy as np

    from ftjax.core import mesh as meshes

    generator, shape = np.random.default_rng(0), (PAIRS, 2, SEQUENCE)
    tokens = generator.integers(0, bench_train.SHAPES["small"]["vocab"], shape)
    tokens[:, 1, :PROMPT] = tokens[:, 0, :PROMPT]
    at = np.broadcast_to(np.arange(SEQUENCE), shape)
    whole = dict(tokens=tokens, positions=at, segments=np.ones(shape))
    batch = {name: np.asarray(x, np.int32) for name, x in whole.items()}
    batch |= dict(weights=np.float32(at >= PROMPT), examples=np.ones((PAIRS, 1), np.float32))
    if reference == "cached":
        batch["reference"] = -9 + generator.normal(size=shape).astype(np.float32)
    return meshes.put_local(batch, meshes.make(), rows=PAIRS)


def measure(mode: str, *, reference: str, steps: int, warmup: int, **options) -> dict:
    """Train for `steps` steps after `warmup` ones and one that compiles."""
    import jax

    step, state, frozen = setup(mode, reference=reference, **options)
    batch, walls = batch_of(reference=reference), []
    for _ in range(1 + warmup + steps):
        start = time.perf_counter()
        state, metrics = step(state, frozen, batch)
        jax.block_until_ready((state, metrics))
        walls.append(time.perf_counter() - start)
    tokens = 2 * PAIRS * SEQUENCE
    speed = bench_train.quantiles([tokens / wall for wall in walls[1 + warmup :]])
    return {
        "tokens_per_second": speed["median"],
        "tokens_per_second_p10": speed["p10"],
        "tokens_per_second_p90": speed["p90"],
        "compile_seconds": walls[0] - statistics.median(walls[1 + warmup :]),
        "compilations": step.compilations(),
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30,
        "reference": reference,
        "steps": steps,
        "loss": float(metrics["loss"]),
    }


def parser() -> argparse.ArgumentParser:
    """Describe the flags."""
    first, *rest = __doc__.split("\n\n")
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=first, epilog="\n\n".join(rest), formatter_class=form)
    p.add_argument("--modes", default=",".join(MODES), help="what trains: lora, full or both")
    p.add_argument("--reference", default="", help="adapters_off, frozen or cached")
    p.add_argument("--steps", type=int, default=30, help="steps that count, at least 20")
    p.add_argument("--warmup", type=int, default=3, help="steps before them")
    p.add_argument("--remat", default="", help="model.remat, light if not given")
    p.add_argument("--child", default="", help=argparse.SUPPRESS)
    return p


def one(mode: str, given: argparse.Namespace) -> dict:
    """Measure one mode in this process."""
    bench_train.prepare()
    reference = given.reference or {"lora": "adapters_off", "full": "frozen"}[mode]
    options = {"remat": given.remat} if given.remat else {}
    return measure(mode, reference=reference, steps=given.steps, warmup=given.warmup, **options)


def main() -> None:
    """Print the measurements as JSON."""
    given = parser().parse_args()
    if given.child:
        print(json.dumps(one(given.child, given)))
        return
    found = {}
    for mode in given.modes.split(","):
        child = [sys.executable, "-m", "scripts.bench_preference", *sys.argv[1:], "--child", mode]
        lines = subprocess.run(child, stdout=subprocess.PIPE, check=True).stdout.splitlines()
        found[mode] = json.loads(lines[-1])
    machine = dict(python=platform.python_version(), cores=os.cpu_count())
    shape = dict(bench_train.SHAPES["small"], pairs=PAIRS, tokens=SEQUENCE, prompt=PROMPT)
    print(json.dumps(machine | {"shape": shape} | found, indent=2))


if __name__ == "__main__":
    main()
