"""Laws of the table of data kinds: rows become the arrays that it states, and nobody else knows."""

import ast
import json
import pathlib
import types

import numpy as np
import pytest

import ftjax
from ftjax.data import kinds, loader, rows
from ftjax.objectives.losses import spec as specs
from ftjax.objectives.losses.advantages import Experience
from ftjax.rl import batches, rollout_batch
from ftjax.sampling.generation import Output
from tests.laws import subjects

PACKAGE = pathlib.Path(ftjax.__file__).parent
B, T, SAMPLES = 2, 48, 2
USER, SAID = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "It is so."}
# Two rows of every kind; a ranking of three and one of two.
ROWS = {
    "text": [{"text": "It is what it is."}, {"text": "And so on."}],
    "prompt": [{"prompt": f"{n}?", "response": f" {n}"} for n in range(2)],
    "chat": [{"messages": [USER, SAID]}, {"messages": [USER, SAID, USER, SAID]}],
    "preference": [{"prompt": f"{n}?", "chosen": " a", "rejected": " b"} for n in range(2)],
    "unpaired": [{"prompt": f"{n}?", "completion": " a", "label": n == 0} for n in range(2)],
    "ranking": [{"prompt": "?", "answers": [" a", " b", " c"]},
                {"prompt": "?", "answers": [" a", " b"]}],
}  # fmt: skip
ONLINE = {"experience": "grpo", "duel": "xpo", "preference": "dpo"}


def described(batch):
    return {name: (array.shape, array.dtype) for name, array in batch.items()}


def stated(kind, *args, **sizes):
    return {name: (shape, np.dtype(t)) for name, (shape, t) in kind.shapes(*args, **sizes).items()}


@pytest.fixture
def load(tmp_path):
    def load(kind, **changes):
        path = tmp_path / f"{kind}.jsonl"
        path.write_text("\n".join(map(json.dumps, ROWS[kind])))
        own = dict(name="jsonl", path=str(path), kind=kind, tokenizer=PACKAGE / "assets" / "tiny")
        return loader.make(**own | dict(max_tokens=T, batch_size=B) | changes)

    return load


def test_every_kind_has_an_example_here():
    assert ROWS.keys() == kinds.KINDS.keys()
    assert {kind.batch for kind in kinds.KINDS.values()} | {
        kinds.BATCHES[name] for name in ONLINE
    } == set(kinds.BATCHES.values())


@pytest.mark.parametrize("name", kinds.KINDS)
def test_rows_become_the_arrays_that_the_table_states(name, load):
    kind = kinds.KINDS[name]
    assert set(ROWS[name][0]) <= set(kind.fields)
    found = load(name)
    assert kinds.BATCHES[found.data.kind] is kind.batch
    assert found.data.store.width == (kind.batch.answers or 3)
    S = T // int(found.data.store.lengths.min())
    assert described(found.batch(0)) == stated(kind.batch, B, T, examples=S, answers=3)
    assert [form for form in found.data.forms if form != name] in ([], ["messages"])


@pytest.mark.parametrize("name", kinds.KINDS)
def test_packings_and_losses_are_those_of_the_table(name, load):
    batch = kinds.KINDS[name].batch
    for packing in kinds.TOKENS.packings:
        if packing in batch.packings:
            assert load(name, packing=packing).batch(0)["tokens"].shape[0] == B
        else:
            with pytest.raises(ValueError, match=f"data.packing: got '{packing}'"):
                load(name, packing=packing)
    for loss in set(kinds.TOKENS.losses) - set(batch.losses):
        with pytest.raises(ValueError, match=f"data.loss: got '{loss}'"):
            load(name, loss=loss)


@pytest.mark.parametrize(("name", "other"), [("prompt", "ranking"), ("preference", "unpaired")])
def test_kinds_of_one_batch_alone_are_mixed(name, other, load, tmp_path):
    parts = [dict(name="jsonl", path=str(tmp_path / f"{k}.jsonl"), kind=k, weight=1.0)
             for k in (name, other)]  # fmt: skip
    sizes = dict(max_tokens=T, batch_size=B)
    for kind in (name, other):
        load(kind)
    with pytest.raises(ValueError, match=r"data\.parts: got .*; expected one or the other"):
        loader.make(name="mixture", parts=parts, tokenizer=PACKAGE / "assets" / "tiny", **sizes)


@pytest.mark.parametrize("name", kinds.KINDS)
def test_every_form_of_a_kind_is_known_and_its_example_is_one(name):
    kind = kinds.KINDS[name]
    legal = rows.forms.FORMS
    assert set(kind.forms) <= set(legal)
    if kind.forms:
        assert rows.forms.recognise(ROWS[name][0], kind.forms) is not None


@pytest.mark.parametrize("name", ONLINE)
def test_a_round_becomes_the_arrays_that_the_table_states(name):
    module = subjects.OBJECTIVES[ONLINE[name]]
    rollout = types.SimpleNamespace(prompts=2, samples=SAMPLES, mixture=None)
    settings = types.SimpleNamespace(
        objective={"name": ONLINE[name]}, rollout=rollout, advantages={}, rewards={"r": {}},
        reference=types.SimpleNamespace(name="adapters_off"),
    )  # fmt: skip
    rows, new = 2 * SAMPLES, 3
    ones = np.ones(rows, np.int32)
    output = Output(np.ones((rows, new), np.int32), new * ones, np.zeros((rows, new), np.float32))
    batch = rollout_batch.batch_of(np.ones((rows, T - new), np.int32), ones, output)
    zeros, rewards = np.zeros((rows, T - 1), np.float32), np.arange(rows, dtype=np.float32)
    e = Experience(rewards[:, None], (1.0,), SAMPLES, zeros + 1, zeros, zeros, None, 1.0)
    maker = batches.make(settings, module)
    found = described(maker.make(e, batch)[0])
    wanted = stated(module.SPEC.batch, maker.count, T)
    assert {each: found.get(each) for each in wanted} == wanted
    # What an objective makes of rewards comes besides.
    assert found.keys() == wanted.keys() or not module.SPEC.batch.by_example


@pytest.mark.parametrize("name", subjects.OBJECTIVES)
def test_every_objective_learns_from_a_kind_of_the_table(name):
    spec = subjects.OBJECTIVES[name].SPEC
    assert spec.batch is kinds.BATCHES[spec.data]
    has_rows = any(kind.batch is spec.batch for kind in kinds.KINDS.values())
    assert has_rows != spec.batch.sampled


def test_an_unknown_kind_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match="got 'pairs'; expected one of tokens, preference, unp"):
        specs.Spec(data="pairs")


def test_nobody_else_compares_with_the_name_of_a_kind():
    """What is to depend on a kind is an entry of its record."""
    names = {*kinds.KINDS, *kinds.BATCHES}
    rooms = [PACKAGE / room for room in ("data", "objectives", "train", "run", "rl")]
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for room in rooms
        for path in sorted(room.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare) and is_of_kind(node.left) and names & constants(node)
    ]
    assert found == []


def is_of_kind(node):
    return ast.unparse(node).rpartition(".")[2] in ("kind", "data")


def constants(node):
    return {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
