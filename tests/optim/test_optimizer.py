import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ftjax.optim import optimizer as chain

W = np.array([[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]], np.float32)
G = np.array([[0.3, -0.1, 0.0], [2.0, -1.5, 0.2]], np.float32)


def make(name="sgd", **keywords):
    given = dict(learning_rate=0.1, schedule="constant", total_steps=10) | keywords
    return chain.make(name=name, **given)


def run(optimizer, grads, params):
    """Apply one step for each tree of gradients."""
    state = optimizer.tx.init(params)
    for g in grads:
        moves, state = optimizer.tx.update(g, state, params)
        params = optax.apply_updates(params, moves)
    return params, state


def one(name, grads=(G,), **keywords):
    trees = [{"w": jnp.asarray(g)} for g in grads]
    return np.asarray(run(make(name, **keywords), trees, {"w": jnp.asarray(W)})[0]["w"])


def test_adamw_two_steps_by_hand():
    w, m, v = W.astype(np.float64), 0.0, 0.0
    for n, g in enumerate((G, -2 * G), start=1):
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        direction = (m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.95**n)) + 1e-6)
        w = w - 0.1 * (direction + 0.2 * w)
    got = one("adamw", (G, -2 * G), b2=0.95, eps=1e-6, weight_decay=0.2)
    np.testing.assert_allclose(got, w, rtol=1e-5)


def test_lion_two_steps_by_hand():
    w, m = W, np.zeros_like(W)
    for g in (G, -0.2 * G):
        w = w - 0.1 * (np.sign(0.9 * m + 0.1 * g) + 0.3 * w)
        m = 0.99 * m + 0.01 * g
    np.testing.assert_allclose(one("lion", (G, -0.2 * G), weight_decay=0.3), w, rtol=1e-5)


def test_sgd_with_momentum_three_steps_by_hand():
    w, trace = W, 0.0
    for _ in range(3):
        trace = G + 0.9 * trace
        w = w - 0.1 * trace
    np.testing.assert_allclose(one("sgd", (G, G, G), momentum=0.9), w, rtol=1e-5)


def test_adafactor_moves_by_rate_times_parameter_size():
    got = one("adafactor", multiply_by_parameter_scale=True, clipping_threshold=1.0)
    move = np.sqrt(np.mean((got - W) ** 2))
    assert 0 < move <= 0.1 * np.sqrt(np.mean(W**2)) * 1.001


# These find the size of their steps by themselves; the rate multiplies it, and is 1.
ESTIMATE = ("prodigy", "dadapt_adamw")


@pytest.mark.parametrize("name", chain.names())
def test_every_offered_optimizer_steps_as_optax_does(name):
    """The learning rate and the decoupled decay factor out of the named optimizer."""
    factory, rate = chain.factory(name), 1.0 if name in ESTIMATE else 0.1
    decays = "weight_decay" in inspect.signature(factory).parameters
    decays = decays and name not in chain.DECAY_INSIDE
    reference = factory(learning_rate=rate, **({"weight_decay": 0.2} if decays else {}))
    params, state = jnp.asarray(W), reference.init(jnp.asarray(W))
    for g in (G, -0.5 * G, 2 * G):
        moves, state = reference.update(jnp.asarray(g), state, params)
        params = optax.apply_updates(params, moves)
    decay = 0.2 if decays else 0.0
    got = one(name, (G, -0.5 * G, 2 * G), weight_decay=decay, learning_rate=rate)
    np.testing.assert_allclose(got, params, rtol=2e-5, atol=2e-6)


def test_the_usual_optimizers_are_offered():
    assert {"adamw", "adam", "adafactor", "lion", "sgd", "nadamw", "lamb"} <= set(chain.names())


@pytest.mark.parametrize("max_norm", [0.01, 1.0, 100.0])
def test_clip_is_torch_clip_grad_norm(max_norm):
    grads = {"x": jnp.asarray(G), "y": jnp.full((4,), 0.7, jnp.float32), "hole": None}
    norm = np.sqrt((G.astype(np.float64) ** 2).sum() + 4 * 0.49)
    factor = min(1.0, max_norm / (norm + 1e-6))
    got = chain.clip(grads, max_norm=max_norm)
    np.testing.assert_allclose(got["x"], G * factor, rtol=1e-5)
    np.testing.assert_allclose(got["y"], 0.7 * factor, rtol=1e-5)


def test_clipping_comes_before_the_optimizer():
    factor = 0.5 / (np.linalg.norm(G) + 1e-6)
    np.testing.assert_allclose(one("sgd", clip_norm=0.5), W - 0.1 * factor * G, rtol=1e-5)


def test_warmup_leaves_the_first_step_alone():
    schedule = {"name": "linear", "warmup_steps": 2}
    np.testing.assert_array_equal(one("adamw", (G,), schedule=schedule, weight_decay=0.1), W)
    two = one("sgd", (G, G), schedule=schedule)
    np.testing.assert_allclose(two, W - 0.05 * G, rtol=1e-5)
    assert make(schedule=schedule).learning_rate(1) == pytest.approx(0.05)


