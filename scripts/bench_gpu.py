r"""Measure training on an accelerator: tokens a second and MFU of LoRA and of full fine-tuning.

    python -m scripts.bench_gpu                               Llama at 1B and 8B, rows of 4096
    python -m scripts.bench_gpu --shapes 8b --modes lora --rows 4
    JAX_PLATFORMS=cpu python -m scripts.bench_gpu --tiny      the same code, small, on any machine

Steps are those of configs/sft_llama3_8b.py (bfloat16, LoRA of rank 16 on all linear maps, AdamW)
with random weights and full rows. Full fine-tuning (`full`) has bfloat16 weights and float32
moments, `full8` moments in 8 bits. Each is a process of its own; what does not fit the device is
said. MFU is of all of attention, as PaLM counts; `mfu_causal` of the half that a causal mask
leaves. `--segments 4` packs as many texts into each row. `--compile` runs no step. Prints JSON.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

CONFIG = "configs/sft_llama3_8b.py"
SHAPES = {"1b": "llama3.2-1b", "8b": "llama3.1-8b", "tiny": "tiny"}
FULL = {"adapter.name": ""}
MODES = {"lora": {}, "full": FULL, "full8": FULL | {"optim.state_dtype": "int8"}}


def settings_of(shape: str, mode: str, *, rows: int, length: int, remat: str, chunk: int):
    """Make the settings of a run; weights are drawn, and no data are read."""
    import jax

    from ftjax.core import config as conf
    from ftjax.run import config as settings_lib
    from ftjax.run import rehearse

    changes = {
        "model.base": "", "model.preset": SHAPES[shape], "model.remat": remat,
        "model.chunk": chunk, "accumulate": 1, "batch_size": rows * jax.device_count(),
        "data.max_tokens": length, **MODES[mode],
    }  # fmt: skip
    read = settings_lib.read(conf.load(CONFIG))
    return rehearse.stand_in(
        rehearse.changed(read, changes), platform=jax.default_backend()
    )[0]  # fmt: skip


def setup(settings, *, segments: int = 1):
    """Make the plan of a step, its state, its frozen arrays and a batch of full rows.

    segments: texts of a row, about as long as each other.
    """
    import jax
    import numpy as np

    from ftjax.core import mesh as meshes
    from ftjax.run import build, plan, saved_state
    from ftjax.train import state as states

    p = plan.program(settings)
    trainable, frozen = states.split(build.weights(p.parts), p.parts.patterns)
    places = saved_state.shardings_of(p.state)
    create = lambda params: saved_state.create(settings, p.optimizer.tx, params)
    first = jax.jit(create, out_shardings=places, donate_argnums=0)(trainable)
    shape = settings.batch_size, settings.data["max_tokens"]
    tokens = np.random.default_rng(0).integers(0, p.parts.model.config.vocab_size, shape)
    text = np.arange(shape[1]) * segments // shape[1]
    first_of = np.searchsorted(text, text)
    at = np.broadcast_to(np.arange(shape[1]) - first_of, shape)
    batch = dict(tokens=tokens, positions=at, segments=np.broadcast_to(text + 1, shape))
    batch = {name: np.asarray(x, np.int32) for name, x in batch.items()}
    batch |= dict(weights=np.float32(at > 0))
    return p, first, frozen, meshes.put_local(batch, p.parts.mesh, rows=shape[0])


def measure(settings, *, steps: int, warmup: int, segments: int = 1) -> dict:
    """Train for `steps` steps after `warmup` ones and one that compiles."""
    import jax

    from ftjax.core import device
    from ftjax.run import costs, hyper, plan

    p, state, frozen, batch = setup(settings, segments=segments)
    step, numbers, walls = plan.compiled_step(p), hyper.place(p), []
    for _ in range(1 + warmup + steps):
        start = time.perf_counter()
        state, metrics = step(state, numbers, frozen, batch)
        jax.block_until_ready((state, metrics))
        walls.append(time.perf_counter() - start)
    step_s = statistics.median(walls[1 + warmup :])
    tokens = batch["tokens"].size
    found = {
        "tokens_per_second_per_device": tokens / step_s / jax.device_count(),
        "step_s": step_s, "compile_s": walls[0] - step_s,
        "memory_gib": device.peak_memory_bytes() / 2**30,
    }  # fmt: skip
    cost, peak = costs.of(p), device.peak_flops()
    for name, own in (("mfu", cost.full), ("mfu_causal", cost.causal)):
        speed = found["tokens_per_second_per_device"] * own
        found[name] = speed / peak if peak else None
    return found


def compiled(settings) -> dict:
    """Compile the step alone: what it takes, and what it will take of the memory."""
    from ftjax.run import hyper, plan

    p, *arrays, batch = setup(settings)
    arguments, start = (arrays[0], hyper.place(p), arrays[1], batch), time.perf_counter()
    memory = plan.compiled_step(p).lower(*arguments).compile().memory_analysis()
    peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return {"compile_s": time.perf_counter() - start, "planned_gib": peak / 2**30}


def one(child: str, given: argparse.Namespace) -> dict:
    """Measure one shape and mode in this process."""
    import jax

    from ftjax.core import processes

    processes.start()
    shape, mode = child.split(",")
    settings = settings_of(
        shape, mode, rows=given.rows, length=given.length, remat=given.remat, chunk=given.chunk
    )
    device = dict(device=jax.devices()[0].device_kind, devices=jax.device_count())
    try:
        if given.compile:
            return device | compiled(settings)
        return device | measure(
            settings, steps=given.steps, warmup=given.warmup, segments=given.segments
        )
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return device | {"does not fit": " ".join(str(error).split())[:200]}


def parser() -> argparse.ArgumentParser:
    """Describe the flags."""
    first, *rest = __doc__.split("\n\n")
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=first, epilog="\n\n".join(rest), formatter_class=form)
    p.add_argument("--shapes", default="1b,8b", help="some of them, with commas")
    p.add_argument("--modes", default="lora,full", help=f"what trains: of {', '.join(MODES)}")
    p.add_argument("--rows", type=int, default=2, help="of a device")
    p.add_argument("--length", type=int, default=4096, help="tokens of a row")
    p.add_argument("--segments", type=int, default=1, help="texts of a row")
    p.add_argument("--steps", type=int, default=20, help="steps that count")
    p.add_argument("--warmup", type=int, default=3, help="steps before them")
    p.add_argument("--remat", default="full", help="model.remat")
    p.add_argument("--chunk", type=int, default=512, help="model.chunk")
    p.add_argument("--compile", action="store_true", help="the step alone, and do not run it")
    p.add_argument("--tiny", action="store_true", help="two rows of 64 through a tiny model")
    p.add_argument("--child", default="", help=argparse.SUPPRESS)
    return p


def main() -> None:
    """Print the measurements as JSON."""
    given = parser().parse_args()
    if given.tiny:
        given.shapes, given.length, given.steps, given.warmup = "tiny", 64, 3, 1
    if given.child:
        print(json.dumps(one(given.child, given)))
        return
    found = {}
    for shape in given.shapes.split(","):
        for mode in given.modes.split(","):
            child = [sys.executable, "-m", "scripts.bench_gpu", *sys.argv[1:]]
            child.append(f"--child={shape},{mode}")
            done = subprocess.run(child, stdout=subprocess.PIPE, check=True)
            found[f"{shape} {mode}"] = json.loads(done.stdout.splitlines()[-1])
    shown = dict(rows_per_device=given.rows, length=given.length, remat=given.remat)
    print(json.dumps(shown | found, indent=2))


if __name__ == "__main__":
    main()
