"""Members of one program are their solo runs: every adapter method, objective and optimizer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from ftjax.adapters.lib import protocol
from ftjax.core import tree
from ftjax.objectives import sft
from ftjax.optim import optimizer
from ftjax.run import config as settings
from ftjax.run import member_settings
from ftjax.train import members
from ftjax.train import state as states
from ftjax.train import step as steps
from tests.laws import subjects

FAMILY = subjects.PLAIN
RATES = (1e-2, 3e-3)
RANKS = (4, 2)
STEPS = 2
# Two sites of different equations are enough, and compile in half the time.
WHERE = ("blocks/attn/o", "blocks/mlp/down")


def pads(name):
    """Return whether the ranks of a method may differ."""
    return all(adapter.PADS for adapter in protocol.sites(adapters_of(name, 0, 0)).values())


@functools.cache
def adapters_of(adapter, index, rank):
    """Draw the adapters of a member; rank: 0 = the example's, and of no method else."""
    module = subjects.ADAPTERS[adapter]
    method = module.make(**module.EXAMPLE | (dict(rank=rank) if rank else {}))
    handle, weights = subjects.model(FAMILY), subjects.weights(FAMILY)
    where = WHERE if adapter in subjects.OF_WEIGHTS else ""
    draw = functools.partial(protocol.init, method, where=where, sizes=handle.config.sizes)
    return jax.jit(lambda key, w: draw(key, handle.linears, w))(jax.random.key(index), weights)


def params_of(adapter, index, objective):
    """Make the parameters of a member: of a rank of its own, where that can be and is the law."""
    differ = objective == "sft" and subjects.ADAPTERS[adapter].EXAMPLE.get("rank", 0) > 1
    rank = RANKS[index] if differ and pads(adapter) else 0
    own = adapters_of(adapter, index, rank)
    model = subjects.weights(FAMILY)
    return subjects.params_for(objective, {"model": model, "adapters": own})


def solo(adapter, objective, how_to_learn):
    """Make `one(state, hyper, frozen, batch)`, the states and the frozen trees of two members."""

    def one(state, hyper, frozen, batch):
        module = subjects.OBJECTIVES[objective]
        learned = sft.make() if objective == "sft" else module.make(**module.EXAMPLE)
        tx = how_to_learn(hyper["rate"]).tx
        made = steps.make_step(
            subjects.model(FAMILY, remat="none"), learned, tx, chunk=subjects.T,
            reference=subjects.reference_for(objective),
        )  # fmt: skip
        return made(state, frozen, batch)

    found = []
    for index in range(2):
        params = params_of(adapter, index, objective)
        trains = ["adapters/**", *(["head/**"] if "head" in params else [])]
        trainable, frozen = states.split(params, trains)
        key = jax.random.key(index)
        found.append((states.create(trainable, how_to_learn(1.0).tx, key=key), frozen))
    return one, *zip(*found, strict=True)


def adamw(rate, **more):
    own = dict(name="adamw", schedule="constant", total_steps=STEPS, weight_decay=0.1) | more
    return optimizer.make(learning_rate=rate, clip_norm=1.0, **own)


def batches_of(objective):
    """Draw a batch for each member: the second has the rows in another order."""
    batch = subjects.batch_for(objective)
    return [batch, jax.tree.map(lambda x: x[::-1].copy(), batch)]


def split_frozen(frozen):
    is_own = lambda path: path.startswith("adapters/")
    pick = lambda own: lambda path, leaf: leaf if is_own(path) == own else None
    return [tree.map_with_paths(pick(own), frozen) for own in (False, True)]


def together(states_of, frozen, batches, rates):
    """Return what the step of all members takes."""
    wide = members.widest([jax.eval_shape(lambda x: x, one) for one in states_of])
    each = members.stack([members.pad(one, wide) for one in states_of])
    shared, own = zip(*map(split_frozen, frozen), strict=True)
    wide = members.widest([jax.eval_shape(lambda x: x, one) for one in own])
    own = members.stack([members.pad(one, wide) for one in own])
    hyper = {"rate": jnp.asarray(rates, jnp.float32)}
    state = members.Members(jnp.int32(0), each, jnp.ones(len(rates), bool))
    return state, hyper, members.Frozen(shared[0], own), members.stack(batches)


def check_equal(adapter="lora", objective="sft", how="map", how_to_learn=adamw):
    one, alone, frozen = solo(adapter, objective, how_to_learn)
    batches = batches_of(objective)
    state, hyper, both, stacked = together(alone, frozen, batches, RATES)
    step = jax.jit(members.make_step(one, how=how))
    single = jax.jit(one)
    alone, losses = list(alone), []
    for _ in range(STEPS):
        state, metrics = step(state, hyper, both, stacked)
        for i, rate in enumerate(RATES):
            alone[i], own = single(alone[i], {"rate": jnp.float32(rate)}, frozen[i], batches[i])
            losses.append((metrics["loss"][i], own["loss"]))
    np.testing.assert_allclose(*np.transpose(losses), rtol=1e-5, atol=1e-5)
    assert int(state.step) == STEPS
    for i, expected in enumerate(alone):
        padded = members.take(state.each, i)
        found = members.cut(padded, expected)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
            found.params, expected.params,
        )  # fmt: skip
        check_padding(padded.params, expected.params)
    return state


