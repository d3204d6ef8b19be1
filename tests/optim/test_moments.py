"""Moments in 8 bits: the code against the table of the paper, blocks, memory, meshes, members."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ftjax.core import tree
from ftjax.optim import moments
from ftjax.optim import optimizer as chain


def make(name="adamw", **keywords):
    given = dict(learning_rate=0.01, schedule="constant", total_steps=10, state_dtype="int8")
    return chain.make(name=name, **given | keywords)


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def levels(bits):
    """List the code's positive values: of each decade twice as many as of the one below."""
    ends = [np.linspace(0.1, 1.0, 2**k + 1)[1:] * 10.0 ** (k + 1 - bits) for k in range(bits)]
    return np.concatenate(ends)


def wide(spread, shape, seed=0):
    """Draw numbers over decades, with signs."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * 10.0 ** rng.uniform(-spread, 0, shape)
    return x.astype(np.float32)


@pytest.mark.parametrize("signed", [True, False])
def test_every_value_becomes_the_nearest_of_the_code(signed):
    x = wide(5, (64, 128))
    x = x if signed else np.abs(x)
    table = levels(7 if signed else 8)
    # Of values without signs none becomes zero.
    table = np.concatenate([-table, [0.0], table]) if signed else table
    largest = np.abs(x).max(1, keepdims=True)
    y = (x / largest).astype(np.float64)
    nearest = table[np.abs(y[..., None] - table).argmin(-1)] * largest
    got = np.asarray(moments.dequantize(moments.quantize(jnp.asarray(x))))
    # Halfway between two either is right.
    better = np.abs(got - x) <= np.abs(nearest - x) * (1 + 1e-4) + 2e-7 * largest
    assert better.all()
    assert np.mean(got == nearest.astype(np.float32)) > 0.2 or np.allclose(got, nearest, rtol=2e-6)


@pytest.mark.parametrize(("signed", "steps"), [(True, 64), (False, 128)])
def test_errors_are_half_a_step_of_the_decade(signed, steps):
    x = wide(3, (128, 256), seed=1)
    x = x if signed else np.abs(x)
    got = np.asarray(moments.dequantize(moments.quantize(jnp.asarray(x))))
    largest = np.abs(x).reshape(128, 2, 128).max(2).repeat(128, 1)
    decade = np.floor(-np.log10(np.abs(x) / largest + 1e-9)).clip(0, 3)
    half = 0.5 * 0.9 / (steps / 2**decade) / 10**decade * largest
    assert np.all(np.abs(got - x) <= half * (1 + 1e-4))
    assert np.abs(got - x).max() > 0.5 * half.max()


def test_the_largest_of_a_block_is_exact_and_nothing_moves_a_second_time():
    x = jnp.asarray(wide(6, (64, 128)))
    once = moments.dequantize(moments.quantize(x))
    at = np.abs(x).argmax(1)
    np.testing.assert_array_equal(np.asarray(once)[range(64), at], np.asarray(x)[range(64), at])
    np.testing.assert_array_equal(moments.dequantize(moments.quantize(once)), once)


def test_squares_never_become_zero_and_zeros_stay():
    x = np.zeros((64, 128), np.float32)
    x[:, 0], x[:, 1] = 1.0, 1e-20
    got = np.asarray(moments.dequantize(moments.quantize(jnp.asarray(x))))
    np.testing.assert_allclose(got[:, 1], 1e-7, rtol=1e-5)
    assert np.all(got[:, 2:] == 0)
    nothing = moments.quantize(jnp.zeros((64, 128)))
    np.testing.assert_array_equal(moments.dequantize(nothing), 0)


@pytest.mark.parametrize(
    ("shape", "scales"),
    [
        ((32, 4096, 14336), (32, 32, 14336)),  # the width has more factors of two
        ((32, 4096, 8), (32, 32, 8)),  # LoRA's a
        ((4096, 32, 128), (32, 32, 128)),
        ((50257, 768), (50257, 6)),  # a vocabulary of an odd size
        ((2, 64, 96), (2, 1, 96)),  # shorter blocks
    ],
)
def test_blocks_lie_where_meshes_cut_evenly(shape, scales):
    found = jax.eval_shape(moments.quantize, jax.ShapeDtypeStruct(shape, jnp.float32))
    assert (found.codes.shape, found.codes.dtype) == (shape, jnp.int8)
    assert (found.scales.shape, found.scales.dtype) == (scales, jnp.float32)


@pytest.mark.parametrize("shape", [(4095,), (16, 128), (31, 1000), (5001, 3)])
def test_small_arrays_and_odd_ones_stay(shape):
    x = jnp.ones(shape)
    assert moments.quantize(x) is x


def test_a_state_is_a_quarter_and_small_leaves_are_float32():
    params = {"w": jnp.zeros((512, 256)), "norm": jnp.zeros(256)}
    size = lambda dtype: tree.bytes_of(make(state_dtype=dtype).tx.init(params))
    of_norm = 2 * 4 * 256 + 8  # and two counts
    assert size("float32") == 2 * 4 * 512 * 256 + of_norm
    assert size("int8") == 2 * 512 * 256 * (1 + 4 / 128) + of_norm
    types = {p: str(x.dtype) for p, x in tree.paths(make().tx.init(params).inner).items()}
    assert types["0/mu/norm"] == types["0/nu/norm"] == "float32"
    assert types["0/mu/w/codes"] == types["0/nu/w/codes"] == "int8"


def moved(tx, params, grads, steps=200):
    """Follow a noisy slope; returns how far weights went, by leaf."""

    def body(carry, key):
        w, state = carry
        noise = lambda path, g: g + jax.random.normal(jax.random.fold_in(key, len(path)), g.shape)
        moves, state = tx.update(tree.map_with_paths(noise, grads), state, w)
        return (jax.tree.map(jnp.add, w, moves), state), None

    first = params, tx.init(params)
    return jax.lax.scan(body, first, jax.random.split(jax.random.key(9), steps))[0][0]


@pytest.mark.parametrize("name", moments.AVERAGES)
def test_weights_go_where_they_go_with_float32_moments(name):
    params = {"w": jnp.ones((64, 128))}
    grads = {"w": draw(1, 64, 128) * jnp.exp(draw(2, 64, 128))}
    keys = {"momentum": 0.9} if name == "sgd" else {}
    runs = [
        jax.jit(lambda dtype=dtype: moved(make(name, state_dtype=dtype, **keys).tx, params, grads))
        for dtype in ("float32", "int8")
    ]
    one, other = (np.asarray(run()["w"]) - 1 for run in runs)
    assert np.std(one) > 0
    # Rounding is seen, and small beside what was learned.
    assert 0 < np.sqrt(np.mean((one - other) ** 2) / np.mean(one**2)) < 0.1
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.997


PARAMS = {"a": draw(1, 64, 128), "b": {"c": draw(2, 2, 128, 96), "norm": jnp.ones(7)}, "no": None}


def follow(name, inner, steps=3):
    """Update some parameters with moments in 8 bits, by an optimizer that goes by `name`."""
    tx = moments.kept_in(inner, "int8", name=name, where="optim")
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    for step in range(steps):
        noise = lambda p, step=step: draw(10 * step + p.ndim, *p.shape)
        moves, state = update(jax.tree.map(noise, PARAMS), state, PARAMS)
    return moves, state


@pytest.mark.parametrize("name", moments.AVERAGES)
def test_one_parameter_after_the_other_is_all_at_once(name):
    inner = chain.factory(name)(1.0, **({"momentum": 0.9} if name == "sgd" else {}))
    (moves, state), (wanted, together) = (follow(each, inner) for each in (name, "my_lab.all"))
    assert jax.tree.structure((moves, state)) == jax.tree.structure((wanted, together))

    def close(one, other):
        # By the last bit of a product and a sum; a code may then fall on the other side.
        wide = lambda x: np.asarray(x, np.float64)
        apart = 1 if one.dtype == jnp.int8 else 1e-7  # Nesterov's moves are a sum that cancels
        np.testing.assert_allclose(wide(one), wide(other), rtol=1e-6, atol=apart)

    jax.tree.map(close, (moves, state), (wanted, together))


def test_moments_of_a_parameter_wait_for_those_before():
    """Else a TPU's compiler starts them all, and has all of them as float32 at once."""
    lowered = {}
    for name in ("adam", "my_lab.all"):
        tx = moments.kept_in(optax.adam(1.0), "int8", name=name, where="optim")
        lowered[name] = jax.jit(tx.update).lower(PARAMS, tx.init(PARAMS), PARAMS).as_text()
    waits = [text.count("stablehlo.optimization_barrier") for text in lowered.values()]
    assert waits == [len(jax.tree.leaves(PARAMS)) - 1, 0]


