"""Laws of methods that put virtual tokens before every example: prompts and prefixes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.adapters.lib import protocol
from ftjax.adapters.prefix import Prefix
from ftjax.adapters.prompt import Prompt
from ftjax.core import einsum, tree
from ftjax.evals.lib import scoring
from ftjax.sampling import generation
from tests.laws import subjects

IDS = np.array([7, 3, 30], np.int32)  # real tokens, to compare virtual ones with
each = pytest.mark.parametrize("name", subjects.OF_MODELS)
each_family = pytest.mark.parametrize("family", subjects.by_program())


def random(name):
    return subjects.randomised(subjects.adapters(name, subjects.PLAIN))


def row(tokens):
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    return {"tokens": tokens, "positions": positions, "segments": np.ones_like(tokens)}


def run(handle, params, batch, **options):
    return handle.hidden(
        params, batch["tokens"], positions_BT=batch["positions"],
        segments_BT=batch["segments"], **options,
    )  # fmt: skip


@each_family
def test_virtual_tokens_do_what_real_ones_do(family):
    """A prompt of the tokens' embeddings, and a prefix of their keys and values."""
    handle, tokens = subjects.model(family), np.arange(1, 9, dtype=np.int32)[None]
    longer = np.concatenate([IDS[None], tokens], axis=1)
    order = np.argsort(np.concatenate(list(handle.stacks.values())))

    @jax.jit
    def outputs(params):
        cache = handle.init_cache(batch=1, length=longer.shape[1])
        _, cache = run(handle, params, row(IDS[None]), cache=cache)
        adapted = [{"prompt": Prompt(params["embed"][IDS])}]
        if not handle.caches:  # all layers have keys and values of one shape
            of_layers = lambda name: jnp.concatenate([own[name] for own in cache.values()])[order]
            k_LBSKH, v_LBSKH = jnp.moveaxis(of_layers("k"), -1, 2), of_layers("v").swapaxes(2, 3)
            prefix = Prefix(*(x[:, 0, : len(IDS)] for x in (k_LBSKH, v_LBSKH)))
            adapted.append({"prefix": prefix})
        return (
            run(handle, params, row(longer))[:, len(IDS) :],
            *(run(handle, params, row(tokens), adapters=adapters) for adapters in adapted),
        )

    wanted, *both = outputs(subjects.weights(family))
    for got in both:
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_a_prefix_is_refused_where_layers_have_no_keys():
    family = "qwen3_next"
    handle, params = subjects.model(family), subjects.weights(family)
    prefix = {"prefix": Prefix(*(jnp.zeros((2, 3, 2, 8)) for _ in range(2)))}
    with pytest.raises(ValueError, match="expected a prompt, or an adapter of weights"):
        run(handle, params, row(IDS[None]), adapters=prefix)


@each
def test_cached_decoding_sees_them_too(name):
    handle, params = subjects.model(subjects.PLAIN), subjects.weights(subjects.PLAIN)
    found, (rows, length, width) = random(name), (2, 8, 5)
    tokens = np.random.default_rng(3).integers(1, 64, (rows, length)).astype(np.int32)
    whole = row(tokens)
    part = lambda *span: {name: leaf[:, slice(*span)] for name, leaf in whole.items()}
    forward = functools.partial(subjects.forward, handle, params, adapters=found)
    full = np.asarray(forward(whole))
    x, cache = forward(part(width), cache=handle.init_cache(batch=rows, length=length))
    subjects.close(x, full[:, :width])
    for t in range(width, length):
        x, cache = forward(part(t, t + 1), cache=cache)
        subjects.close(x[:, 0], full[:, t])


