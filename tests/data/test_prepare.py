"""From files to examples: what is cut, split, left out, and how it is told."""

import json

import pytest

from ftjax.data import loader, prepare

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


def test_embedded_rows_need_no_file(bpe):
    data = prepare.load(name="embedded", domain="skills", rows=20, tokenizer=bpe, max_tokens=128)
    assert len(data.store) == 20
    assert data.store.targets()
