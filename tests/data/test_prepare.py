"""From files to examples: what is cut, split, left out, and how it is told."""

import json

import pytest

from ftjax.data import copies, loader, prepare

TURNS = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]


@pytest.fixture
def load(tmp_path, bpe):
    def load(rows, **options):
        path = tmp_path / "train.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        base = {"name": "jsonl", "path": str(path), "tokenizer": bpe, "max_tokens": 32}
        return prepare.load(**(base | options))

    return load


def test_long_documents_are_split_and_lose_nothing(load, bpe):
    text = " ".join(f"word{n}" for n in range(60))
    data = load([{"text": text}, {"text": "short"}], kind="text")
    pieces = [data.store[i].tokens for i in range(len(data.store))]
    assert data.count == {"split": 1}
    assert max(map(len, pieces)) == 32
    joined = [t for piece in pieces[:-1] for t in piece]
    assert bpe.decode(joined, skip_special_tokens=True) == text
    assert joined.count(bpe.eos_id) == 1


def test_long_prompts_are_truncated_and_counted(load):
    rows = [
        {"prompt": "a " * 10, "response": " b" * 40},
        {"prompt": "a " * 100, "response": " b"},
        {"prompt": "a", "response": " b"},
    ]
    data = load(rows)
    assert len(data.store) == 2
    assert data.count == {"truncated": 2, "no target left": 1}
    assert load(rows, overlong="drop").count == {"overlong": 2}


def test_packing_that_cuts_gets_whole_examples(load):
    rows = [{"prompt": "a " * 100, "response": " b" * 100}]
    data = load(rows, packing="bfd_split")
    assert len(data.store) == 1
    assert data.store.lengths[0] > 200


def test_overlong_error_names_file_and_line(load):
    rows = [{"prompt": "a", "response": " b"}, {"prompt": "a", "response": " b" * 90}]
    with pytest.raises(ValueError, match=r"train\.jsonl:2: got \d+ tokens.*max_tokens=32"):
        load(rows, overlong="error")


def test_nothing_left_says_why(load):
    with pytest.raises(ValueError, match=r"no example from 1 rows \(1 x truncated, 1 x no target"):
        load([{"prompt": "a " * 100, "response": " b"}])


def test_rows_that_the_template_refuses(load):
    bad = [{"role": "system", "content": "x"}, *TURNS]
    source = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    source += (
        "{% for m in messages %}{{ m.content }}|{% if not loop.last %} {% endif %}{% endfor %}"
    )
    source += "{% if add_generation_prompt %} {% endif %}"
    rows = [{"messages": TURNS}, {"messages": bad}, {"messages": TURNS}]
    options = {"kind": "chat", "chat_template": source, "allow_no_stop": True}
    with pytest.raises(ValueError, match=r"train\.jsonl:2: field 'messages': .*no system.*skip"):
        load(rows, **options)
    data = load(rows, **options, on_bad_row="skip")
    assert len(data.store) == 2
    assert [each.reason for each in data.bad] == ["chat template"]


def test_answer_without_any_weight_is_counted(load):
    silent = [TURNS[0], TURNS[1] | {"weight": 0}]
    data = load([{"messages": TURNS}, {"messages": silent}], kind="chat")
    assert len(data.store) == 1
    assert data.count == {"no target left": 1}


def test_progress_counts_up_to_all_rows(load, monkeypatch):
    monkeypatch.setattr(prepare, "CHUNK", 4)
    seen = []
    load([{"text": f"row {n}"} for n in range(10)], kind="text", progress=lambda *x: seen.append(x))
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_skipped_rows_reach_the_summary(tmp_path, bpe):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\n{"text": ""}\n{\n{"txt": 1}\n')
    made = loader.make(
        name="jsonl",
        path=str(path),
        kind="text",
        on_bad_row="skip",
        tokenizer=bpe,
        max_tokens=8,
        batch_size=1,
    )
    bad = made.summary()["bad"]
    assert bad["count"] == 3
    assert bad["reasons"] == {"broken JSON": 1, "empty text": 1, "missing field": 1}


LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
ROWS = [
    {"text": LONG}, {"text": "Another text altogether, of other words."},
    {"text": LONG.replace("fourteen", "14").upper()}, {"text": LONG},
]  # fmt: skip
OPEN = dict(kind="text", max_tokens=256)
HELD = {"evals.x": copies.Texts([{"text": f"zero {LONG[4:]} fifteen"}, {"text": "Other words."}])}


def test_copies_are_counted_where_a_run_trains(load):
    found = load(ROWS, kind="text", eval_texts=HELD).copies
    assert (found.near, found.overlap, found.touching) == (1, {"evals.x": (1, 2)}, 2)
    assert [each.split("/")[-1] for each in found.examples] == [
        "train.jsonl:1", "train.jsonl:1"
    ]  # fmt: skip
    assert "train.jsonl:3 is near to" in found.examples[0]
    assert load(ROWS, kind="text").copies == copies.Copies()


def test_copies_are_left_out(load):
    data = load(ROWS, **OPEN, eval_texts=HELD, on_near_duplicate="skip")
    assert (len(data.store), data.copies.skipped, data.duplicates) == (3, 1, 1)
    data = load(ROWS, **OPEN, eval_texts=HELD, on_overlap="skip", on_near_duplicate="off")
    assert (len(data.store), data.copies.skipped, data.copies.near) == (2, 2, None)
    data = load(ROWS, **OPEN, on_duplicate="skip")
    assert (len(data.store), [each.reason for each in data.bad]) == (3, ["duplicate"])
    with pytest.raises(ValueError, match=r"got no row that is not skipped .* set on_near_dupl"):
        load(ROWS[:1], kind="text", eval_texts=HELD, on_overlap="skip")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(on_near_duplicate="error"), r"1 of 4 rows .*train\.jsonl:3 is near to .*jsonl:1\)"),
        (dict(on_overlap="error"), r"1 of 2 of evals\.x \(0 of evals\.x is in .*train\.jsonl:1\)"),
        (dict(on_overlap="eror"), r"data\.on_overlap: got 'eror'; .* did you mean 'error'"),
        (dict(on_overlap="skip", eval_texts=None), "there are no evaluations to compare with"),
    ],
)
def test_copies_are_refused(load, options, message):
    with pytest.raises(ValueError, match=message):
        load(ROWS, kind="text", **({"eval_texts": HELD} | options))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "Who?", "choices": ["I", "you"], "answer": 1, "id": "7"}, "Who?\nyou"),
        ({"prompt": "Who?", "answers": ["I", "me"], "response": "We"}, "Who?\nWe"),
        ({"question": "Who?", "answers": ["I", "me"]}, "Who?\nI"),
        ({"messages": [{"role": "user", "content": "Who?"}], "answer": "I"}, "Who?\nI"),
        ({"url": "x"}, "\n"),
    ],
)
def test_what_a_raw_row_of_an_evaluation_says(row, said):
    assert copies.of_raw(row).strip() == said.strip()


def test_embedded_rows_need_no_file(bpe):
    data = prepare.load(name="embedded", domain="skills", rows=20, tokenizer=bpe, max_tokens=128)
    assert len(data.store) == 20
    assert not data.unread  # its answers and choices are for evaluations
    assert data.store.targets()