@pytest.mark.parametrize("name", ["adagrad", "prodigy", "yogi", "ademamix"])
def test_what_is_no_average_is_refused(name):
    with pytest.raises(ValueError, match=f"optim.state_dtype: got 'int8' with '{name}'"):
        make(name)


def test_groups_decay_and_schedules_act_around_it():
    """With moments that 8 bits hold without an error, the moves are those of float32."""
    params = {"a": jnp.ones((64, 128)), "b": 2 * jnp.ones((64, 128))}
    grads = jax.tree.map(jnp.ones_like, params)  # all of a block are its largest
    keys = dict(schedule=dict(name="cosine", warmup_steps=2), weight_decay=0.1, clip_norm=1.0,
                no_decay=("b",), groups=[("a", {"lr_scale": 3.0})], l2sp=0.2)  # fmt: skip
    found = []
    for dtype in ("float32", "int8"):
        tx, w = make(state_dtype=dtype, **keys).tx, params
        state = tx.init(w)
        for _ in range(4):
            moves, state = tx.update(grads, state, w)
            w = jax.tree.map(jnp.add, w, moves)
        found.append(w)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *found)


def mesh_of(**sizes):
    axes, auto = tuple(sizes), jax.sharding.AxisType.Auto
    return jax.make_mesh(tuple(sizes.values()), axes, axis_types=(auto,) * len(axes))


