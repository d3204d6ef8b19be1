"""Slots fed while they run: the texts are those of `generation`, whenever and where rows begin."""

import jax
import numpy as np
import pytest

from ftjax.core import shapes
from ftjax.sampling import generation, slots

LENGTH, NEW, COUNT, GROUP = 112, 10, 3, 2
STOPS = tuple(range(20, 26))
PROMPTS = [
    [5, 11, 7],
    [9],
    [4, 4, 30, 31, 8, 40, 2, 17, 22],
    [6, 6, 6],
    [33, 1],
    [3 + i % 40 for i in range(75)],
]


@pytest.fixture(scope="module")
def programs(model):
    return slots.make(model, count=COUNT, length=LENGTH, stop_ids=STOPS)


def start(programs, params, state, rows, **more):
    """Start (slot, prompt, number) of each; the rest of the group is nobody."""
    rows = rows + [(COUNT, [1], 0)] * (GROUP - len(rows))
    slot, prompts, number = zip(*rows, strict=True)
    given = dict(limit=NEW, seed=3, temperature=1.0, top_p=1.0, alternatives=False, member=0) | more
    full = lambda name, kind: np.full(GROUP, given[name], kind)
    asked = slots.Start(
        np.int32([len(p) for p in prompts]), full("limit", np.int32), full("seed", np.int32),
        np.int32(number), full("temperature", np.float32), full("top_p", np.float32),
        full("alternatives", bool), full("member", np.int32),
    )  # fmt: skip
    read = programs.read(params, shapes.pad_rows(prompts, programs.width, fill=0), asked)
    return programs.begin(state, read, np.int32(slot))


def run(programs, params, **more):
    """Feed all prompts into slots as these come free, and collect tokens, logps, alternatives."""
    waiting = list(enumerate(PROMPTS))
    at, found = [None] * COUNT, {i: ([], [], []) for i in range(len(PROMPTS))}
    state = programs.empty()
    for turns in range(100):
        free = [slot for slot in range(COUNT) if at[slot] is None][:GROUP]
        new = [(slot, *waiting.pop(0)) for slot in free if waiting]
        for slot, i, _ in new:
            at[slot] = i
        if new:
            rows = [(slot, prompt, i) for slot, i, prompt in new]
            state = start(programs, params, state, rows, **more)
        if not waiting and at == [None] * COUNT:
            return found, turns
        busy = [i is not None for i in at]
        keep = np.array(busy[: COUNT - busy[::-1].index(True)])  # as few rows as there are
        due = 1 + (~keep).sum() if waiting else COUNT + 1
        state, turn = programs.advance(params, state, keep, 1 + turns % 4, due)
        for slot, i in enumerate(at):
            if i is not None:
                count = int(turn.count_R[slot])
                for store, x in zip(
                    found[i], (turn.tokens_RN, turn.logps_RN, turn.ids_RNK), strict=True
                ):
                    store.extend(np.asarray(x[slot, :count]).tolist())
                at[slot] = i if turn.open_R[slot] else None
    raise AssertionError("rows never end")


@pytest.mark.parametrize(
    "drawing", [dict(temperature=0.0), dict(temperature=1.0), dict(temperature=1.0, top_p=0.7)]
)
def test_the_text_is_that_of_a_queue_known_before(drawing, model, params, programs):
    lengths = np.int32([len(p) for p in PROMPTS])
    prompts = shapes.pad_rows(PROMPTS, max(lengths), fill=0)
    generate = generation.make(model, max_new_tokens=NEW, stop_ids=STOPS, **drawing)
    wanted = generate(params, prompts, lengths, jax.random.key(3))
    found, _ = run(programs, params, **drawing)
    assert len({len(tokens) for tokens, _, _ in found.values()}) > 1  # some end before the limit
    for i, (tokens, logps, _) in found.items():
        assert tokens == wanted.tokens[i, : wanted.lengths[i]].tolist()
        np.testing.assert_allclose(logps, wanted.logps[i, : len(logps)], atol=1e-4)


def test_alternatives_are_the_likeliest_tokens(params, programs):
    found, _ = run(programs, params, temperature=0.0, alternatives=True)
    for tokens, _, ids in found.values():
        assert np.shape(ids) == (len(tokens), slots.ALTERNATIVES)
        assert [row[0] for row in ids] == tokens  # greedy: the best one
        assert all(len(set(row)) == len(row) for row in ids)


def test_a_row_that_is_not_kept_ends_and_others_go_on(params, programs):
    def two():
        rows = [(0, PROMPTS[0], 0), (2, PROMPTS[2], 1)]
        return start(programs, params, programs.empty(), rows, limit=4)

    keep = np.array([True, False, True])
    _, both = programs.advance(params, two(), keep, 3, COUNT + 1)
    state, one = programs.advance(params, two(), np.array([False, False, True]), 3, COUNT + 1)
    assert both.count_R.tolist() == [3, 0, 3]
    assert one.count_R.tolist() == [0, 0, 3]
    assert one.tokens_RN[2].tolist() == both.tokens_RN[2].tolist()
    assert one.open_R.tolist() == [False, False, True]
    # The closed slot takes another prompt, and the row beside it ends at its own limit.
    state = start(programs, params, state, [(0, PROMPTS[3], 2)])
    _, last = programs.advance(params, state, keep, 2, COUNT + 1)
    assert last.count_R.tolist() == [2, 0, 1]
    assert last.open_R.tolist() == [True, False, False]


def test_a_turn_ends_when_enough_slots_are_free(params, programs):
    rows = [(0, PROMPTS[0], 0), (1, PROMPTS[2], 1)]
    options = dict(temperature=0.0)
    state = start(programs, params, programs.empty(), rows, limit=3, **options)
    state = start(programs, params, state, [(2, PROMPTS[3], 2)], limit=8, **options)
    keep = np.ones(COUNT, bool)
    _, turn = programs.advance(params, state, keep, 9, 1)
    assert turn.count_R.max() == turn.count_R.min() <= 3
    assert (~turn.open_R).any()
