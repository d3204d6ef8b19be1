"""Five hundred spoilt headers: loading one gives a clear error, or the arrays that the file has."""

import json
import struct
import types

import jax
import numpy as np
import pytest

from ftjax.models.families import llama
from ftjax.models.hf import checkpoint
from scripts import fuzz_headers

COUNT = 500


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


def test_five_hundred_spoilt_headers(model, good, tmp_path):
    header, body = good
    text, path = json.dumps(header).encode(), tmp_path / checkpoint.WEIGHTS
    draw, errors = np.random.default_rng(0), []
    for number in range(COUNT):
        change = fuzz_headers.HEADERS[number % len(fuzz_headers.HEADERS)]
        size, spoilt, rest = change(draw, text, body)
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