def adapters():
    lora = {"a": jnp.asarray(W), "b": jnp.asarray(W)}
    return {"adapters": {"q": lora}, "model": {"norm": jnp.asarray(W), "embed": None}}


def moves_of(optimizer, params):
    grads = jax.tree.map(lambda p: jnp.asarray(G), params)
    return optimizer.tx.update(grads, optimizer.tx.init(params), params)[0]


def test_lora_plus_moves_b_sixteen_times_as_far_as_a():
    plus = make("adamw", groups=[("**/b", {"lr_scale": 16.0})])
    moves = moves_of(plus, adapters())["adapters"]["q"]
    np.testing.assert_allclose(moves["b"], 16 * moves["a"], rtol=1e-6)


def test_no_decay_and_groups_of_decay_with_holes():
    optimizer = make(
        weight_decay=0.5, no_decay=["**/norm"], groups=[("**/b", {"weight_decay": 2.0})]
    )
    moves = moves_of(optimizer, adapters())
    np.testing.assert_allclose(moves["model"]["norm"], -0.1 * G, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(moves["adapters"]["q"]["a"], -0.1 * (G + 0.5 * W), rtol=1e-5)
    np.testing.assert_allclose(moves["adapters"]["q"]["b"], -0.1 * (G + 2.0 * W), rtol=1e-5)
    assert moves["model"]["embed"] is None


def test_a_pattern_without_a_leaf_raises_at_init():
    with pytest.raises(ValueError, match=r"optim\.no_decay.*bais"):
        make(no_decay=["**/bais"]).tx.init(adapters())


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"name": "adamww"}, r"optim\.name: got 'adamww'; did you mean 'adamw'\? .*lion"),
        ({"name": "adamw", "bb1": 0.9}, r"optim\.bb1: unknown key; did you mean 'b1'"),
        ({"name": "lamb", "weight_decay": 0.1}, "not decoupled"),
        ({"name": "sgd", "schedule": "cosin"}, r"optim\.schedule\.name"),
    ],
)
def test_rejects(keywords, message):
    with pytest.raises(ValueError, match=message):
        make(**keywords)


def test_a_dotted_name_is_a_module_with_make(tmp_path, monkeypatch):
    text = "import optax\ndef make(*, factor):\n    return optax.scale(-factor)\n"
    (tmp_path / "optim_lab").mkdir()
    (tmp_path / "optim_lab" / "mine.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    np.testing.assert_allclose(one("optim_lab.mine", factor=3.0), W - 0.3 * G, rtol=1e-5)


def test_bfloat16_trainables_have_float32_moments_and_moves():
    params = {"w": jnp.asarray(W, jnp.bfloat16)}
    optimizer = make("adamw")
    state = optimizer.tx.init(params)
    moves, state = optimizer.tx.update({"w": jnp.asarray(G, jnp.bfloat16)}, state, params)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(state) if leaf.ndim}
    assert kinds == {np.dtype("float32")} == {moves["w"].dtype}
    assert optax.apply_updates(params, moves)["w"].dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_bfloat16_steps_are_computed_in_float32(name):
    """The moves over bfloat16 leaves are bit for bit those over their values in float32."""
    narrow = jnp.asarray(W, jnp.bfloat16), jnp.asarray(1.37 * G, jnp.bfloat16)
    optimizer = make(name, clip_norm=0.3, weight_decay=0.1)

    def moves(w, g):
        return optimizer.tx.update({"w": g}, optimizer.tx.init({"w": w}), {"w": w})[0]["w"]

    wide = [x.astype(jnp.float32) for x in narrow]
    np.testing.assert_array_equal(moves(*narrow), moves(*wide))


def test_state_is_arrays_and_keeps_its_types_over_a_step():
    optimizer = make("adamw", clip_norm=1.0, schedule="cosine")
    params = adapters()
    state = optimizer.tx.init(params)
    grads = jax.tree.map(jnp.ones_like, params)
    after = jax.eval_shape(optimizer.tx.update, grads, state, params)[1]
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    types = lambda s: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), s)
    assert types(after) == types(jax.eval_shape(lambda: state))


def test_vmapped_members_equal_solo_runs_with_their_own_rates():
    rates, decays = jnp.array([0.01, 0.1, 0.3]), jnp.array([0.0, 0.1, 0.5])
    weights = jnp.stack([W, 2 * W, -W])
    grads = [{"w": jnp.asarray(G)}, {"w": jnp.asarray(-0.3 * G)}]

    def member(rate, decay, w):
        optimizer = make("adamw", learning_rate=rate, weight_decay=decay, clip_norm=1.0)
        return run(optimizer, grads, {"w": w})[0]["w"]

    together = jax.jit(jax.vmap(member))(rates, decays, weights)
    alone = [member(*each) for each in zip(rates, decays, weights, strict=True)]
    np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion"])
