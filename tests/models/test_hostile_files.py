"""Five hundred spoilt headers: loading one gives a clear error, or the arrays that the file has."""

import json
import struct
import types

import jax
import numpy as np
import pytest

from ftjax.models.families import llama
from ftjax.models.hf import checkpoint

COUNT = 500
HUGE = (2**62, 2**31, -1, 0, 1, 1e300, None, "8", [], {})


@pytest.fixture(scope="module")
def model():
    """What `hf.load` asks of a handle, worked out once and not for each of five hundred files."""
    handle = llama.make(llama.from_hf(llama.EXAMPLE | {"num_hidden_layers": 1}))
    asked = dict(
        abstract=handle.abstract, axes=handle.axes, stored=handle.stored, stacks=handle.stacks
    )
    return types.SimpleNamespace(config=handle.config, **asked)


@pytest.fixture(scope="module")
def good(model, tmp_path_factory):
    """The header of a small model as an object, and the bytes behind it."""
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), model.abstract)
    out = tmp_path_factory.mktemp("good") / "model"
    checkpoint.save(out, params, family=llama, config=model.config)
    data = (out / checkpoint.WEIGHTS).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def flip_bytes(draw, text, body):
    spoilt = bytearray(text)
    for _ in range(draw.integers(1, 6)):
        spoilt[draw.integers(len(spoilt))] = draw.integers(256)
    return len(spoilt), bytes(spoilt), body


def change_size(draw, text, body):
    return int(draw.choice([0, 1, len(text) - 1, len(text) + 1, 2**20, 2**63])), text, body


def cut(draw, text, body):
    whole = text + body
    end = draw.integers(len(whole))
    return len(text), whole[:end], b""


def change_field(draw, text, body):
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


def change_names(draw, text, body):
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


WAYS = (flip_bytes, change_size, cut, change_field, change_names)


def test_five_hundred_spoilt_headers(model, good, tmp_path):
    header, body = good
    text, path = json.dumps(header).encode(), tmp_path / checkpoint.WEIGHTS
    draw, errors = np.random.default_rng(0), []
    for number in range(COUNT):
        size, spoilt, rest = WAYS[number % len(WAYS)](draw, text, body)
        path.write_bytes(struct.pack("<Q", size) + spoilt + rest)
        try:
            found = checkpoint.load(tmp_path, model, names=llama.NAMES)
        except ValueError as error:
            errors.append(str(error))
        else:
            assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, model.abstract)
    assert len(errors) > 0.8 * COUNT
    for text in errors:
        assert str(tmp_path) in text
        assert "expected" in text or "other tensors" in text
