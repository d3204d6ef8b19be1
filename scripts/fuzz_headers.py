"""Changes to a file of safetensors: its header, the size that it claims, the bytes behind.

    size, header, body = rng.choice(HEADERS)(draw, header, body)

draw: a generator of numpy. size: what the file is to claim.
"""

import json

HUGE = (2**62, 2**31, -1, 0, 1, 1e300, None, "8", [], {})


def flip_bytes(draw, text: bytes, body: bytes):
    """Change some bytes of the header."""
    spoilt = bytearray(text)
    for _ in range(draw.integers(1, 6)):
        spoilt[draw.integers(len(spoilt))] = draw.integers(256)
    return len(spoilt), bytes(spoilt), body


def change_size(draw, text: bytes, body: bytes):
    """Claim another size of the header."""
    return int(draw.choice([0, 1, len(text) - 1, len(text) + 1, 2**20, 2**63])), text, body


def cut(draw, text: bytes, body: bytes):
    """Cut the file off."""
    whole = text + body
    end = draw.integers(len(whole))
    return len(text), whole[:end], b""


def change_field(draw, text: bytes, body: bytes):
    """Change a tensor's type, shape or place."""
    header = json.loads(text)
    entry = header[draw.choice([name for name in header if name != "__metadata__"])]
    value = HUGE[draw.integers(len(HUGE))]
    match draw.choice(["dtype", "shape", "start", "end", "drop"]):
        case "dtype":
            entry["dtype"] = str(draw.choice(["F64", "I8", "BOOL", "F32x", "", "U64"]))
        case "shape":
            entry["shape"] = [value, *entry["shape"][1:]]
        case "start":
            entry["data_offsets"][0] = value
        case "end":
            entry["data_offsets"][1] = value
        case "drop":
            entry.pop(str(draw.choice(["dtype", "shape", "data_offsets"])))
    text = json.dumps(header).encode()
    return len(text), text, body


def change_names(draw, text: bytes, body: bytes):
    """Rename tensors, or let them share bytes."""
    header = json.loads(text)
    names = [name for name in header if name != "__metadata__"]
    one, other = draw.choice(names, 2, replace=False)
    match draw.integers(4):
        case 0:
            header[f"../{one}"] = header.pop(one)
        case 1:
            header[one] = header[other]
        case 2:
            header["__metadata__"] = {"format": ["pt"]}
        case 3:
            header[one] = "[" * 5000
    text = json.dumps(header).encode()
    return len(text), text, body


HEADERS = (flip_bytes, change_size, cut, change_field, change_names)
