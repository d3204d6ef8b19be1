import collections
import itertools
import json

import numpy as np
import pytest

from ftjax.data import loader as loader_lib
from ftjax.data import packing

KEYS = ["tokens", "weights", "segments", "positions"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Sums, each with the words of its result, of many lengths."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    terms = [[str(t) for t in rng.integers(0, 99, rng.integers(2, 9))] for _ in range(60)]
    rows = [
        {"prompt": f"#{n} " + " + ".join(t), "response": f" = {n}"} for n, t in enumerate(terms)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def make(path, bpe):
    def make(**changes):
        base = dict(name="jsonl", path=str(path), tokenizer=bpe, max_tokens=48, batch_size=4)
        return loader_lib.make(**(base | changes))

    return make


def take(loader, count):
    return list(itertools.islice(loader, count))


def assert_same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert list(a) == list(b) == KEYS
        for key in KEYS:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def examples(batches):
    """Every segment of the batches as (tokens, weights), counted."""
    found = collections.Counter()
    for batch in batches:
        for tokens, weights, segments, _ in zip(*(batch[k] for k in KEYS), strict=True):
            for segment in range(1, segments.max() + 1):
                here = segments == segment
                found[tuple(tokens[here]), tuple(weights[here])] += 1
    return found


def test_batches_are_numpy_of_the_stated_types(make):
    [batch] = take(make(), 1)
    kinds = {key: (type(x), x.dtype.name, x.shape) for key, x in batch.items()}
    expected = {key: (np.ndarray, "int32", (4, 48)) for key in KEYS}
    assert kinds == expected | {"weights": (np.ndarray, "float32", (4, 48))}


def test_same_seed_same_batches(make):
    expected = take(make(), 30)
    assert_same(take(make(), 30), expected)
    other = take(make(seed=1), 1)[0]["tokens"]
    assert (other != expected[0]["tokens"]).any()


@pytest.mark.parametrize("strategy", packing.STRATEGIES)
def test_an_epoch_shows_every_example_once(make, strategy):
    """Two epochs without end show what two passes for evaluation show, in another order."""
    loader = make(packing=strategy, epochs=2)
    once = list(loader.batches_once())
    seen = list(loader)
    assert len(seen) == loader.batches()
    if strategy != "wrapped":  # where documents are cut depends on the order
        expected = examples(once)
        assert examples(seen) == expected + expected
    total = sum((batch["segments"] > 0).sum() for batch in once)
    assert sum((batch["segments"] > 0).sum() for batch in seen) == 2 * total
    assert total == loader.summary()["tokens"]


def test_a_batch_that_could_hold_all_examples_holds_each_once(make):
    loader = make(batch_size=56)
    assert loader.epoch(0).plan.rows == 56
    assert loader.batches_in(3) == 3
    seen = examples(take(loader, 1))
    assert (len(seen), set(seen.values())) == (60, {1})
    assert make(batch_size=8).epoch(0).plan.rows < 56  # what they take when they are packed


def test_rows_straddle_epochs_so_that_nothing_is_dropped(make):
    loader = make(epochs=3, batch_size=4)
    rows = loader.epoch(0).plan.rows
    assert rows % 4  # or the test shows nothing
    assert loader.batches() == -(-3 * rows // 4)
    last = list(loader)[-1]
    assert list(loader) == []
    assert loader.state()["next_batch"] == loader.batches()
    empty = ~(last["segments"] > 0).any(axis=1)
    assert empty.sum() == -3 * rows % 4
    assert not last["weights"][empty].any()


@pytest.mark.parametrize("stop", [0, 1, 5, 17, 40])
def test_resumed_is_uninterrupted(make, stop):
    """Stops within the first epoch, in later ones and on the way; the prefetch is ahead."""
    whole = take(make(), 45)
    first = make()
    assert first.batches_per_epoch() < 17
    take(first, stop)
    state = json.loads(json.dumps(first.state()))
    assert state["next_batch"] == stop
    second = make()
    second.restore(state)
    assert_same(take(second, 45 - stop), whole[stop:])
    first.restore(state | {"next_batch": 2})  # going back works while it is reading ahead
    assert_same(take(first, 3), whole[2:5])


def test_state_is_small(make):
    assert len(json.dumps(make().state())) < 500


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 1}, r"seed \(saved 0, now 1\)"),
        ({"batch_size": 8}, r"batch_size \(saved 4, now 8\)"),
        ({"packing": "none"}, r"packing \(saved bfd, now none\)"),
        ({"loss": "all"}, r"data \(saved \w+, now \w+\)"),
    ],
)
def test_state_of_other_batches_is_refused(make, change, told):
    state = make().state()
    with pytest.raises(ValueError, match=f"another sequence of batches: {told}; expected"):
        make(**change).restore(state)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_same_global_batches(make, processes):
    whole = take(make(), 20)
    rows = np.split(np.arange(make().batch_size), processes)
    parts = [make(local_rows=each) for each in rows]
    slices = zip(*(take(part, 20) for part in parts), strict=True)
    together = [{k: np.concatenate([s[k] for s in each]) for k in KEYS} for each in slices]
    assert_same(together, whole)
    assert parts[0].state() == make().state() | {"next_batch": 20}
    once = [list(part.batches_once()) for part in parts]
    assert len({len(each) for each in once}) == 1