@each
def test_every_example_of_a_packed_row_sees_them(name):
    family = subjects.PLAIN
    handle, params, found = subjects.model(family), subjects.weights(family), random(name)
    batch = {key: leaf[:1] for key, leaf in subjects.batch().items()}
    second = batch["segments"][0] == 2
    assert second.any()
    assert not second.all()
    pad = lambda leaf: np.pad(leaf[:, second], ((0, 0), (0, (~second).sum())))
    packed, apart = (
        np.asarray(subjects.forward(handle, params, b, adapters=found))
        for b in (batch, {key: pad(leaf) for key, leaf in batch.items()})
    )
    own = packed[:, second]
    np.testing.assert_allclose(own, apart[:, : own.shape[1]], rtol=1e-4, atol=1e-5)
    off = np.asarray(subjects.forward(handle, params, batch))
    assert np.abs(off - packed)[:, second].max() > 1e-3


@each
def test_they_have_letters_train_in_float32_and_do_not_merge(name):
    family = subjects.PLAIN
    handle, method = subjects.model(family), subjects.method(name)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), subjects.weights(family))
    draw = functools.partial(protocol.init, method, where="", sizes=handle.config.sizes)
    found = draw(jax.random.key(0), handle.linears, half)
    letters = tree.paths(protocol.axes(found, handle.linears))
    sizes = handle.config.sizes | {"S": subjects.ADAPTERS[name].EXAMPLE["tokens"]}
    for path, array in tree.paths(found).items():
        assert array.dtype == jnp.float32
        assert einsum.sizes(letters[path], array.shape).items() <= sizes.items()
    with pytest.raises(ValueError, match="changes none and has to stay an adapter"):
        protocol.merge(half, found, handle.linears)
    with pytest.raises(ValueError, match=r"adapter\.where: got 'blocks/\*\*'"):
        protocol.init(method, jax.random.key(0), handle.linears, half, where="blocks/**")


def test_a_prompt_and_a_prefix_exclude_each_other():
    family = subjects.PLAIN
    both = {}
    for name in subjects.OF_MODELS:
        both |= subjects.adapters(name, family)
    assert len(both) == 2
    with pytest.raises(ValueError, match="got a prompt and a prefix"):
        subjects.forward(
            subjects.model(family), subjects.weights(family), subjects.batch(), adapters=both
        )


@pytest.fixture(scope="module", params=subjects.OF_MODELS)
def learned(request):
    """A model that looks its positions up, with virtual tokens: handle, params, their number."""
    family, name = "gpt2", request.param
    found = subjects.randomised(subjects.adapters(name, family))
    params = {"model": subjects.weights(family), "adapters": found}
    return subjects.model(family), params, subjects.ADAPTERS[name].EXAMPLE["tokens"]


def test_examples_may_fill_what_virtual_tokens_leave_of_the_positions(learned):
    handle, params, count = learned
    most = handle.max_length(params["adapters"])
    assert most + count == handle.max_length() == handle.config.max_positions
    prompts = np.full((1, most - 2), 5, np.int32)
    generate = generation.make(handle, max_new_tokens=2)
    output = generate(params, prompts, np.int32([most - 2]), jax.random.key(0))
    assert np.isfinite(output.logps).all()
    score = scoring.make_scorer(handle, batch_size=1)
    logp, _ = score(params, [(np.full(most, 5), np.ones(most))])
    assert np.isfinite(logp).all()


def test_longer_examples_are_errors_before_anything_runs(learned):
    handle, params, _ = learned
    most, key = handle.max_length(params["adapters"]), jax.random.key(0)
    prompts, lengths = np.full((1, most - 1), 5, np.int32), np.int32([most - 1])
    message = f"expected at most {most}"
    with pytest.raises(ValueError, match=message):
        generation.make(handle, max_new_tokens=2)(params, prompts, lengths, key)
    with pytest.raises(ValueError, match=message):
        next(generation.make_stream(handle, max_new_tokens=2)(params, prompts[0], key))
    score = scoring.make_scorer(handle, batch_size=1)
    with pytest.raises(ValueError, match=message):
        score(params, [(np.full(most + 1, 5), np.ones(most + 1))])