def check_padding(padded, like):
    for path, leaf in tree.paths(padded).items():
        small = tree.paths(like)[path].shape
        outside = np.ones(leaf.shape, bool)
        outside[tuple(slice(size) for size in small)] = False
        assert not np.asarray(leaf)[outside].any(), path


def by_kind(names, kind_of):
    """List names; all but the first of a kind are slow: each compiles two programs or three."""
    known = set()
    for name in names:
        kind = kind_of(name)
        yield pytest.param(name, marks=[pytest.mark.slow] if kind in known else [])
        known.add(kind)


def kind_of_adapter(name):
    """Return whether it is a weight's, whether ranks may differ, whether it has data of its own."""
    classes = [
        own for own in vars(subjects.ADAPTERS[name]).values()
        if isinstance(own, type) and own.__module__ == subjects.ADAPTERS[name].__name__
    ]  # fmt: skip
    own = next(c for c in classes if issubclass(c, protocol.Adapter))
    return name in subjects.OF_WEIGHTS, own.PADS, len(own.FROZEN) > 1


def kind_of_objective(name):
    spec = subjects.OBJECTIVES[name].SPEC
    return name if spec.batch.sampled else (spec.data, spec.reference, bool(spec.heads))


@pytest.mark.parametrize("adapter", list(by_kind(subjects.ADAPTERS, kind_of_adapter)))
def test_every_adapter_method_trains_as_it_does_alone(adapter):
    check_equal(adapter)


@pytest.mark.parametrize("objective", list(by_kind(subjects.OBJECTIVES, kind_of_objective)))
def test_every_objective_trains_as_it_does_alone(objective):
    if subjects.OBJECTIVES[objective].SPEC.batch.sampled:
        chosen = settings.read(online(objective))
        with pytest.raises(ValueError, match="rollout: got a run that samples its own answers"):
            member_settings.check({"a": chosen, "b": chosen})
        return
    check_equal(objective=objective)


def online(objective):
    c = common.online(common.base(), prompts=1, samples=2, max_new_tokens=4)
    c.adapter = dict(name="lora", where="blocks/**", rank=2, alpha=4.0)
    c.objective = dict(name=objective)
    c.optim.learning_rate, c.steps = 1e-3, 1
    return c


def test_all_at_once_they_are_the_solo_runs():
    check_equal(how="vmap")


def test_one_whose_loss_is_not_finite_keeps_its_state_and_the_others_go_on():
    _, alone, frozen = solo("lora", "sft", adamw)
    state, _, both, batch = together(alone, frozen, batches_of("sft"), RATES)

    # Of the step alone: the model need not be there.
    def fake(state, hyper, frozen, batch):
        value = hyper["rate"] * state.step
        moved = jax.tree.map(lambda x: x + 1, state.params)
        return state._replace(step=state.step + 1, params=moved), {"loss": 1 / (2 - value)}

    step = jax.jit(members.make_step(fake, how="map"))
    before = state
    for _ in range(4):
        state, metrics = step(state, {"rate": jnp.array([1.0, 0.0])}, both, batch)
    assert state.alive.tolist() == [False, True]
    assert state.each.step.tolist() == [2, 4]
    assert int(state.step) == 4
    assert metrics["loss"].tolist() == [0.0, 0.5]
    moved = jax.tree.map(lambda a, b: (a - b).mean((-1, -2)), state.each.params, before.each.params)
    for leaf in jax.tree.leaves(moved):
        np.testing.assert_allclose(leaf[0], 2, rtol=1e-5)
        np.testing.assert_allclose(leaf[1], 4, rtol=1e-5)
    again, _ = step(members.end(state, 1), {"rate": jnp.array([1.0, 0.0])}, both, batch)
    jax.tree.map(np.testing.assert_array_equal, again.each.params, state.each.params)


@pytest.mark.parametrize("name", optimizer.names())
def test_zeros_of_the_padding_change_no_optimizer_but_those_that_say_so(name):
    """Ranks may differ under it, or it is in AVERAGES and they are refused."""
    tx = optimizer.make(
        name=name, learning_rate=0.1, schedule="constant", total_steps=9, clip_norm=1.0
    ).tx
    small = {"b": jnp.linspace(-1.0, 2.0, 12).reshape(3, 4)}
    wide = {"b": jnp.zeros((5, 4))}

    def train(params):
        state = tx.init(params)
        for scale in (1.0, -0.5, 2.0):
            grads = jax.tree.map(lambda x, scale=scale: scale * jnp.sin(x + 0.3) * (x != 0), params)
            moves, state = tx.update(grads, state, params)
            params = jax.tree.map(jnp.add, params, moves)
        return params

    alone, padded = jax.jit(lambda a, b: (train(a), train(b)))(small, members.pad(small, wide))
    same = np.allclose(members.cut(padded, small)["b"], alone["b"], rtol=1e-5, atol=1e-6)
    assert same == (name not in member_settings.AVERAGES)
    # Yogi's moments begin at 1e-6 and not at 0: it moves what has no gradient.
    assert np.asarray(padded["b"])[3:].any() == (name == "yogi")