@pytest.mark.parametrize("width", [1024, 128 * 3])
def test_codes_and_scales_lie_with_their_parameter(width):
    """Scales whose number the mesh does not divide are whole, and the numbers are the same."""
    mesh = mesh_of(fsdp=4, tensor=2)
    split = NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
    shapes = {"w": jax.ShapeDtypeStruct((width, 12), jnp.float32), "hole": None}
    tx = make().tx
    places = chain.state_shardings(tx, shapes, {"w": split, "hole": None})
    own = places.inner[0].mu["w"]
    scales = PartitionSpec("fsdp" if width == 1024 else None, "tensor")
    assert (own.codes, own.scales.spec) == (split, scales)

    def steps(w, state):
        for n in range(3):
            given = {"w": draw(n, width, 12), "hole": None}
            moves, state = tx.update(given, state, {"w": w, "hole": None})
            w = w + moves["w"]
        return w, state

    w = draw(3, width, 12)
    alone = jax.jit(steps)(w, tx.init({"w": w, "hole": None}))
    cut = jax.device_put(w, split)
    state = jax.jit(tx.init, out_shardings=places)({"w": cut, "hole": None})
    cut = jax.jit(steps, out_shardings=(split, places))(cut, state)
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(cut), strict=True):
        if a.dtype == jnp.int8:  # what is halfway between two codes may go to either
            assert np.mean(np.asarray(a) != np.asarray(b)) < 0.01
        else:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_blocks_of_a_part_need_no_other_part():
    mesh = mesh_of(fsdp=8)
    split = NamedSharding(mesh, PartitionSpec("fsdp", None))
    x = jax.ShapeDtypeStruct((1024, 16), jnp.float32, sharding=split)
    there = lambda x: moments.dequantize(moments.quantize(x))
    text = jax.jit(there, out_shardings=split).lower(x).compile().as_text()
    assert not any(
        word in text for word in ("all-gather", "all-reduce", "collective", "all-to-all")
    )


def test_members_equal_solo_runs():
    weights = draw(5, 3, 64, 128)

    def member(w):
        tx = make(clip_norm=1.0).tx
        state = tx.init({"w": w})
        for n in range(3):
            moves, state = tx.update({"w": jnp.sin(w * 5 + n)}, state, {"w": w})
            w = w + moves["w"]
        return w, state

    together = jax.jit(jax.vmap(member))(weights)
    alone = [jax.jit(member)(w) for w in weights]
    for n, own in enumerate(alone):
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(own), strict=True):
            np.testing.assert_allclose(a[n], b, rtol=1e-5, atol=1e-6)


def test_a_low_rank_keeps_its_projections():
    from ftjax.optim import galore

    views = {"w": galore.View("BTD,DF->BTF", False)}
    tx = make("adamw", galore=dict(rank=16), views=views).tx
    state = tx.init({"w": jnp.zeros((256, 512))}).inner
    assert state.projections["w"].dtype == jnp.float32
    assert state.inner[0].mu["w"].codes.shape == (16, 512)
