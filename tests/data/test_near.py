"""Near duplicates and n-grams that training data share with evaluations, planted and found."""

import random
import resource
import time

import numpy as np
import pytest

from ftjax.data import near, overlap, shingles

RNG = random.Random(0)
VOCABULARY = [f"{a}{b}{c}" for a in "bdfgk" for b in ("ai", "o", "u", "ee") for c in "lmnrst"]


def text(count, rng=RNG):
    return " ".join(rng.choices(VOCABULARY, k=count))


def grams(*texts, n=3):
    (batch,) = shingles.batches(texts)
    return shingles.ngrams(batch, n)


# -- words and n-grams -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("The cat -- sat, down!", "the CAT sat\ndown"),
        ("don't stop", "don t stop"),
        ("“Élan” vital…", "élan vital"),
        ("a\u00a0b c", "a b c"),
        ("漢字 かな", "漢字かな"),
    ],
)
def test_texts_of_the_same_words(left, right):
    found, owners = grams(left, right)
    assert set(found[owners == 0]) == set(found[owners == 1]) != set()


@pytest.mark.parametrize(("left", "right"), [("a b", "ab"), ("été", "ete"), ("一二", "二一")])
def test_texts_of_other_words(left, right):
    found, owners = grams(left, right)
    assert not set(found[owners == 0]) & set(found[owners == 1])


def test_ngrams_are_those_of_each_text():
    """Against the plain definition: as many different ones, shared by the same texts."""
    texts = ["", "a", "a b", "a b c", "b c d a b c d", "x a b c", "...", "b c d 漢字"]
    found, owners = grams(*texts)
    plain = []
    for own in texts:
        words = own.replace("漢字", "漢 字").replace(".", "").split()
        windows = range(max(len(words) - 2, min(len(words), 1)))
        plain.append({tuple(words[i : i + 3]) for i in windows})
    names = {}
    for n, expected in enumerate(plain):
        own = found[owners == n]
        assert len(own) == len(set(own.tolist())) == len(expected)
        names[n] = set(own.tolist())
    for a in range(len(texts)):
        for b in range(len(texts)):
            assert len(names[a] & names[b]) == len(plain[a] & plain[b])


def test_long_texts_come_in_pieces(monkeypatch):
    monkeypatch.setattr(shingles, "PIECE", 10)
    monkeypatch.setattr(shingles, "BATCH", 25)
    texts = ["x" * 35, "", "short", "y" * 20]
    found = list(shingles.batches(texts))
    assert len(found) > 1
    joined = ["", "", "", ""]
    for batch in found:
        assert sum(map(len, batch.texts)) < 25 + 10
        for owner, piece in zip(batch.owners, batch.texts, strict=True):
            joined[owner] += piece
    assert joined == texts


# -- near duplicates -------------------------------------------------------------------------------


def test_planted_near_duplicates_are_found():
    texts = [text(40) for _ in range(300)]
    planted = {}
    for n in range(20):
        words = texts[n * 10].split()
        words[n] = "zzz"  # three trigrams of 38 differ: 35 of 41 are shared
        planted[len(texts)] = n * 10
        texts.append(" ".join(words).upper() + "!")
    found = near.near(texts)
    assert {i: found[i] for i in range(len(texts)) if found[i] >= 0} == planted


def test_texts_below_the_threshold_are_not_near():
    base = text(40).split()
    changed = list(base)
    changed[5::8] = ["q"] * len(changed[5::8])
    texts = [" ".join(base), " ".join(changed), *(text(40) for _ in range(50))]
    assert (near.near(texts) < 0).all()


def test_equal_short_and_empty_texts():
    found = near.near(["Yes.", "no", "yes", "", "", "yes no"])
    assert found.tolist() == [-1, -1, 0, -1, -1, -1]


def test_boilerplate_does_not_make_rows_near():
    frame = text(120)
    texts = [f"{frame} {text(12)}" for _ in range(200)]
    assert (near.near(texts) < 0).all()
    texts.append(f"{frame} {' '.join(texts[3].split()[120:])} again")
    assert near.near(texts)[-1] == 3


def test_many_copies_are_all_near():
    same = text(30)
    found = near.near([f"{same} {n}" for n in range(200)] + [text(30) for _ in range(2000)])
    assert found[0] == -1
    assert (found[1:200] >= 0).mean() > 0.99
    assert (found[200:] < 0).all()


# -- overlap ---------------------------------------------------------------------------------------


def test_planted_overlap_is_counted_by_evaluation():
    held = {"a": [text(30) for _ in range(20)], "b": [text(30) for _ in range(10)], "c": []}
    train = [text(50) for _ in range(400)]
    train[7] += " " + " ".join(held["a"][4].split()[8:21])  # 13 words of it
    train[9] = "Well: " + held["a"][5].title()
    train[11] += " " + " ".join(held["b"][0].split()[:12])  # 12 are not enough
    found = overlap.EvalGrams(held).compare(train)
    assert found.rows == {"a": 2, "b": 0, "c": 0}
    assert found.sizes == {"a": 20, "b": 10, "c": 0}
    assert found.touching.tolist() == [7, 9]
    assert found.examples == {"a": (4, 7)}


def test_short_texts_are_compared_whole():
    held = overlap.EvalGrams({"qa": ["What is 2 + 2? Four.", "Who? Me."]})
    found = held.compare(["what is 2 2 four", "who me and you", "x"])
    assert found.rows == {"qa": 1}
    assert found.touching.tolist() == [0]


def test_boilerplate_is_no_overlap():
    frame = text(20)
    held = overlap.EvalGrams({"qa": [f"{frame} {text(3)}" for _ in range(5)]})
    found = held.compare([f"{frame} {text(9)}" for _ in range(100)])
    assert found.rows == {"qa": 0}
    assert not len(found.touching)
    assert overlap.EvalGrams({}).compare(["a"]).rows == {}


def test_many_rows_in_bounded_time_and_memory():
    """100,000 rows of some 180 characters, of which 50 are near to another one."""
    count, planted = 100_000, range(50_999, 100_000, 1000)
    words = np.random.default_rng(0).integers(0, len(VOCABULARY), (count, 40))
    words[planted] = words[np.array(planted) - 50_000]
    words[planted, 5] = 0
    texts = [" ".join([VOCABULARY[word] for word in row]) for row in words.tolist()]
    before, start = peak_mib(), time.process_time()
    found, same = (
        overlap.EvalGrams({"e": [texts[3][20:], "nothing"]}).compare(texts),
        near.near(texts),
    )
    seconds, grown = time.process_time() - start, peak_mib() - before
    assert found.rows == {"e": 1}
    assert np.flatnonzero(same >= 0).tolist() == list(planted)
    assert grown < 400
    print(f"{seconds:.1f} s, {grown:.0f} MiB more")


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
