"""What configs/sft.py measures and shows by itself, and the form that an instructed base gets."""

import json
import shutil

import pytest

from configs import common, sft
from experiments import train
from ftjax.run import config as settings
from ftjax.run import evaluation, plan, samples

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [dict(q=f"What is {i}?", prompt=f"What is {i}?", response=f" {i}") for i in range(40)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def planned(arg, **keys):
    config = sft.get_config(arg)
    config.data.max_tokens = 64  # of the lab's base
    with config.unlocked():
        for name, value in keys.items():
            config.data[name] = value
    return plan.plan(settings.read(config))


def texts_of(p):
    """Return the texts of the evaluations, which a plan lets go of."""
    return evaluation.build(p.parts).texts


def test_without_a_second_file_rows_are_held_out_and_general_text_is_measured(rows, lab):
    p = planned(f"path={rows},base={lab.root / 'base'}")
    assert p.evaluation.groups == {"held": "new", "general": "old"}
    summary = p.loader.summary()
    assert (summary["rows"], summary["held_out"]) == (38, 2)
    assert "38 rows read, 2 more held out for the evaluation" in p.length.text(summary)
    held = texts_of(p)["evals.held"]
    trained = {p.parts.tokenizer.decode(example.tokens.tolist()) for example in p.loader.data.store}
    assert len(held) == 2
    assert not any(row["prompt"] in text for row in held.rows for text in trained)
    # They follow the data: a key of the command line changes both sides.
    more = planned(f"path={rows},base={lab.root / 'base'}", hold_out=0.5)
    assert (more.loader.summary()["rows"], len(texts_of(more)["evals.held"])) == (20, 20)


def test_the_length_follows_the_rows_unless_it_is_given():
    length = lambda arg: (lambda c: (c.steps, c.epochs, c.min_steps))(sft.get_config(arg))
    assert length("") == (None, 3.0, 50)
    assert length("epochs=5") == (None, 5.0, 0)
    assert length("steps=7") == (7, None, 0)
    assert length("runlocal") == (2, None, 0)
    with pytest.raises(ValueError, match="got epochs=5 and steps=7; expected one"):
        length("epochs=5,steps=7")


def test_the_reader_is_that_of_the_names():
    names = lambda arg: (lambda c: (c.data.name, c.evals.held.data.name))(sft.get_config(arg))
    assert names("path=a.csv+b.csv,held=c.parquet") == ("csv", "parquet")
    assert names("path=a.tsv.gz,held=c.jsonl.gz") == ("csv", "jsonl")
    assert names("held=c") == ("jsonl", "jsonl")


def test_what_is_given_is_taken(rows, lab, tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"text": f"{i} is a number"}) for i in range(4)))
    p = planned(f"path={rows},base={lab.root / 'base'},held={rows},general={texts}")
    assert p.loader.summary()["held_out"] == 0
    assert len(texts_of(p)["evals.held"]) == 40
    assert len(texts_of(p)["evals.general"]) == 4
    p = planned(f"path={rows},base={lab.root / 'base'},held=none,general=none")
    assert (p.evaluation.evaluators, p.evaluation.sample) == ({}, None)


def test_of_few_rows_the_evaluation_is_left_out_and_said(lab, tmp_path, capsys):
    path = tmp_path / "few.jsonl"
    path.write_text('{"prompt": "q", "response": "a"}\n{"prompt": "r", "response": "b"}\n')
    p = planned(f"path={path},base={lab.root / 'base'}")
    assert p.loader.summary()["rows"] == 2
    assert list(p.evaluation.evaluators) == ["general"]
    assert "evals.held: left out: data.hold_out: got 0.05 of 2 rows" in capsys.readouterr().err
    message = r"evals.held.data.name: got 'held_out' of a run that holds nothing back; .*held=none"
    with pytest.raises(ValueError, match=message):
        planned(f"path={path},base={lab.root / 'base'}", hold_out=0.0)


def test_held_out_prompts_are_answered_before_and_after(rows, lab, tmp_path, use_devices):
    use_devices(1)
    config = sft.get_config(f"path={rows},base={lab.root / 'base'},rank=2,general=none,runlocal")
    train.train(settings.read(config), tmp_path / "run")
    shown = [json.loads((tmp_path / "run" / "samples" / f"{n}.json").read_text()) for n in (0, 2)]
    assert [each["prompt"] for each in shown[0]] == [each["prompt"] for each in shown[1]]
    assert len(shown[0]) == 2
    assert "held out for the evaluation" in (tmp_path / "run" / "report.html").read_text()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["data"]["held_out"] == 2


def test_samples_of_an_evaluation_that_there_is_not(rows, lab):
    config = lab.config(
        **{"samples.evals": "hled", "evals.held": dict(name="nll", data=lab.rows())}
    )
    with pytest.raises(ValueError, match=r"samples.evals: got 'hled'; .* did you mean 'held'"):
        plan.plan(settings.read(config))


def test_a_prompt_that_leaves_no_room_is_not_asked(lab, tmp_path):
    path = tmp_path / "long.jsonl"
    lines = [dict(prompt="word " * (400 if i else 1), response="a") for i in range(2)]
    path.write_text("\n".join(map(json.dumps, lines)))
    data = dict(name="jsonl", path=str(path), kind="prompt", max_tokens=1024)
    config = lab.config(**{"samples.evals": "x", "evals.x": dict(name="nll", data=data)})
    p = plan.plan(settings.read(config))
    encode = lambda text: p.parts.tokenizer.encode(text)
    assert samples._asked(p.parts, texts_of(p), encode) == ["word "]


# -- an instructed base ----------------------------------------------------------------------------


@pytest.fixture
def instructed(lab, tmp_path):
    """A copy of the lab's base whose answers end as its chat template ends them."""
    folder = tmp_path / "base"
    shutil.copytree(lab.root / "base", folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    config = json.loads((folder / "config.json").read_text())
    tokens = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    ends = next(each["id"] for each in tokens if each["content"] == "<|im_end|>")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [ends]}))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_only_an_instructed_base_gets_its_template(instructed, rows, lab):
    assert common.is_instruct(str(instructed))
    (instructed / "generation_config.json").write_text('{"eos_token_id": [0]}')
    assert not common.is_instruct(str(instructed))
    assert not common.is_instruct("tiny")
    assert not common.is_instruct(str(lab.root / "base"))
    assert not common.is_instruct(str(lab.root / "absent"))


@pytest.mark.parametrize("arg", ["", ",prompt=q", r",prompt={q}\n,response={response}"])
def test_prompt_and_response_are_two_turns_of_it(instructed, rows, arg):
    p = planned(f"path={rows},base={instructed},held=none,general=none{arg}")
    assert p.settings.data["kind"] == "chat"
    text = p.parts.tokenizer.decode(p.loader.data.store[0].tokens.tolist())
    assert "<|im_start|>user\nWhat is 0?" in text
    assert "<|im_start|>assistant\n 0<|im_end|>" in text
    plain = planned(f"path={rows},base={instructed},held=none,general=none,kind=prompt{arg}")
    assert "<|im_start|>" not in plain.parts.tokenizer.decode(
        plain.loader.data.store[0].tokens.tolist()
    )
