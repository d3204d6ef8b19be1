import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.core import shapes, tree
from ftjax.models.families import granitemoehybrid
from ftjax.ops import rope
from ftjax.sampling import generation

NEW = 12
PROMPTS = [[5, 11, 7], [9], [4, 4, 30, 31, 8, 40, 2, 17, 22]]


@dataclasses.dataclass
class Counted:
    """A model that counts how often its forward pass is traced."""

    model: object
    traces: int = 0

    def __post_init__(self):
        self.config, self.init_cache = self.model.config, self.model.init_cache
        self.logits, self.cast = self.model.logits, self.model.cast
        self.max_length = self.model.max_length

    def hidden(self, *args, **kwargs):
        self.traces += 1
        return self.model.hidden(*args, **kwargs)


def batch(prompts, width=None, fill=0):
    lengths = np.int32([len(p) for p in prompts])
    return shapes.pad_rows(prompts, width or max(lengths), fill=fill), lengths


@functools.cache
def forward(model):
    """One pass without a cache, over 24 tokens."""

    def logits(params, tokens, positions, segments):
        x = model.hidden(
            params["model"], tokens, positions_BT=positions, segments_BT=segments,
            adapters=params["adapters"],
        )  # fmt: skip
        return model.logits(params["model"], x, adapters=params["adapters"])

    return jax.jit(logits)


def full_logits(model, params, ids):
    """Logits after every token of one row."""
    positions = np.arange(24)[None]
    tokens, segments = shapes.pad_rows([ids], 24, fill=0), np.int32(positions < len(ids))
    return np.asarray(forward(model)(params, tokens, positions, segments)[0, : len(ids)])


@pytest.fixture(scope="module")
def generate(model):
    return generation.make(model, max_new_tokens=NEW)


@pytest.fixture(scope="module")
def sample(model):
    return generation.make(model, max_new_tokens=NEW, temperature=1.0)


@pytest.mark.parametrize("which", ["params", "adapted"])
def test_greedy_is_the_argmax_of_the_full_forward_pass(which, model, generate, request):
    values = request.getfixturevalue(which)
    output = generate(values, *batch(PROMPTS), jax.random.key(0))
    np.testing.assert_array_equal(output.lengths, [NEW] * 3)
    for ids, found, logps in zip(PROMPTS, output.tokens, output.logps, strict=True):
        found = found.tolist()
        # Each token is the argmax after those before it, so the row is the greedy continuation.
        logits = full_logits(model, values, ids + found)[len(ids) - 1 : -1]
        assert found == logits.argmax(-1).tolist()
        assert len(set(found)) > 3
        wanted = jax.nn.log_softmax(logits)[np.arange(NEW), np.array(found)]
        np.testing.assert_allclose(logps, wanted, atol=1e-4)


def test_prompts_and_new_tokens_turn_alike(model, params):
    """A prompt that the short factors of longrope would do for, with its new tokens not."""
    numbers = dict(
        original_max_position_embeddings=20, attention_factor=1.0,
        short_factor=(1.0, 1.1, 1.2, 1.3), long_factor=(1.5, 2.2, 2.9, 3.5),
    )  # fmt: skip
    scaled = rope.Rope(1e4, "longrope", tuple(numbers.items()))
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, rope=scaled))
    ids = PROMPTS[2]
    found = generation.make(model, max_new_tokens=NEW)(params, *batch([ids]), jax.random.key(0))
    new = found.tokens[0].tolist()
    logits = full_logits(model, params, ids + new)[len(ids) - 1 : -1]
    wanted = jax.nn.log_softmax(logits)[np.arange(NEW), np.array(new)]
    np.testing.assert_allclose(found.logps[0], wanted, atol=1e-4)


def test_adapters_change_the_text(params, adapted, generate):
    outputs = [generate(p, *batch(PROMPTS), jax.random.key(0)) for p in (params, adapted)]
    assert (outputs[0].tokens != outputs[1].tokens).any()


