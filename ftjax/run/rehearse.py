"""A training step compiled for devices that are not here: does it fit, what it sends, how long.

    found = rehearse(settings, topology.read("v5e-16"))     # no weights, no data, no accelerator
    found["fits"], found["hbm"], found["collectives"], found["roofline"]
    suggestions.suggest(settings, ...)                       # changes, each compiled too

Memory is the compiler's own figure. Times are a roofline, an estimate: no device confirms them.
"""

import math
import pathlib
import re
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import jax

from ftjax.core import files, tree
from ftjax.core import mesh as meshes
from ftjax.data import kinds
from ftjax.models.hf import checkpoint, presets
from ftjax.optim import rates
from ftjax.run import bases, costs, hlo
from ftjax.run import config as settings_lib
from ftjax.run import plan as plans
from ftjax.run.config import Settings
from ftjax.run.topology import GIB, Topology

EXAMPLES = 8  # of a row: known with the data alone; a few numbers each
DUMPED = ".after_codegen.txt"  # of the files that a compiler writes, what will run
ASSUMPTIONS = (
    "compute: the FLOPs of the compiled program, or the model's if more, at the peak of bfloat16",
    "ici, dcn: bytes that a device sends, at the full bandwidth of all its links; no latency",
    "memory: arguments, results and temporaries, touched once each: a floor",
    "a step takes the longest of them if they overlap, and their sum if nothing does",
)


def rehearse(settings: Settings, topology: Topology, *, hbm_bytes: float | None = None) -> dict:
    """Compile the step of a run for a topology and describe it, in values that JSON can hold.

    hbm_bytes: of a device, in place of the topology's.

    Raises:
      ValueError: anything wrong with the settings, or the topology cannot be compiled for here.
    """
    settings, notes = stand_in(settings, platform=topology.platform)
    mesh = meshes.make(**settings.mesh, devices=topology.devices())
    p = plans.program(settings, mesh=mesh)
    shapes, start = batch(p), time.perf_counter()
    lowered = plans.compiled_step(p).lower(p.state, p.hyper, p.frozen, shapes)
    lower_s, start = time.perf_counter() - start, time.perf_counter()
    compiled, text = compile_step(lowered, platform=topology.platform)
    found = {
        "topology": topology.name, "devices": topology.count,
        "mesh": {axis: int(size) for axis, size in mesh.shape.items()},
        "notes": notes, "seconds": {"lower": lower_s, "compile": time.perf_counter() - start},
        "hbm": kept(p, shapes), "flops": _model_flops(p),
    }  # fmt: skip
    capacity = hbm_bytes or (topology.chip.hbm_bytes if topology.chip else None)
    if compiled is None:
        return found | _refused(found["hbm"], text, capacity)
    return found | _described(found, compiled, text, topology, mesh, capacity)


# -- what is compiled ------------------------------------------------------------------------------


