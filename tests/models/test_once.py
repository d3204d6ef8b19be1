"""What is derived from a model or its files is derived once a process."""

import dataclasses
import hashlib

import jax
import jax.numpy as jnp

from ftjax.models.hf import digests
from tests.laws import subjects


def test_weights_are_hashed_once_unless_they_change(tmp_path, monkeypatch):
    read, digest = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: read.append(1) or digest(*given))
    for name in (digests.CONFIG, "model.safetensors"):
        (tmp_path / name).write_text("{}")
    first = digests.fingerprint(tmp_path)
    assert digests.fingerprint(tmp_path / ".") == first
    assert len(read) == 2
    (tmp_path / "model.safetensors").write_text("{ }")
    assert digests.fingerprint(tmp_path) != first
    assert len(read) == 3


def test_a_model_is_traced_once():
    model = dataclasses.replace(subjects.model(subjects.PLAIN), remat="full")
    for name in ("abstract", "axes", "equations", "linears", "stacks", "stored"):
        assert getattr(model, name) is getattr(model, name)


def test_layers_cast_their_own_weights():
    """A cast of a whole stack would live through the step beside the float32 one."""
    model = dataclasses.replace(subjects.model(subjects.PLAIN), dtype=jnp.dtype(jnp.bfloat16))
    batch = subjects.batch()
    where = dict(positions_BT=batch["positions"], segments_BT=batch["segments"])
    run = lambda params: model.hidden(params, batch["tokens"], **where)
    outer = jax.make_jaxpr(run)(model.abstract).jaxpr
    stacks = {leaf.shape for leaf in jax.tree.leaves(model.abstract["blocks"])}
    casts = [eqn for eqn in outer.eqns if eqn.primitive.name == "convert_element_type"]
    assert not [eqn for eqn in casts if eqn.invars[0].aval.shape in stacks]