def test_cached_logits_are_the_full_forward_passs(model, adapted):
    ids, start = [*PROMPTS[2], 3, 14, 15, 9, 26], 4
    wanted = full_logits(model, adapted, ids)
    prompts, lengths = batch([ids[:start]], width=7, fill=13)
    logits, cache = generation.prefill(model, adapted, prompts, lengths, length=len(ids))
    np.testing.assert_allclose(logits[0], wanted[start - 1], atol=1e-4)
    step = jax.jit(lambda *args: generation.decode(model, adapted, *args))
    for at in range(start, len(ids)):
        token, position = jnp.int32([ids[at]]), jnp.int32([at])
        logits, cache = step(token, position, jnp.array([True]), cache)
        np.testing.assert_allclose(logits[0], wanted[at], atol=1e-4)


def test_padding_changes_nothing(params, sample):
    keys = jax.random.split(jax.random.key(3), 3)
    narrow = sample(params, *batch(PROMPTS), keys)
    wide = sample(params, *batch(PROMPTS, width=16, fill=33), keys)
    np.testing.assert_array_equal(narrow.tokens, wide.tokens)


def test_a_rows_text_does_not_depend_on_its_batch(params, sample):
    keys = jax.random.split(jax.random.key(3), 3)
    together = sample(params, *batch(PROMPTS), keys)
    for i, prompt in enumerate(PROMPTS):
        # The same program, another batch: the prompt moves to row 0 among other prompts.
        alone = sample(params, *batch([prompt, [40] * 9, [41]]), keys[jnp.array([i, 0, 1])])
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[i])
    single = sample(params, *batch(PROMPTS[1:2]), keys[1:2])
    np.testing.assert_array_equal(single.tokens[0], together.tokens[1])


def test_one_key_gives_each_row_its_own(params, sample):
    key = jax.random.key(4)
    prompts, lengths = batch([[5, 6]] * 3)
    output = sample(params, prompts, lengths, key)
    assert len({tuple(row.tolist()) for row in output.tokens}) == 3
    folded = jnp.stack([jax.random.fold_in(key, i) for i in range(3)])
    np.testing.assert_array_equal(output.tokens, sample(params, prompts, lengths, folded).tokens)
    other = sample(params, prompts, lengths, jax.random.key(5))
    assert (output.tokens != other.tokens).any()


def test_rows_end_after_a_stop_token(model, params, generate):
    free = np.asarray(generate(params, *batch(PROMPTS), jax.random.key(0)).tokens)
    stop = int(free[0, 4])
    ending = generation.make(model, max_new_tokens=NEW, stop_ids=(stop, 47), pad_id=46)
    output = ending(params, *batch(PROMPTS), jax.random.key(0))
    for row, length, logps, whole in zip(*map(np.asarray, (
        output.tokens, output.lengths, output.logps, free
    )), strict=True):  # fmt: skip
        hits = np.nonzero(np.isin(whole, (stop, 47)))[0]
        expected = hits[0] + 1 if len(hits) else NEW
        assert length == expected
        np.testing.assert_array_equal(row[:length], whole[:length])
        assert (row[length:] == 46).all()
        assert (logps[:length] < 0).all()
        assert (logps[length:] == 0).all()
    assert output.lengths[0] <= 5


def test_the_loop_ends_when_all_rows_have_ended(model, params):
    steps = []

    @dataclasses.dataclass
    class Watched(Counted):
        def logits(self, *args, **kwargs):
            jax.debug.callback(lambda: steps.append(1))
            return self.model.logits(*args, **kwargs)

        def __post_init__(self):
            self.config, self.init_cache = self.model.config, self.model.init_cache
            self.cast, self.max_length = self.model.cast, self.model.max_length

    everything = tuple(range(model.config.vocab_size))
    generate = generation.make(Watched(model), max_new_tokens=NEW, stop_ids=everything)
    output = jax.block_until_ready(generate(params, *batch(PROMPTS), jax.random.key(0)))
    jax.effects_barrier()
    np.testing.assert_array_equal(output.lengths, [1, 1, 1])
    assert len(steps) == 1


