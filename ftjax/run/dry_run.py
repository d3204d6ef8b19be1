"""What a run would do, without doing it: config, sizes, memory, the first example and its mask."""

import json
import math
import sys

import jax
import numpy as np

from ftjax.core import files, tree
from ftjax.run import lengths
from ftjax.run import plan as running

# Binary, as devices' memory is; disks and networks count in 10^9.
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
    # A file or a pipe gets brackets in place of escape codes.
    write(first_example(plan, colour=stream.isatty()))
    write()
    for name, value in memory(plan).items():
        write(f"{name:24} {value / GIB:.3f} GiB a device")


def sizes(plan: running.Plan) -> dict[str, str]:
    """Count parameters, devices and tokens of a step."""
    parts, s, width = plan.parts, plan.settings, plan.loader.data.store.width
    whole, own = parts.parameters, tree.size_of(plan.state.params)
    return {
        "parameters": f"{whole:,}",
        "trainable": f"{own:,} ({own / whole:.2%})",
        "base": f"{tree.bytes_of(parts.abstract['model']):,} bytes{_saved(parts)}",
        "mesh": ", ".join(f"{axis} {size}" for axis, size in plan.parts.mesh.shape.items()),
        "tokens a step": f"{s.batch_size * width * s.data['max_tokens']:,}",
        "steps": _steps(plan.length),
        "passes over the data": lengths.of_passes(plan.length.passes),
        "evaluations": ", ".join(plan.evaluation.evaluators) or "none",
    }


def _steps(length: lengths.Length) -> str:
    ends = f" of {length.steps:,}, where the data end" if length.total < length.steps else ""
    return f"{length.total:,}{ends}"


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
    analysis = (
        step.lower(plan.state, plan.hyper, plan.frozen, _batch(plan)).compile().memory_analysis()
    )
    # Named by backend: what a CPU's compiler needs says nothing of a GPU's.
    temporary = f"temporary on {jax.default_backend()}"
    return kept | {temporary: analysis.temp_size_in_bytes}


def _local(abstract) -> int:
    size = lambda leaf: math.prod(leaf.sharding.shard_shape(leaf.shape)) * _width(leaf)
    return sum(map(size, jax.tree.leaves(abstract)))


def _width(leaf) -> int:
    # A key of JAX's default kind is two uint32; its own type has no size to ask for.
    return 8 if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize


def _batch(plan: running.Plan) -> dict:
    """Shapes of a batch over all processes."""

    def shapes(loader) -> dict:
        shape = lambda leaf: (loader.batch_size, *leaf.shape[1:])
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(shape(leaf), leaf.dtype), loader.batch(0)
        )

    beside = {label: shapes(own) for label, own in plan.anchor_loaders.items()}
    return shapes(plan.loader) | ({"anchors": beside} if beside else {})


def first_example(plan: running.Plan, *, colour: bool) -> str:
    """Write the first example of the first batch, its targets green or in ⟦brackets⟧.

    The answers of a preference stand below each other.
    """
    batch = {name: leaf[0] for name, leaf in plan.loader.batch(0).items()}
    if batch["tokens"].ndim == 1:
        return _marked(plan, batch, colour=colour)
    by_token = ("tokens", "weights", "segments")
    answers = [{k: batch[k][p] for k in by_token} for p in range(len(batch["tokens"]))]
    return "\n--\n".join(_marked(plan, answer, colour=colour) for answer in answers)


def _marked(plan: running.Plan, row: dict, *, colour: bool) -> str:
    # The first of several examples that are packed into a row.
    inside = row["segments"] == 1
    tokens, targets = row["tokens"][inside], row["weights"][inside] > 0
    left, right = (GREEN, PLAIN) if colour else ("⟦", "⟧")
    text, edges = [], np.flatnonzero(np.diff(targets)) + 1
    # np.split makes one empty piece of nothing, which has no first target.
    for piece in np.split(np.arange(len(tokens)), edges) if len(tokens) else ():
        decoded = plan.parts.tokenizer.decode(tokens[piece].tolist())
        text.append(f"{left}{decoded}{right}" if targets[piece[0]] else decoded)
    return "".join(text)