def test_state_shardings_follow_the_parameters(name):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data", None))
    everywhere = NamedSharding(mesh, PartitionSpec())
    shapes = {"w": jax.ShapeDtypeStruct((16, 3), jnp.float32), "hole": None}
    optimizer = make(name, groups=[("w", {"lr_scale": 2.0})])
    places = chain.state_shardings(optimizer.tx, shapes, {"w": split, "hole": None})
    state = jax.eval_shape(optimizer.tx.init, shapes)
    want = jax.tree.map(lambda leaf: split if leaf.shape == (16, 3) else everywhere, state)
    assert places == want
    params = {"w": jax.device_put(jnp.ones((16, 3)), split), "hole": None}
    made = jax.jit(optimizer.tx.init, out_shardings=places)(params)
    assert jax.tree.map(lambda leaf: leaf.sharding, made) == want
    assert split in jax.tree.leaves(want)


def test_state_shardings_of_members():
    mesh = jax.make_mesh((8,), ("member",), axis_types=(jax.sharding.AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("member"))
    shapes = {"w": jax.ShapeDtypeStruct((8, 2, 3), jnp.float32)}
    tx = make("adamw").tx
    places = chain.state_shardings(tx, shapes, {"w": split}, init=jax.vmap(tx.init))
    made = jax.jit(jax.vmap(tx.init), out_shardings=places)({"w": jnp.ones((8, 2, 3))})
    assert [x.sharding.spec for x in jax.tree.leaves(made) if x.ndim == 3] == [split.spec] * 2


def test_l2sp_pulls_beside_the_direction_and_adam_does_not_see_it():
    """As a decoupled decay towards the start: at the first step there is nothing to pull."""
    plain, pulled = (one("adam", (G, G), l2sp=each) for each in (0.0, 0.5))
    first = one("adam")
    np.testing.assert_allclose(pulled, plain - 0.1 * 0.5 * (first - W), rtol=1e-5)


def test_averaging_goes_a_share_of_the_way_back_when_it_is_time():
    average = dict(every_steps=2, share=0.25)
    w = W - 0.1 * 2 * G
    w = w + 0.25 * (W - w)
    np.testing.assert_allclose(one("sgd", (G, G), average=average), w, rtol=1e-5)
    w = w - 0.1 * G
    np.testing.assert_allclose(one("sgd", (G, G, G), average=average), w, rtol=1e-5)
    last = one("sgd", (G, G, G), average=average, total_steps=3)
    np.testing.assert_allclose(last, w + 0.25 * (W - w), rtol=1e-5)


def test_no_strength_is_the_optimizer_without_to_the_bit():
    off = dict(
        l2sp=0.0, average=dict(every_steps=1, share=0.0), sam=dict(rho=0.0), layer_decay=1.0,
        projected={}, galore={},
    )  # fmt: skip
    params = {"model": {"w": jnp.asarray(W)}}
    plain, other = (run(make("adamw", **each), [params], params) for each in ({}, off))
    jax.tree.map(np.testing.assert_array_equal, plain, other)


@pytest.mark.parametrize("key", [dict(l2sp=0.1), dict(average=dict(every_steps=2, share=0.5))])
def test_factors_of_adapters_are_not_pulled_to_their_start(key):
    with pytest.raises(ValueError, match=r"optim\.(l2sp|average): .*adapters/q/a trains; expected"):
        make(**key).tx.init(adapters())


def test_layers_move_less_towards_the_input():
    stacked = jnp.stack([jnp.asarray(W)] * 3)
    params = {
        "model": {"blocks": {"q": stacked}, "embed": jnp.asarray(W), "head": jnp.asarray(W)},
        "adapters": {"late": {"q": {"a": stacked[:1]}}},
    }  # fmt: skip
    optimizer = make(layer_decay=0.5, depths={"blocks": (0, 1, 3), "late": (2,)})
    grads = jax.tree.map(lambda p: jnp.broadcast_to(G, p.shape), params)
    moves, _ = optimizer.tx.update(grads, optimizer.tx.init(params), params)
    scale = lambda leaf: np.asarray(leaf).reshape(-1, G.size)[:, 0] / (-0.1 * G[0, 0])
    np.testing.assert_allclose(scale(moves["model"]["blocks"]["q"]), [0.5**4, 0.5**3, 0.5])
    np.testing.assert_allclose(scale(moves["adapters"]["late"]["q"]["a"]), [0.5**2])
    np.testing.assert_allclose(scale(moves["model"]["embed"]), [0.5**5])
    np.testing.assert_allclose(scale(moves["model"]["head"]), [1])
    shared = {"model": {"blocks": {"q": jnp.asarray(W)}}}
    with pytest.raises(ValueError, match=r"layer_decay: got model/blocks/q of the shape .2, 3."):
        optimizer.tx.update(shared, optimizer.tx.init(shared), shared)