def stand_in(settings: Settings, *, platform: str) -> tuple[Settings, list[str]]:
    """Replace what is not on this machine by its shapes; returns what was replaced, in words.

    A base without weights is read from its config.json, or is the preset of its name.
    """
    changes, notes = {}, []
    base, spec = settings.model.base, settings.model
    source = bases.locate(base) if base == bases.TINY else pathlib.Path(base or ".")
    # A folder with a config alone is a base whose weights lie on the pod.
    has_weights = base and any(source.glob("*.safetensors"))
    if base and not has_weights:
        shapes = base if source.is_dir() else _preset(base)
        changes |= {"model.base": "", "model.preset": shapes}
        notes.append(f"model.base: {base!r} has no weights here; shapes of {shapes!r}")
        if not spec.param_dtype:
            stored = _stored(shapes)
            changes["model.param_dtype"] = stored
            notes.append(f"model.param_dtype: {stored}, as its config says")
    if not settings.tokenizer and not (has_weights and (source / "tokenizer.json").exists()):
        changes["tokenizer"] = bases.TINY  # the step does not depend on it
    if settings.adapter_from:
        changes["adapter_from"] = ""
        notes.append("adapter_from: not read; shapes of `adapter`")
    if not spec.compute_dtype and platform != "cpu":
        _, model = bases.of(spec, changes.get("model.preset") or (source if base else spec.preset))
        if tree.size_of(model.abstract) >= rates.BIG:  # as it would be there
            changes["model.compute_dtype"] = "bfloat16"
    return changed(settings, changes), notes


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Return settings with other values at dotted keys.

    Raises:
      ValueError: they are not legal.
    """
    if not changes:
        return settings
    plain = dict(settings.plain)
    for key, value in changes.items():
        # Copied along the path: the settings that were given stay as they are.
        *parents, name = key.split(".")
        node = plain
        for part in parents:
            node[part] = dict(node[part])
            node = node[part]
        node[name] = value
    return settings_lib.read(plain)


def _preset(base: str) -> str:
    """Return the preset that a base is called like, letters and digits alone compared."""
    plain = lambda name: re.sub(r"[^a-z0-9]", "", name.lower())
    wanted = plain(pathlib.PurePath(base).name)
    for name in presets.PRESETS:
        if wanted.startswith(plain(name)):
            return name
    raise ValueError(
        f"model.base: got {base!r}, which is no directory and no preset's name; expected its "
        f"config.json, or one of {', '.join(sorted(presets.PRESETS))}; set model.preset and base=''"
    )


def _stored(shapes: str) -> str:
    known = checkpoint.config_json_of(shapes)
    name = known.get("dtype") or known.get("torch_dtype") or "bfloat16"
    return name if name in bases.DTYPES else "bfloat16"


def batch(p: plans.Program) -> dict:
    """Return the shapes of a batch, laid out on the mesh.

    Raises:
      ValueError: the run learns from samples of its own, or from rankings, whose widths the data
        alone tell.
    """
    s, kind = p.settings, p.parts.spec.batch
    legal = [name for name, each in kinds.BATCHES.items() if each.answers and not each.sampled]
    if kind.name not in legal:
        raise ValueError(
            f"objective.name: got {s.objective['name']!r}, which learns from {kind.name}; expected "
            f"one of {', '.join(legal)}; rehearse the step of another objective"
        )
    shapes = kind.shapes(s.batch_size, s.data["max_tokens"], examples=EXAMPLES)
    if p.parts.reference.name == "cached" and p.parts.spec.reference:
        shapes["reference"] = shapes["weights"]
    found = {name: jax.ShapeDtypeStruct(*each) for name, each in shapes.items()}
    places = meshes.batch_shardings(found, p.parts.mesh)
    return jax.tree.map(lambda x, place: x.update(sharding=place), found, places)


def compile_step(lowered, *, platform: str) -> tuple[Any, str]:
    """Compile a lowered step; returns (compiled, its HLO), or (None, why it does not fit)."""
    with tempfile.TemporaryDirectory() as folder:
        # Written by the compiler: of many programs for v5p and later `as_text` ends with an error,
        # since it cannot read how libtpu sends and multiplies at the same time.
        options = {"xla_dump_to": folder} if platform == "tpu" else None
        try:
            compiled = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as refused:
            # A TPU's compiler refuses what does not fit; any other refusal is a fault.
            if "RESOURCE_EXHAUSTED" not in str(refused):
                raise
            return None, " ".join(str(refused).split())
        written = sorted(pathlib.Path(folder).glob(f"*{DUMPED}"), key=lambda p: p.stat().st_size)
        text = written[-1].read_text(encoding="utf-8") if written else compiled.as_text()
    return compiled, text


# -- what it needs ---------------------------------------------------------------------------------


def kept(p: plans.Program, shapes: Mapping) -> dict[str, float]:
    """Return the bytes that the arguments of a step take on a device, by kind."""
    own = {
        "weights, trainable": p.state.params, "weights, frozen": p.frozen,
        "optimizer": p.state.opt_state, "average": p.state.ema, "batch": shapes,
    }  # fmt: skip
    return {name: float(local_bytes(part)) for name, part in own.items()}


def local_bytes(abstract) -> int:
    """Return the bytes of abstract arrays on the fullest device."""
    size = lambda leaf: math.prod(leaf.sharding.shard_shape(leaf.shape)) * _width(leaf)
    return sum(map(size, jax.tree.leaves(abstract)))


def _width(leaf) -> int:
    # A key is two words of 32 bits, and its type tells no size.
    return 8 if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize


def _model_flops(p: plans.Program) -> dict[str, float]:
    """Return FLOPs of a step over all devices by formula: what it has to compute."""
    answers = p.parts.spec.batch.answers
    tokens = p.settings.batch_size * answers * p.settings.data["max_tokens"]
    cost = costs.of(p).times(tokens)
    return {"tokens": tokens, "model": cost.full, "model, causal": cost.causal}


def _refused(hbm: Mapping[str, float], error: str, capacity: float | None) -> dict:
    """Describe what the compiler did not fit: as much as its message says."""
    sizes = [float(n) * {"K": 2**10, "M": 2**20, "G": GIB}[unit]
             for n, unit in re.findall(r"([\d.]+)([KMG])(?=\W)", error)]  # fmt: skip
    # The message names what was asked for, what there is and single buffers: the largest is asked.
    needed = max(sizes, default=None)
    return {
        "fits": False, "error": error[:600],
        "hbm": dict(hbm, needed=needed, capacity=capacity), "collectives": [], "buffers": [],
    }  # fmt: skip


def _described(
    found: Mapping, compiled, text: str, topology: Topology, mesh, capacity: float | None
) -> dict:  # fmt: skip
    """Describe a compiled step, whose HLO is `text`."""
    stats, module = compiled.memory_analysis(), hlo.parse(text)
    # Donated arguments are overwritten: their results take no memory of their own.
    beside = stats.output_size_in_bytes - stats.alias_size_in_bytes
    needed = stats.argument_size_in_bytes + beside + stats.temp_size_in_bytes
    needed += stats.generated_code_size_in_bytes
    hbm = dict(
        found["hbm"], temporaries=stats.temp_size_in_bytes, results=beside,
        code=stats.generated_code_size_in_bytes, needed=needed, capacity=capacity,
    )  # fmt: skip
    if capacity:
        hbm["headroom"] = capacity - needed
    slices = [meshes.slice_of(device) for device in mesh.devices.flat]
    moved = hlo.collectives(module, slices=slices)
    own = hlo.flops(module) * topology.count
    flops = dict(found["flops"], program=own)
    flops["XLA, loops once"] = (compiled.cost_analysis() or {}).get("flops", 0.0) * topology.count
    # Temporaries are written and read.
    touched = stats.argument_size_in_bytes + beside + 2 * stats.temp_size_in_bytes
    return {
        "fits": capacity is None or needed <= capacity, "hbm": hbm, "flops": flops,
        "collectives": [each._asdict() for each in moved],
        "roofline": roofline(topology, flops, moved, touched_bytes=touched),
        "buffers": [dict(zip(("bytes", "shape", "code"), each, strict=True))
                    for each in hlo.largest(module)],
        "host_bytes": stats.host_temp_size_in_bytes,
        "notes": [*found["notes"], *_uncounted(module), *_on_host(stats)],
    }  # fmt: skip


def _uncounted(module: hlo.Module) -> list[str]:
    unknown, kernels = hlo.unknown_loops(module), hlo.kernels(module)
    notes = [f"{unknown} loops count once: their trips are not known"] if unknown else []
    return notes + ([f"{kernels} calls of kernels have no FLOPs here"] if kernels else [])


def roofline(
    topology: Topology, flops: Mapping[str, float], moved: list[hlo.Collective], *,
    touched_bytes: float,
) -> dict | None:  # fmt: skip
    """Estimate the seconds of a step and what follows from them; None for devices without figures.

    mfu, mfu_causal: of model FLOPs with all of attention and with the causal half, of the step that
    overlaps. A kernel skips the other half, so that long rows may have more than 1 of the first.
    """
    chip = topology.chip
    if chip is None:
        return None
    sent = lambda network: sum(each.bytes for each in moved if each.network == network)
    seconds = {
        # Kernels and loops of unknown length hide FLOPs: no step takes less than the model's.
        "compute": max(flops["program"], flops["model, causal"]) / topology.count / chip.flops,
        "ici": sent("ici") / chip.ici,
        "dcn": sent("dcn") / chip.dcn, "memory": touched_bytes / chip.hbm,
    }  # fmt: skip
    step = max(seconds.values())
    peak = chip.flops * topology.count
    # Of older TPUs a chip is two devices, and prices are by the chip.
    chips = topology.count / chip.devices
    return {
        "seconds": seconds, "bound": max(seconds, key=seconds.get), "step_s": step,
        "step_s, no overlap": sum(seconds.values()),
        "mfu": flops["model"] / (step * peak), "mfu_causal": flops["model, causal"] / (step * peak),
        "tokens_per_s_per_chip": flops["tokens"] / step / chips, "assumptions": list(ASSUMPTIONS),
    }  # fmt: skip


def _on_host(stats) -> list[str]:
    """Say what activations take of the host's memory, which `model.remat` may send there."""
    size = stats.host_temp_size_in_bytes
    if not size:
        return []
    return [f"{size / GIB:.2f} GiB of activations a device wait in the host's memory; their way "
            "there and back is not in the seconds"]  # fmt: skip


