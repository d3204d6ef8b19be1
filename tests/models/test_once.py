"""What is derived from a model or its files is derived once a process."""

import dataclasses
import hashlib

import jax
import jax.numpy as jnp

from ftjax.models.families import gemma3, llama
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


def test_equal_models_are_one_and_others_are_not():
    config = llama.from_hf(llama.EXAMPLE)
    model = llama.make(config)
    assert llama.make(llama.from_hf(llama.EXAMPLE)) is model
    others = [
        llama.make(dataclasses.replace(config, norm_eps=1e-3)),
        llama.make(config, dtype=jnp.bfloat16), llama.make(config, remat="full"),
    ]  # fmt: skip
    assert all(other is not model for other in others)
    assert others[0].config.norm_eps == 1e-3
    # Wrappers that differ in what no text meets: equal, and exported as what they are.
    wrapped = [gemma3.from_hf(gemma3.EXAMPLE | {"vision_config": {"depth": n}}) for n in (1, 2)]
    rests = [gemma3.make(each).config.rest for each in wrapped]
    assert rests == [each.rest for each in wrapped]
    assert rests[0] != rests[1]


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
