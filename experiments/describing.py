"""What a run would do, without doing it: config, sizes, memory, the first example and its mask."""

import json
import math
import sys

import jax
import numpy as np

from experiments import running
from ftjax.core import files, tree

GIB = 2**30
GREEN, PLAIN = "\x1b[32m", "\x1b[0m"


def show(plan: running.Plan, *, stream=None) -> None:
    """Print all of it; compiles the step for its memory, and allocates nothing."""
    stream = stream or sys.stdout
    write = lambda text="": stream.write(text + "\n")
    write(json.dumps(files.plain(plan.settings.plain), indent=2))
    write()
    for name, value in sizes(plan).items():
        write(f"{name:24} {value}")
    write()
    for name, value in plan.loader.summary().items():
        write(f"data {name:19} {value}")
    write()
    write("first example (what is learned is marked):")
    write(first_example(plan, colour=stream.isatty()))
    write()
    for name, value in memory(plan).items():
        write(f"{name:24} {value / GIB:.3f} GiB a device")


def sizes(plan: running.Plan) -> dict[str, str]:
    """Count parameters, devices and tokens of a step."""
    parts, s = plan.parts, plan.settings
    whole, own = parts.parameters, tree.size_of(plan.state.params)
    return {
        "parameters": f"{whole:,}",
        "trainable": f"{own:,} ({own / whole:.2%})",
        "base": f"{tree.bytes_of(parts.abstract['model']):,} bytes{_saved(parts)}",
        "mesh": ", ".join(f"{axis} {size}" for axis, size in plan.parts.mesh.shape.items()),
        "tokens a step": f"{s.batch_size * s.data['max_tokens']:,}",
        "steps": f"{s.steps:,}",
        "evaluations": ", ".join(plan.evaluation.evaluators) or "none",
    }


def _saved(parts) -> str:
    if not parts.quantizers:
        return ""
    name, before = parts.settings.model.quantize["name"], tree.size_of(parts.model.abstract)
    return f", quantised to {name}; {2 * before:,} in bfloat16"


def memory(plan: running.Plan) -> dict[str, int]:
    """Estimate bytes on the fullest device: what is kept exactly, the rest from the compiler."""
    kept = {
        "weights, trainable": _local(plan.state.params),
        "weights, frozen": _local(plan.frozen),
        "optimizer": _local(plan.state.opt_state),
        "average": _local(plan.state.ema),
    }
    step = running.compiled_step(plan)
    analysis = step.lower(plan.state, plan.frozen, _batch(plan)).compile().memory_analysis()
    temporary = f"temporary on {jax.default_backend()}"
    return kept | {temporary: analysis.temp_size_in_bytes}


def _local(abstract) -> int:
    size = lambda leaf: math.prod(leaf.sharding.shard_shape(leaf.shape)) * _width(leaf)
    return sum(map(size, jax.tree.leaves(abstract)))


def _width(leaf) -> int:
    return 8 if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize


def _batch(plan: running.Plan) -> dict:
    """Shapes of a batch, without reading one."""
    shape = (plan.settings.batch_size, plan.settings.data["max_tokens"])
    kinds = dict(tokens=np.int32, weights=np.float32, segments=np.int32, positions=np.int32)
    return {name: jax.ShapeDtypeStruct(shape, kind) for name, kind in kinds.items()}


def first_example(plan: running.Plan, *, colour: bool) -> str:
    """Write the first example of the first batch, its targets green or in ⟦brackets⟧."""
    batch = plan.loader.batch(0)
    inside = batch["segments"][0] == 1
    tokens, targets = batch["tokens"][0][inside], batch["weights"][0][inside] > 0
    left, right = (GREEN, PLAIN) if colour else ("⟦", "⟧")
    text, edges = [], np.flatnonzero(np.diff(targets)) + 1
    for piece in np.split(np.arange(len(tokens)), edges):
        decoded = plan.parts.tokenizer.decode(tokens[piece].tolist())
        text.append(f"{left}{decoded}{right}" if targets[piece[0]] else decoded)
    return "".join(text)