def test_evaluation_pads_the_last_batch(make):
    loader = make(batch_size=64)
    [batch] = loader.batches_once()
    rows = make().epoch(0).plan.rows  # packed: training spreads them over so large a batch
    assert batch["tokens"].shape == (64, 48)
    assert (batch["segments"][:rows] > 0).any(axis=1).all()
    assert not batch["weights"][rows:].any()
    assert not batch["segments"][rows:].any()
    assert loader.state()["next_batch"] == 0


def test_errors_of_the_reading_thread_surface(make):
    loader = make()
    loader.data.store.offsets = None
    with pytest.raises(TypeError):
        next(loader)


def test_unshuffled_and_unpacked_is_the_order_of_the_file(make, bpe):
    batches = take(make(shuffle=False, packing="none", batch_size=10), 6)
    texts = [bpe.decode(row, skip_special_tokens=True) for b in batches for row in b["tokens"]]
    assert [text.split()[0] for text in texts] == [f"#{n}" for n in range(60)]


def test_loss_counts_what_the_summary_says(make):
    loader = make()
    found = loader.summary()
    once = list(loader.batches_once())
    assert sum((batch["weights"] > 0).sum() for batch in once) == found["targets"]
    assert found["rows"] == found["examples"] == 60
    assert found["parts"] == {"jsonl": 60}
    assert found["tokens"] / (found["epoch_rows"] * 48) == pytest.approx(found["fill"])
    assert found["bad"]["count"] == found["truncated"] == found["split"] == 0


def test_mixture_draws_examples_by_share(path, bpe, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text("".join(f'{{"text": "zebra {n}"}}\n' for n in range(9)))
    parts = [
        {"name": "jsonl", "path": str(path), "weight": 0.8},
        {"name": "documents", "path": str(other), "weight": 0.2, "kind": "text"},
    ]
    sizes = {"max_tokens": 48, "batch_size": 4}
    loader = loader_lib.make(name="mixture", parts=parts, tokenizer=bpe, epochs=4, **sizes)
    assert loader.data.counts == (60, 9)
    assert loader.summary()["parts"] == {"jsonl:0": 60, "documents:1": 9}
    same = [part | {"label": "all"} for part in parts]
    labelled = loader_lib.make(name="mixture", parts=same, tokenizer=bpe, **sizes)
    assert labelled.summary()["parts"] == {"all": 69}
    seen = examples(loader)
    zebras = sum(n for (tokens, weights), n in seen.items() if weights[1] == 1.0)
    assert sum(seen.values()) - zebras == 4 * 60
    assert zebras == 4 * 60 * 0.2 / 0.8


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"batchsize": 4}, r"data\.batchsize: unknown key; did you mean 'batch_size'"),
        ({"pth": "x"}, r"data\.pth: unknown key; did you mean 'path'"),
        ({"kid": "text"}, r"data\.kid: unknown key; did you mean 'kind'"),
        ({"name": "jsonk"}, r"data\.name: got 'jsonk'.*did you mean 'jsonl'"),
        ({"name": "rows"}, r"data\.name: got 'rows'; expected one of csv, documents"),
        ({"packing": "bdf"}, r"data\.packing: got 'bdf'.*did you mean 'bfd'"),
        ({"loss": "completions"}, r"data\.loss: got 'completions'.*did you mean 'completion'"),
        ({"overlong": "cut"}, r"data\.overlong: got 'cut'; expected one of truncate, split"),
        ({"overlong": "keep"}, r"data\.overlong: got 'keep' with packing='bfd'"),
        ({"batch_size": 0}, r"data\.batch_size: got 0; expected a whole number above 0"),
        ({"seed": -1}, r"data\.seed: got -1; expected a whole number from 0 on"),
        ({"local_rows": [3, 4]}, r"data\.batch_size: got 4 with the rows \[3, 4\]"),
        ({"kind": "promt"}, r"kind: got 'promt'.*did you mean 'prompt'"),
        ({"path": "nowhere.jsonl"}, r"data\.path: got 'nowhere\.jsonl'"),
    ],
)
def test_wrong_settings(make, change, told):
    with pytest.raises(ValueError, match=told):
        make(**change)


def test_missing_tokenizer(path):
    with pytest.raises(ValueError, match="data: got no tokenizer; expected it"):
        loader_lib.make(name="jsonl", path=str(path), max_tokens=8, batch_size=1)