# -- in words --------------------------------------------------------------------------------------


def text(found: Mapping) -> str:
    """Write what was found for a terminal."""
    gib = lambda value: "?" if value is None else f"{value / GIB:.3f} GiB"
    mesh = ", ".join(f"{axis} {size}" for axis, size in found["mesh"].items())
    lines = [f"{found['topology']}: {found['devices']} devices, {mesh}"]
    lines += [f"note: {note}" for note in found["notes"]]
    lines += [f"{'fits' if found['fits'] else 'DOES NOT FIT'}, a device:"]
    lines += [f"  {name:22}{gib(value):>14}" for name, value in found["hbm"].items()]
    lines += ["FLOPs of a step, all devices:"]
    lines += [f"  {name:22}{value:>14.4g}" for name, value in found["flops"].items()]
    if found["collectives"]:
        lines += ["sent by a device in a step:"]
    for own in found["collectives"]:
        name = f"{own['kind']} ({own['network']})"
        lines.append(f"  {name:26}{own['count']:>8} x {gib(own['bytes']):>14}")
    if line := found.get("roofline"):
        lines += ["roofline (an estimate, not measured), seconds:"]
        lines += [f"  {name:22}{value:>14.4f}" for name, value in line["seconds"].items()]
        lines += [f"  {name:22}{line[name]:>14.4f}" for name in ("step_s", "step_s, no overlap")]
        share = f"MFU {line['mfu']:.1%}, {line['mfu_causal']:.1%} of causal attention"
        speed = f"{line['tokens_per_s_per_chip']:,.0f} tokens/s a chip"
        lines += [f"  bound by {line['bound']}; {share}; {speed}"]
        lines += [f"  {assumption}" for assumption in line["assumptions"]]
    lines += ["largest results:"] if found["buffers"] else []
    lines += [
        f"  {gib(own['bytes'])}  {own['shape'][:60]}  {own['code']}" for own in found["buffers"]
    ]
    if "error" in found:
        lines.append(f"compiler: {found['error']}")
    seconds = found["seconds"]
    return "\n".join([*lines, f"compiled in {seconds['compile']:.1f} s"])


def write(path: pathlib.Path, found: Mapping, suggestions: list[dict]) -> None:
    """Write what was found as JSON."""
    files.write_json(path, dict(found, suggestions=suggestions))
