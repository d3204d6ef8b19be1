"""What a compiled program does, read off its HLO text: collectives, FLOPs, large buffers.

    module = parse(compiled.as_text())
    collectives(module, slices=(0,) * 16), flops(module), largest(module)

XLA's own cost analysis counts the body of a loop once. Here the computations are walked from ENTRY,
and what a `while` runs counts as often as it does: by XLA's `known_trip_count`, or the constant
that its condition compares with. Both branches of a conditional count: an upper bound.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

# Bytes by XLA's own names of types; 8-bit floats have many, and are told by their first letters.
WIDTHS = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2,
          "u16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8,
          "c128": 16, "f4e2m1fn": 0.5}  # fmt: skip
KINDS = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute", "collective-broadcast",
)  # fmt: skip
ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{[^}]*\})?")
COUNTER = re.compile(r"[su]\d+\[\]")  # of a loop: matmuls that overlap with links count in u32
NAME = re.compile(r"%([\w.\-]+)")
HEAD = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*\{$")
# Buffers that are other ones, or that no memory is needed for.
NO_BUFFER = (
    "parameter",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "constant",
    "async-start",
    "async-update",
)
# Results that live there take none of the memory that a program may not fit.
VMEM = "S(1)"  # a TPU's memory on the chip


class Instruction(NamedTuple):
    """A line of a computation; shape and attributes as they are written."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    inside: str  # the parentheses: a constant's value


class Module(NamedTuple):
    """Computations by name, and which is run."""

    entry: str
    computations: Mapping[str, tuple[Instruction, ...]]


class Executed(NamedTuple):
    """An instruction, how often it runs, and the computation that a fusion around it is in."""

    instruction: Instruction
    times: int
    computation: str
    scope: str


class Collective(NamedTuple):
    """Communication of one kind over one network.

    bytes: that a device sends in a step, by the ring algorithm. count: of operations in a step.
    """

    kind: str
    network: str
    count: int
    bytes: float


def parse(text: str) -> Module:
    """Read the text of a module.

    Raises:
      ValueError: it has no entry.
    """
    found: dict[str, tuple[Instruction, ...]] = {}
    entry, name, lines = "", "", []
    for line in text.splitlines():
        if head := HEAD.match(line):
            name, lines = head.group(2), []
            entry = name if head.group(1) else entry
        elif line == "}" or line.startswith("}, execution_thread="):
            # Metadata of kernels may hold other braces.
            found[name] = tuple(lines)
        elif instruction := _instruction(line):
            lines.append(instruction)
    if not entry:
        raise ValueError(f"hlo: got {text[:60]!r}; expected a module with an ENTRY computation")
    return Module(entry, found)


def _instruction(line: str) -> Instruction | None:
    left, equals, right = line.strip().removeprefix("ROOT ").partition(" = ")
    if not equals or not left.startswith("%"):
        return None
    end = _closing(right, 0) + 1 if right.startswith("(") else right.find(" ")
    shape, rest = right[:end], right[end:].lstrip()
    start = rest.find("(")
    if start < 1:
        return None
    end = _closing(rest, start)
    inside = rest[start + 1 : end]
    return Instruction(
        left[1:], shape, rest[:start], tuple(NAME.findall(inside)), rest[end + 1 :], inside
    )


