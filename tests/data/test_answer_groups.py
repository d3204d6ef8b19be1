"""Groups of answers: encoding, cutting, mismatched answers, and packed batches."""

import json

import numpy as np
import pytest

from ftjax.data import answer_groups, loader
from ftjax.data.answer_groups import Group, Groups
from ftjax.data.encode import Example
from ftjax.data.sources import mixture


def example(prompt, answer):
    tokens = np.array([*prompt, *answer], np.int32)
    return Example(tokens, (np.arange(len(tokens)) >= len(prompt)).astype(np.float32))


def pair(prompt, chosen, rejected, weight=1.0):
    return Group((example(prompt, chosen), example(prompt, rejected)), values(weight))


def values(weight=1.0):
    return {"examples": weight, "margin": 0.0}


def single(prompt, answer, label):
    return Group((example(prompt, answer),), {"examples": 1.0, "label": label})


def test_what_is_cut_is_counted_once_and_kept_together():
    group = pair([1, 2], [3, 4, 5], [6, 7, 8])
    (cut,), count = answer_groups.fit(group, 4, overlong="truncate")
    assert [each.tokens.tolist() for each in cut.answers] == [[1, 2, 3, 4], [1, 2, 6, 7]]
    assert count == {"truncated": 1}
    assert answer_groups.fit(group, 2, overlong="truncate")[0] == []
    assert answer_groups.fit(group, 4, overlong="drop") == ([], {"overlong": 1})


def test_answers_that_truncation_makes_equal_are_left_out():
    kept, count = answer_groups.fit(pair([1], [3, 4, 5], [3, 4, 6]), 3, overlong="truncate")
    assert kept == []
    assert count[answer_groups.EQUAL] == 1


def test_answers_are_not_split():
    with pytest.raises(ValueError, match=r"data\.overlong: got 'split'; expected 'truncate'"):
        answer_groups.fit(pair([1], [2], [3]), 4, overlong="split")


def test_mismatched_answers_come_from_the_nearest_other_prompt():
    given = [
        single([1], [11], 1.0),
        single([1], [12], 0.0),
        single([2], [13], 1.0),
        single([3], [14, 15, 16], 0.0),
    ]
    found = answer_groups.mismatched(given, 3)
    other = [group.answers[1].tokens.tolist() for group in found]
    assert other == [[1, 14, 15], [1, 14, 15], [2, 12], [3, 13]]
    assert [group.answers[1].weights.tolist() for group in found][2] == [0, 1]
    assert [group.answers[0] for group in found] == [group.answers[0] for group in given]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([single([1], [2], 1.0), single([3], [4], 1.0)], "all of them good; expected some of both"),
        ([single([1], [2], 1.0), single([1], [4], 0.0)], "one prompt alone; expected at least two"),
    ],
)
def test_labels_and_prompts_of_one_kind_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        answer_groups.store_mismatched(given, 8)


def test_a_store_of_groups():
    given = [pair([1, 2], [3], [4, 5]), Group((example([6], [7]),) * 1, values(2.0))]
    store = Groups(given)
    assert (len(store), store.width) == (2, 2)
    assert store.lengths.tolist() == [4, 2]
    assert len(store[1].answers) == 1
    assert store[1].values == values(2.0)
    assert store.targets() == 4
    assert store.digest() != Groups([given[0], Group(given[1].answers, values())]).digest()


def write(path, count):
    generator = np.random.default_rng(0)
    words = lambda low, high: " word" * int(generator.integers(low, high))
    rows = [
        {
            "prompt": f"Q{i}:" + words(1, 6),
            "chosen": " a" + words(1, 9),
            "rejected": " b" + words(1, 5),
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def source(tmp_path):
    own = dict(name="jsonl", path=str(write(tmp_path / "pairs.jsonl", 40)), kind="preference")
    return own | dict(tokenizer="ftjax/assets/tiny", max_tokens=64, batch_size=4)


@pytest.mark.parametrize("packing", ["bfd", "none"])
def test_every_pair_of_an_epoch_is_in_its_batches_whole(source, packing, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    found = loader.make(**source, packing=packing, epochs=1)
    store, seen = found.data.store, []
    for batch in found.batches_once():
        assert batch["tokens"].shape[:2] == (4, 2)
        for b, s in zip(*np.nonzero(batch["examples"]), strict=True):
            parts = [
                {k: batch[k][b, p][batch["segments"][b, p] == s + 1] for k in ("tokens", "weights")}
                for p in range(2)
            ]
            seen.append(tuple(part["tokens"].tobytes() for part in parts))
            assert all(part["weights"][0] == 0 and part["weights"].any() for part in parts)
        there = (batch["examples"] > 0).sum(1)
        assert (batch["segments"].max(-1) == there[:, None]).all()
    expected = [tuple(a.tokens.tobytes() for a in store[i].answers) for i in range(len(store))]
    assert sorted(seen) == sorted(expected)


def test_packing_fills_rows(source, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    fill = {k: loader.make(**source, packing=k).summary()["fill"] for k in ("bfd", "none")}
    assert fill["bfd"] > 1.5 * fill["none"]
    assert fill["bfd"] <= 1


def test_batches_carry_what_else_there_is_by_token(source, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    found = loader.make(**source)
    sequences = found.data.store.sequences
    sequences.more["reference"] = sequences.tokens.astype(np.float32)
    batch = found.batch(0)
    inside = batch["segments"] > 0
    np.testing.assert_array_equal(batch["reference"][inside], batch["tokens"][inside])
    assert not batch["reference"][~inside].any()


def test_packings_that_part_answers_are_refused(source, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    with pytest.raises(ValueError, match="expected 'bfd' or 'none', which leave answers whole"):
        loader.make(**source, packing="wrapped")


def test_preferences_do_not_mix_with_plain_examples(source, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    pairs = dict(name="jsonl", path=source["path"], kind="preference", weight=1.0)
    plain = dict(name="embedded", domain="skills", rows=8, kind="prompt", weight=1.0)
    assert mixture.make(parts=[pairs, plain])
    own = {k: source[k] for k in ("tokenizer", "max_tokens", "batch_size")}
    with pytest.raises(ValueError, match="preferences beside plain examples"):
        loader.make(name="mixture", parts=[pairs, plain], **own)


def test_every_row_that_is_left_out_is_in_one_count(tmp_path):
    same = " word" * 20
    answers = [(" a", " b"), (same + " a", same + " b"), (" a", " b"), (" a", " b")]
    prompts = ["Q:", "Q:", "Q:" + same, "P:"]
    rows = [
        dict(prompt=p, chosen=a, rejected=b) for p, (a, b) in zip(prompts, answers, strict=True)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = dict(name="jsonl", path=str(tmp_path / "rows.jsonl"), kind="preference")
    own = dict(tokenizer="ftjax/assets/tiny", max_tokens=12, batch_size=1)
    found = loader.make(**source, **own).summary()
    assert found["dropped"] == {"overlong": 0, "no target left": 1, answer_groups.EQUAL: 1}
    assert found["examples"] + sum(found["dropped"].values()) == found["rows"] == 4


def test_a_group_is_left_out_for_one_reason():
    kept, count = answer_groups.fit(pair([1], [3, 4, 5], []), 3, overlong="drop")
    assert (kept, count) == ([], {"overlong": 1})
