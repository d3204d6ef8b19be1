"""Layers in groups and stacks, adapter arrays that layers share, adapters of embeddings."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.adapters.lib import protocol
from ftjax.core import tree
from ftjax.models import decoder, layer_runs
from ftjax.models.families import llama
from ftjax.models.hf import checkpoint
from tests.laws import subjects

A, B = (decoder.Kind("blocks", window, None) for window in (None, 3))


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ("A", "1 A"),
        ("AAAA", "4 A"),
        ("ABABAB", "3 AB"),
        ("BBABBABB", "2 BBA, 2 B"),
        ("BBBBBABBBBBAB", "2 BBBBBA, 1 B"),
        ("AAAABB", "4 A, 2 B"),
        ("ABBBB", "1 A, 4 B"),
        ("BBA", "2 B, 1 A"),
        ("BA", "1 B, 1 A"),
    ],
)
def test_runs_repeat_the_largest_groups(kinds, expected):
    names = {"A": A, "B": B}
    found = layer_runs.runs(tuple(names[letter] for letter in kinds))
    letter = lambda kind: "A" if kind == A else "B"
    written = [f"{run.count} {''.join(map(letter, run.group))}" for run in found]
    assert ", ".join(written) == expected
    ends = [run.first + run.count * len(run.group) for run in found]
    assert [run.first for run in found] == [0, *ends[:-1]]
    assert ends[-1] == len(kinds)


@dataclasses.dataclass(frozen=True)
class Mixed(llama.Config):
    """A llama whose layers have kinds of their own choice, in two stacks."""

    pattern: tuple[tuple[str, int | None], ...]

    @property
    def kinds(self):
        return tuple(decoder.Kind(stack, window, self.rope) for stack, window in self.pattern)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Toy(protocol.Adapter):
    """w * (1 + gain * common): `common` is one scalar for all layers of a stack."""

    common: jax.Array
    gain: jax.Array

    def merge(self, equation, w):
        return w * (1 + self.gain * self.common).astype(w.dtype)

    def axes(self, equation):
        return Toy(tree.Shared(""), "")


def toy(key, site, w):
    return Toy(tree.Shared(jnp.float32(0.3)), jax.random.normal(key))


LONG, SHORT, DENSE = ("blocks", None), ("blocks", 2), ("dense", None)
PATTERNS = {"alternating": (SHORT, LONG) * 2 + (SHORT,), "stacks": (DENSE, SHORT) * 2 + (DENSE,)}


def mixed(pattern, **options):
    config = dataclasses.replace(llama.from_hf(llama.EXAMPLE), layers=len(pattern))
    config = Mixed(**vars(config), pattern=pattern)
    stacks = {"blocks": llama.Block, "dense": llama.Block}
    return decoder.make(config, ends=llama.ends, blocks=stacks, **options)


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradients(model, params, adapters, batch):
    def loss(params, adapters):
        x = subjects.forward(model, params, batch, adapters=adapters)
        return jnp.square(x).mean()

    return jax.value_and_grad(loss, (0, 1))(params, adapters)


@functools.cache
def subject(name):
    """A model with weights and adapters, one of them with an array that layers share."""
    model = mixed(PATTERNS[name])
    params = subjects.jitter(jax.jit(model.init)(jax.random.key(0)), scale=0.1)
    where = [*(f"{stack}/attn/q" for stack in model.stacks), "embed"]
    init = jax.jit(lambda key: protocol.init(toy, key, model.linears, params, where=where))
    return model, params, init(jax.random.key(1))


@pytest.mark.parametrize("name", PATTERNS)
def test_groups_and_stacks_are_the_layers_one_by_one(name):
    model, params, adapters = subject(name)
    batch, loop = subjects.batch(), mixed(PATTERNS[name], scan=False)
    got = loss_and_gradients(model, params, adapters, batch)
    subjects.close(got, loss_and_gradients(loop, params, adapters, batch))
    assert all(g.any() for g in jax.tree.leaves(got[1][1]))


@pytest.mark.parametrize("name", PATTERNS)
def test_layers_share_an_array(name):
    model, params, adapters = subject(name)
    arrays, letters = tree.paths(adapters), tree.paths(protocol.axes(adapters, model.linears))
    assert arrays.keys() == letters.keys()
    for path, array in arrays.items():
        assert array.ndim == (path.endswith("gain") and path != "embed/gain"), path
        assert letters[path] == "L" * array.ndim
    merged = jax.jit(lambda: protocol.merge(params, adapters, model.linears))()
    applied = subjects.forward(model, params, subjects.batch(), adapters=adapters)
    off = dict(adapters=jax.tree.map(lambda x: 0 * x, adapters))
    subjects.close(subjects.forward(model, merged, subjects.batch(), **off), applied)


def test_stacks_only_divide_the_layers():
    """The same numbers in one stack, each layer at its place, compute the same."""
    model, params, _ = subject("stacks")
    one = mixed(tuple(("blocks", window) for _, window in PATTERNS["stacks"]))
    order = np.argsort(np.concatenate(list(model.stacks.values())))
    join = lambda *leaves: jnp.concatenate(leaves)[order]
    whole = jax.tree.map(join, *(params[stack] for stack in model.stacks))
    plain = {k: v for k, v in params.items() if k not in model.stacks} | {"blocks": whole}
    expected = subjects.forward(one, plain, subjects.batch())
    subjects.close(subjects.forward(model, params, subjects.batch()), expected)


def test_a_cache_follows_groups_and_stacks():
    model, params, _ = subject("stacks")
    tokens = np.random.default_rng(0).integers(1, 64, (2, 6)).astype(np.int32)
    ones, at = np.ones_like(tokens), np.broadcast_to(np.arange(6), (2, 6))
    whole = subjects.forward(model, params, dict(tokens=tokens, positions=at, segments=ones))
    cache = model.init_cache(batch=2, length=6)
    for i in range(6):
        one = dict(tokens=tokens[:, [i]], positions=at[:, [i]], segments=ones[:, [i]])
        x, cache = subjects.forward(model, params, one, cache=cache)
        subjects.close(x[:, 0], whole[:, i])


def test_a_checkpoint_numbers_layers_through_all_stacks():
    model = mixed(PATTERNS["stacks"])
    dense = {path.replace("blocks", "dense"): name for path, name in llama.NAMES.items()}
    plan = checkpoint.stored(model, llama.NAMES | dense)
    names = [name for _, name in plan["dense/attn/q"].names()]
    assert names == [f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 2, 4)]
    every = [name for s in plan.values() for _, name in s.names()]
    assert len(every) == len(set(every)) == 2 + 9 * len(model.config.kinds)


def test_what_depends_on_the_layer_cannot_be_shared():
    model = mixed(PATTERNS["alternating"])
    wrong = lambda key, site, w: Toy(tree.Shared(w.mean()), jnp.float32(1))
    init = lambda key: protocol.init(wrong, key, model.linears, model.init(key), where="**/q")
    with pytest.raises(ValueError, match="out_axes"):
        jax.eval_shape(init, jax.random.key(0))


@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_of_the_embedding_is_its_merged_table(tied):
    model, batch = subjects.model("llama", tied=tied), subjects.batch()
    params = subjects.weights("llama", tied=tied)
    adapters = subjects.randomised(subjects.adapters("lora", "llama", where="embed", tied=tied))
    merged = protocol.merge(params, adapters, model.linears)
    assert np.abs(merged["embed"] - params["embed"]).max() > 1e-3

    @jax.jit
    def outputs(params, adapters):
        x = subjects.forward(model, params, batch, adapters=adapters)
        return x, model.logits(params, x, adapters=adapters)

    subjects.close(outputs(params, adapters), outputs(merged, None))
