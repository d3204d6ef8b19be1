"""Adapters that start from data or from a quantised base: as what, and that runs keep it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import train
from ftjax.adapters.lib import inits, protocol
from ftjax.core import tree
from ftjax.models.families import llama
from ftjax.models.hf import presets
from ftjax.ops import quantize
from ftjax.run import (
    adapter_init,
    reader,
)
from ftjax.run import (
    export as exporting,
)
from ftjax.run import (
    plan as running,
)
from ftjax.train.policy import Policy
from tests.lab import cut_back, metrics

EVA = {"adapter.init": "eva", "adapter.batches": 2}
GRADIENT = {"adapter.init": "lora_ga", "adapter.batches": 1}
LOFTQ = {"adapter.init": "loftq", "model.quantize.name": "nf4"}
WIDE = {"adapter.rank": 8}


def kept(lab, init):
    """A start that keeps what the inputs of rows use; here they are the run's own."""
    return {"adapter.init": init, "adapter.batches": 2, "adapter.data": lab.rows(max_tokens=64)}


def begin(lab, workdir, **changes):
    plan = running.plan(lab.settings(**changes))
    state, frozen = running.arrays(plan, workdir)
    return plan, tree.combine(state.params, frozen)


def score(plan, params):
    run = lambda params, batch: Policy(plan.parts.model, params, 64).logps(batch)
    return jax.jit(run)(params, plan.loader.batch(0))


@pytest.mark.parametrize(
    "changes", [EVA, EVA | {"adapter.rho": 2.0}, GRADIENT, "lora_null", "corda"]
)
def test_a_start_from_data_is_the_base(lab, tmp_path, changes):
    changes = kept(lab, changes) if isinstance(changes, str) else changes
    plan, params = begin(lab, tmp_path, **changes)
    base_alone = score(plan, params | {"adapters": None})
    np.testing.assert_allclose(score(plan, params), base_alone, rtol=1e-4, atol=1e-4)
    for path, adapter in protocol.sites(params["adapters"]).items():
        assert np.any(adapter.a, axis=(-2, -1)).all(), path
    again = begin(lab, tmp_path / "again", **changes)[1]
    jax.tree.map(np.testing.assert_array_equal, params["adapters"], again["adapters"])


def inputs_of_first_layer(plan, params, batches, *, of=None):
    """The normalised embeddings of the tokens that count in the first batches of a loader."""
    loader = of or plan.loader
    model = plan.parts.model
    weights = params["model"]
    norm = np.asarray(weights["blocks"]["attn_norm"][0])
    rows = []
    for g in range(batches):
        batch = loader.batch(g)
        x = np.asarray(weights["embed"])[batch["tokens"][batch["segments"] > 0]]
        rows.append(x / np.sqrt(np.square(x).mean(-1, keepdims=True) + model.config.norm_eps))
    return np.concatenate(rows) * norm


def test_eva_takes_the_principal_directions_of_the_inputs(lab, tmp_path):
    plan, params = begin(lab, tmp_path, **EVA)
    x = inputs_of_first_layer(plan, params, 2)
    _, s, v = np.linalg.svd(x, full_matrices=False)
    a = np.asarray(params["adapters"]["blocks"]["attn"]["q"].a[0])
    np.testing.assert_allclose(np.abs((v[:2] @ a).diagonal()), 1, atol=1e-4)
    energy = np.square(x @ a).sum(0)
    np.testing.assert_allclose(energy, np.square(s[:2]), rtol=1e-4)  # the largest first


@pytest.mark.parametrize("init", ["lora_null", "corda"])
def test_what_old_inputs_use_least_is_split_off_the_weight(lab, tmp_path, init):
    plan, params = begin(lab, tmp_path, **kept(lab, init) | {"adapter.alpha": 8.0})
    batches = adapter_init.old_data(plan.parts)
    moments = sum(x.T @ x for x in inputs_of_first_layer(plan, params, 2, of=batches)[None])
    adapter = params["adapters"]["blocks"]["attn"]["q"]
    w = np.asarray(params["model"]["blocks"]["attn"]["q"][0]).reshape(32, 32).astype(np.float64)
    found = np.asarray(adapter.a[0]) @ np.asarray(adapter.b[0]).reshape(2, 32) * 8 / 2
    if init == "lora_null":
        # Directions of nearly the same energy may turn into each other: their span is compared.
        unused = np.linalg.qr(adapter.a[0])[0]
        energy = np.linalg.eigvalsh(moments)
        assert np.trace(unused.T @ moments @ unused) <= energy[:2].sum() + 1e-5 * energy.max()
        wanted = unused @ unused.T @ w
    else:
        c = moments / np.trace(moments) * 32 + inits.DAMPING * np.eye(32)
        u, s, v = np.linalg.svd(c @ w)
        wanted = np.linalg.inv(c) @ (u[:, -2:] * s[-2:]) @ v[-2:]
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-4 * np.abs(wanted).max())
    np.testing.assert_array_equal(adapter.a, adapter.a0)  # and so the run starts as its base


def test_eva_gives_ranks_to_what_they_explain(lab, tmp_path):
    _, params = begin(lab, tmp_path, **EVA | {"adapter.rho": 2.0})
    found = protocol.sites(params["adapters"])
    ranks = {path: np.any(x.a, axis=tuple(range(1, x.a.ndim - 1))) for path, x in found.items()}
    counts = np.concatenate([own.sum(-1) for own in ranks.values()])
    assert counts.sum() == 2 * counts.size
    assert (counts.min(), counts.max()) != (2, 2)
    assert all(x.a.shape[-1] == 4 for x in found.values())