def test_a_row_of_length_zero_is_a_dummy(params, generate):
    prompts, lengths = batch([*PROMPTS, []])
    output = generate(params, prompts, lengths, jax.random.key(0))
    np.testing.assert_array_equal(output.lengths, [NEW] * 3 + [0])
    assert (output.tokens[3] == 0).all()
    three = generate(params, *batch(PROMPTS), jax.random.key(0))
    np.testing.assert_array_equal(output.tokens[:3], three.tokens)


def test_lengths_within_a_bucket_share_one_program(model, params):
    counted = Counted(model)
    generate = generation.make(counted, max_new_tokens=2)
    lengths = np.int32([1])
    generate(params, np.full((1, 3), 5), lengths, jax.random.key(0))
    once = counted.traces
    assert once > 0
    for width in (1, 9, 16):
        generate(params, np.full((1, width), 5), lengths, jax.random.key(1))
    assert counted.traces == once
    generate(params, np.full((1, 17), 5), lengths, jax.random.key(1))
    assert counted.traces > once


def test_prompts_that_leave_no_room_are_errors(params, generate, model):
    most = model.config.max_positions
    with pytest.raises(ValueError, match=f"expected at most {most} together"):
        generate(params, np.ones((1, most - NEW + 1), np.int32), np.int32([1]), jax.random.key(0))
    with pytest.raises(ValueError, match="max_new_tokens: got 0"):
        generation.make(model, max_new_tokens=0)


def test_join_puts_new_tokens_behind_each_prompt(params, generate):
    prompts, lengths = batch(PROMPTS)
    output = generate(params, prompts, lengths, jax.random.key(0))
    tokens, total = generation.join(prompts, lengths, output)
    np.testing.assert_array_equal(total, lengths + NEW)
    for ids, row, new in zip(PROMPTS, tokens, output.tokens, strict=True):
        assert row[: len(ids) + NEW].tolist() == ids + new.tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_stream_gives_what_generate_gives(temperature, model, adapted):
    options = dict(max_new_tokens=NEW, temperature=temperature)
    key, ids = jax.random.key(8), PROMPTS[0]
    whole = generation.make(model, **options)(adapted, *batch([ids]), key).tokens[0].tolist()
    assert list(generation.make_stream(model, **options)(adapted, ids, key)) == whole
    stop = whole[4]
    short = generation.make_stream(model, **options, stop_ids=(stop,))
    assert list(short(adapted, ids, key)) == whole[: whole.index(stop)]


@pytest.mark.parametrize("sizes", [dict(data=4, tensor=2), dict(data=2, sequence=4)])
def test_generation_over_a_mesh(model, adapted, sample, sizes):
    from ftjax.core import mesh as meshes

    mesh = meshes.make(**sizes)
    prompts, lengths = batch([*PROMPTS, [8, 8]])
    keys = jax.random.split(jax.random.key(3), 4)
    wanted = sample(adapted, prompts, lengths, keys)
    spread = generation.make(
        model, max_new_tokens=NEW, temperature=1.0, out_shardings=meshes.replicated(mesh)
    )
    inputs = (prompts, lengths)
    with jax.set_mesh(mesh):
        inputs = jax.device_put(inputs, meshes.batch_shardings(inputs, mesh))
        found = spread(jax.device_put(adapted, meshes.replicated(mesh)), *inputs, keys)
    np.testing.assert_array_equal(found.tokens, wanted.tokens)


def test_a_state_of_its_own_ends_with_the_prompt():
    """A recurrent model's state has no slots that later tokens overwrite: padding may not enter."""
    model = granitemoehybrid.make(granitemoehybrid.from_hf(granitemoehybrid.EXAMPLE))
    params = {"model": model.init(jax.random.key(1)), "adapters": None}
    start = functools.partial(generation.prefill, model, params, length=16)
    padded, alone = start(*batch([[5, 11, 7]], 8)), start(*batch([[5, 11, 7]]))
    np.testing.assert_allclose(padded[0], alone[0], rtol=1e-4, atol=1e-5)
    for (path, a), b in zip(tree.paths(padded[1]).items(), jax.tree.leaves(alone[1]), strict=True):
        if "state" in path or "conv" in path:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=path)