def _closing(text: str, start: int) -> int:
    """Return where the parenthesis at `start` closes."""
    depth = 0
    # By hand: shapes nest parentheses, which a regular expression does not count.
    for at in range(start, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if not depth:
            return at
    return len(text)


def arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """Return (type, dimensions) of the arrays of a shape, a tuple's in order."""
    return [
        (kind, tuple(int(n) for n in sizes.split(",") if n))
        for kind, sizes in ARRAY.findall(shape)
        if kind in WIDTHS or kind.startswith("f8")
    ]


def bytes_of(shape: str) -> float:
    """Return the bytes of a shape without the padding of its layout."""
    return sum(WIDTHS.get(kind, 1) * math.prod(sizes) for kind, sizes in arrays(shape))


# -- what is run, and how often --------------------------------------------------------------------


def executed(module: Module) -> Iterator[Executed]:
    """Yield every instruction that the entry runs, those inside fusions too."""
    yield from _walk(module, module.entry, times=1, scope=module.entry)


def _walk(module: Module, name: str, *, times: int, scope: str) -> Iterator[Executed]:
    for own in module.computations.get(name, ()):
        yield Executed(own, times, name, scope)
        if own.opcode == "while":
            # XLA's own count takes a loop for one turn: layers, chunks and microbatches are loops.
            often = times * (trips(module, own) or 1)
            body = _called(own, "body")[0]
            yield from _walk(module, body, times=often, scope=body)
            continue
        # Both branches, of which a step runs one: an upper bound, and they are rare in steps.
        keys = ("calls", "branch_computations", "true_computation", "false_computation")
        # What a core beside the main one sends stands in a custom call that an async-start begins.
        keys = (*keys, "called_computations") if own.opcode == "custom-call" else keys
        # Of a reduction `to_apply` is how two numbers are joined, and no code of its own.
        keys = (*keys, "to_apply") if own.opcode == "call" else keys
        for called in (each for key in keys for each in _called(own, key)):
            yield from _walk(module, called, times=times, scope=scope)


def _called(own: Instruction, key: str) -> list[str]:
    match = re.search(rf"\b{key}=(%[\w.\-]+|\{{[^}}]*\}})", own.attributes)
    return NAME.findall(match.group(1)) if match else []


def trips(module: Module, loop: Instruction) -> int | None:
    """Return how often a `while` runs its body; None where its text does not tell."""
    if known := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(known.group(1))
    # Without the compiler's note: a counter is compared with a constant, the largest there.
    (condition,) = _called(loop, "condition")
    inside = [each.instruction for each in _walk(module, condition, times=1, scope=condition)]
    bounds = [int(each.inside) for each in inside
              if each.opcode == "constant" and COUNTER.match(each.shape)]  # fmt: skip
    # A matmul that overlaps with links may take two turns at once, and count by two.
    return -(-max(bounds) // _stride(module, loop)) if bounds else None


def _stride(module: Module, loop: Instruction) -> int:
    """Return by how much a turn moves the counter; 1 where the text does not tell."""
    (condition,), (body,) = _called(loop, "condition"), _called(loop, "body")
    at = re.search(r"index=(\d+)", " ".join(
        own.attributes for own in module.computations[condition]
        if own.opcode == "get-tuple-element" and COUNTER.match(own.shape)
    ))  # fmt: skip
    lines = {own.name: own for own in module.computations[body]}
    root = module.computations[body][-1]
    if at is None or root.opcode != "tuple":
        return 1
    own, moved = lines.get(root.operands[int(at[1])]), 0
    while own and own.opcode in ("add", "copy"):
        added = [lines[name] for name in own.operands if name in lines]
        moved += sum(int(each.inside) for each in added if each.opcode == "constant")
        own = next((each for each in added if each.opcode != "constant"), None)
    is_counter = own is not None and own.opcode == "get-tuple-element"
    return moved if is_counter and moved > 0 else 1


def unknown_loops(module: Module) -> int:
    """Count the loops whose trips are not known: each counts as one."""
    loops = (each.instruction for each in executed(module) if each.instruction.opcode == "while")
    return sum(trips(module, loop) is None for loop in loops)


# -- collectives -----------------------------------------------------------------------------------


def collectives(module: Module, *, slices: Sequence[int]) -> list[Collective]:
    """Sum up the communication of a step by kind and network.

    slices: of every device in the program's order; what joins several goes over "dcn", the
      data center's network, and the rest over "ici", the links of a slice.
    """
    found: dict[tuple[str, str], list[float]] = {}
    seen = set()
    for each in executed(module):
        own = each.instruction
        # Its end, `-done`, sends nothing more.
        kind = own.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        # One that overlaps with compute stands in several fusions, under one channel.
        channel = re.search(r"channel_id=(\d+)", own.attributes)
        key = (each.scope, channel.group(1)) if channel else (each.computation, own.name)
        if key in seen:
            continue
        seen.add(key)
        groups = _groups(own, len(slices))
        # A group that spans slices waits for the slower of the networks.
        network = "dcn" if any(len({slices[d] for d in g}) > 1 for g in groups) else "ici"
        total = found.setdefault((kind, network), [0, 0.0])
        total[0] += each.times
        total[1] += each.times * _sent(kind, own, max(map(len, groups)))
    return [Collective(*key, int(count), sent) for key, (count, sent) in sorted(found.items())]


def _sent(kind: str, own: Instruction, size: int) -> float:
    """Return the bytes that each device of a group of `size` sends, in a ring."""
    whole = bytes_of(_result(own))
    match kind:
        case "all-reduce":  # a reduce-scatter and an all-gather
            return 2 * whole * (size - 1) / size
        case "reduce-scatter":  # the result is a part
            return whole * (size - 1)
        case "collective-permute" | "collective-broadcast":
            return whole
    return whole * (size - 1) / size


def _result(own: Instruction) -> str:
    """Return the shape that comes out; that of a start has the operands in front of it."""
    if own.opcode not in ("all-gather-start", "collective-permute-start"):
        return own.shape
    parts, depth, start = [], 0, 1
    for at, char in enumerate(own.shape[1:], 1):
        depth += (char in "([{") - (char in ")]}")
        if (char == "," and depth == 0) or depth < 0:
            parts.append(own.shape[start:at])
            start = at + 1
    return parts[1]


def _groups(own: Instruction, devices: int) -> list[list[int]]:
    """Return the devices that talk to each other: lists, iota `[2,4]<=[8]`, or axes of a mesh."""
    text = own.attributes
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", text):
        return [[int(a), int(b)] for a, b in re.findall(r"\{(\d+),(\d+)", pairs.group(1) + "}")]
    if lists := re.search(r"replica_groups=\{(\{[\d,{}\s]*\})\}", text):
        return [[*map(int, group.split(","))] for group in re.findall(r"\{([\d,]+)\}", lists[1])]
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        shape, sizes, order = (_numbers(part) for part in iota.groups())
        ids = np.arange(math.prod(sizes)).reshape(sizes)
        return (ids.transpose(order) if order else ids).reshape(shape).tolist()
    if mesh := re.search(r"replica_groups=mesh\[(.*?)\]\s*\{(.*?)\}", text):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        chosen = re.findall(r"'([^']+)'", mesh[2])
        ids = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
        axes = [list(sizes).index(name) for name in chosen]
        moved = np.moveaxis(ids, axes, range(-len(axes), 0))
        return moved.reshape(-1, math.prod(sizes[name] for name in chosen)).tolist()
    # No groups are written where all devices are one.
    return [list(range(devices))]


def _numbers(text: str | None) -> tuple[int, ...]:
    return tuple(map(int, text.split(","))) if text else ()


# -- FLOPs and buffers -----------------------------------------------------------------------------


def flops(module: Module) -> float:
    """Count the FLOPs of matmuls and convolutions of one device in a step; kernels have none."""
    # An operand stands by its name alone: its shape is where it was made.
    shapes = {
        (name, own.name): own.shape
        for name, lines in module.computations.items()
        for own in lines
    }  # fmt: skip
    total = 0.0
    for each in executed(module):
        own = each.instruction
        count = {"dot": _dot, "convolution": _convolution}.get(own.opcode)
        if count is not None:
            inputs = [arrays(shapes[each.computation, name])[0][1] for name in own.operands]
            total += each.times * count(own, *inputs)
    return total


def kernels(module: Module) -> int:
    """Count the calls of kernels in a step, whose FLOPs the text does not tell."""
    custom = (each for each in executed(module) if each.instruction.opcode == "custom-call")
    names = re.compile(r'custom_call_target="(?:tpu_custom_call|__cudnn\$\w+)"')
    return sum(e.times for e in custom if names.search(e.instruction.attributes))


def _dot(own: Instruction, left: Sequence[int], right: Sequence[int]) -> float:
    axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", own.attributes)
    contracted = math.prod(left[axis] for axis in _numbers(axes[1] if axes else ""))
    return 2.0 * math.prod(arrays(own.shape)[0][1]) * contracted


def _convolution(own: Instruction, left: Sequence[int], kernel: Sequence[int]) -> float:
    """Count what touches data: as batched matmuls are written, most of a window lies in padding."""
    names = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", own.attributes)
    result = arrays(own.shape)[0][1]
    at = lambda sizes, labels, label: sizes[labels.index(label)]
    found = 2.0 * at(result, names[3], "b") * at(result, names[3], "f") * at(kernel, names[2], "i")
    for number, label in enumerate(char for char in names[3] if char.isdigit()):
        sizes = at(left, names[1], label), at(result, names[3], label)
        found *= _touched(_window(own.attributes, number), *sizes)
    return found


def _window(text: str, number: int) -> dict[str, int]:
    """Read a dimension of `window={size=2x3 pad=0_1x0_0 ...}`."""
    found = dict(size=1, stride=1, low=0, lhs_dilate=1, rhs_dilate=1)
    written = re.search(r"window=\{([^}]*)\}", text)
    for key, value in re.findall(r"(\w+)=(\S+)", written[1]) if written else ():
        part = value.split("x")[number]
        found["low" if key == "pad" else key] = int(part.split("_")[0])
    return found


def _touched(window: Mapping[str, int], size: int, results: int) -> int:
    """Count pairs of a result and a place of the window that meet an element of the input."""
    outer = np.arange(results)[:, None] * window["stride"]
    place = outer + np.arange(window["size"]) * window["rhs_dilate"] - window["low"]
    step = window["lhs_dilate"]
    return int(((place >= 0) & (place % step == 0) & (place < size * step)).sum())


def largest(module: Module, count: int = 3) -> list[tuple[float, str, str]]:
    """Return (bytes, shape, code) of the largest results outside fusions, one for each code."""
    keys = {"fusion": "calls", "async-start": "calls", "custom-call": "called_computations"}
    inside = {name for lines in module.computations.values() for own in lines
              if own.opcode in keys for name in _called(own, keys[own.opcode])}  # fmt: skip
    found: dict[str, tuple[float, str, str]] = {}
    for each in executed(module):
        own = each.instruction
        if each.computation in inside or own.opcode in NO_BUFFER or VMEM in own.shape:
            continue
        # The buffer of what was started, counted there.
        if own.opcode.endswith("-done") and own.opcode != "async-done":
            continue
        code = re.search(r'op_name="([^"]*)"', own.attributes)
        entry = (
            bytes_of(own.shape),
            re.sub(r"\{[^}]*\}", "", own.shape),
            code[1] if code else own.name,
        )
        found[entry[2]] = max(found.get(entry[2], entry), entry)
    return sorted(found.values(), reverse=True)[:count]