def test_lora_ga_takes_the_gradient_s_singular_vectors(lab, tmp_path):
    plan, params = begin(lab, tmp_path, **GRADIENT)
    batch = plan.loader.batch(0)
    whole = {"model": params["model"], "adapters": None}
    q = params["model"]["blocks"]["attn"]["q"]

    def loss(w):
        attn = whole["model"]["blocks"]["attn"] | {"q": w}
        model = whole["model"] | {"blocks": whole["model"]["blocks"] | {"attn": attn}}
        policy = Policy(plan.parts.model, whole | {"model": model}, 64)
        found = plan.objective(policy, policy, batch, jax.random.key(0))["loss"]
        return found.total / found.weight

    gradient = np.asarray(jax.grad(loss)(q))[1].reshape(32, 32)
    u, _, v = np.linalg.svd(gradient)
    adapter = params["adapters"]["blocks"]["attn"]["q"]
    a, b = np.asarray(adapter.a[1]), np.asarray(adapter.b[1]).reshape(2, 32)
    length = 32**0.25 / 4
    np.testing.assert_allclose(np.abs((u[:, :2].T @ a).diagonal()), length, rtol=1e-3)
    np.testing.assert_allclose(np.abs((v[2:4] @ b.T).diagonal()), length, rtol=1e-3)


@pytest.mark.parametrize("changes", [EVA, GRADIENT])
def test_a_run_keeps_its_start(lab, tmp_path, monkeypatch, changes):
    every = {"checkpoint.every_steps": 1, "checkpoint.keep": 3, **changes}
    whole = lab.run("whole", tmp_path, **every)
    cut = cut_back(whole, tmp_path / "cut", 1)
    with monkeypatch.context() as patch:
        patch.setattr(adapter_init, "_write", None)  # it would be called to compute again
        train.train(lab.settings(**every), cut)
    assert metrics(cut) == metrics(whole)
    assert (whole / "start.safetensors").is_file()
    run = reader.load(whole)
    factors = adapter_init.read(run.parts, whole)
    assert set(factors) == set(protocol.sites(run.params["adapters"]))
    if changes is GRADIENT:
        for path, adapter in protocol.sites(run.params["adapters"]).items():
            np.testing.assert_array_equal(adapter.a0, factors[path][0])
    (whole / "start.safetensors").unlink()
    with pytest.raises(ValueError, match="expected the factors"):
        reader.load(whole)


def test_loftq_repairs_the_quantised_base(lab, tmp_path):
    dense = begin(lab, tmp_path, **WIDE)
    plain = begin(lab, tmp_path, **WIDE, **{"model.quantize.name": "nf4"})
    exact, rounded = score(*dense), score(*plain)
    errors = [float(jnp.abs(rounded - exact).mean())]
    for turns in (1, 4):
        plan, params = begin(lab, tmp_path, **WIDE, **LOFTQ, **{"adapter.iterations": turns})
        errors.append(float(jnp.abs(score(plan, params) - exact).mean()))
        assert jax.tree.structure(params["model"]) == jax.tree.structure(plain[1]["model"])
        given = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params)
        assert given == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), plan.parts.abstract)
    assert max(errors[1:]) < 0.9 * errors[0]


def test_loftq_over_random_weights(lab, tmp_path, monkeypatch):
    small = llama.EXAMPLE | dict(vocab_size=2048, num_hidden_layers=2, intermediate_size=64)
    monkeypatch.setitem(presets.PRESETS, "small", small)
    random = {"model.base": "", "model.preset": "small", "tokenizer": str(lab.root / "base")}
    plan, params = begin(lab, tmp_path, **random, **WIDE, **LOFTQ)
    model = plan.parts.model
    exact = model.init(jax.random.key(plan.settings.seed.init))
    rounded = quantize.dense(params["model"], jnp.float32)
    repaired = protocol.merge(params["model"], params["adapters"], model.linears)
    error = lambda path, found: float(jnp.square(tree.paths(found)[path] - exact_at[path]).sum())
    exact_at = tree.paths(exact)
    assert plan.parts.quantizers
    for path in plan.parts.quantizers:
        assert 0 < error(path, repaired) < 0.7 * error(path, rounded), path


def test_loftq_leaves_as_a_model(lab, tmp_path, capsys):
    workdir = lab.run("loftq", tmp_path, **LOFTQ)
    assert "repairs its quantised base" in capsys.readouterr().err
    assert (workdir / "export" / "model.safetensors").is_file()
    assert metrics(workdir)[0]["loss"] > 0
    run = reader.load(workdir)
    write = functools.partial(exporting.write, run.parts, run.params, tmp_path / "out")
    with pytest.raises(ValueError, match="expected a model"):
        write(form="adapter")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter.init": "loftq"}, r"adapter\.init: got 'loftq' at .*set model\.quantize\.name"),
        ({"adapter.batches": 2}, r"adapter\.batches: got 2; .*drop it"),
        ({"adapter.rho": 2.0}, r"adapter\.rho: got 2\.0 with init='kaiming'"),
        (EVA | {"adapter.iterations": 2}, r"adapter\.iterations: got 2 with init='eva'"),
        (EVA | {"adapter.where": "embed"}, r"adapter\.init: got 'eva' at embed"),
        ({"adapter.init": "corda"}, r"adapter\.data: got none with init='corda', which keeps"),
        ({"adapter.data": dict(name="jsonl")}, r"adapter\.data: got a section .*drop it"),
        (GRADIENT | {"adapter.data": dict(max_tokens="8")}, r"adapter\.data\.max_tokens: got '8'"),
        (GRADIENT | {"adapter.rank": 9}, r"adapter\.rank: got 9 .*expected at most 8"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(lab, changes, message):
    with pytest.raises(ValueError, match=message):
        running.plan(lab.settings(**changes))
