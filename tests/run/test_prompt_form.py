"""The form of prompts is one at every door: the tokens that reach the model are those of training.

Nothing is trained or sampled: what the model would be asked is recorded.
"""

import importlib
import json

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from ftjax import api
from ftjax.data import chat, tokenizer_files
from ftjax.run import evaluation as evaluating
from ftjax.run import export_files, prompting
from ftjax.run import plan as running
from ftjax.sampling import generation
from ftjax.serve import service

ASKED, ANSWER = "What is 3?", " It is 3"
# Not the base's own; it reads an argument, which is part of the form too.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>[{{ m.role }}]{% if m.role == 'assistant' and brief %}"
    "<brief>{% endif %}{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}"
    "<|im_start|>[assistant]{% if brief %}<brief>{% endif %}{% endif %}"
)
USER = [{"role": "user", "content": ASKED}]


class Run:
    """A planned run of a kind of data, and what its model is asked."""

    def __init__(self, lab, folder, kind):
        (folder / "own.jinja").write_text(TEMPLATE)
        row = {"prompt": ASKED, "response": ANSWER}
        if kind == "chat":
            row = {"messages": [*USER, {"role": "assistant", "content": ANSWER}]}
        (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
        (folder / "asked.jsonl").write_text(json.dumps({"prompt": ASKED, "answer": "3"}) + "\n")
        data = dict(name="jsonl", path=str(folder / "rows.jsonl"), kind=kind, max_tokens=64)
        if kind == "chat":
            data |= dict(chat_template=str(folder / "own.jinja"), template_args={"brief": True})
        evals = dict(
            name="generate", group="new", max_new_tokens=4,
            data=dict(name="jsonl", path=str(folder / "asked.jsonl")),
        )  # fmt: skip
        changes = {"data": data, "evals.asked": evals, "samples.prompts": (ASKED,)}
        self.folder, self.plan = folder, running.plan(lab.settings(batch_size=8, **changes))
        self.parts, self.asked = self.plan.parts, []

    def trained(self):
        """Tokens of the example before the first that is learned."""
        tokens, weights = self.plan.loader.data.store[0]
        return tokens[: int(np.argmax(weights > 0))].tolist()

    def record(self, monkeypatch):
        """Put in the place of sampling what notes the tokens of a prompt."""

        def make(model, *, max_new_tokens, **options):
            def sample(params, prompts, lengths, keys):
                # What is behind the first rows fills a batch.
                self.asked.append(np.asarray(prompts)[0, : int(lengths[0])].tolist())
                count = len(prompts)
                return generation.Output(
                    np.zeros((count, max_new_tokens), np.int32), np.zeros(count, np.int32),
                    *[None] * (len(generation.Output._fields) - 2),
                )  # fmt: skip

            return sample

        def make_stream(model, **options):
            return lambda params, ids, key: self.asked.append(list(ids)) or iter(())

        monkeypatch.setattr(generation, "make", make)
        monkeypatch.setattr(generation, "make_stream", make_stream)


@pytest.fixture(scope="module", params=["chat", "prompt"])
def run(request, lab, tmp_path_factory):
    return Run(lab, tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def ask(run, monkeypatch):
    """Make a function that returns the tokens which the model is asked by another."""
    run.record(monkeypatch)

    def ask(function, *arguments, **options):
        run.asked.clear()
        function(*arguments, **options)
        return run.asked[0]

    return ask


def samples(run):
    evaluating.build(run.parts).sample({"model": {}, "adapters": None}, seed=0)


def evaluation(run):
    evaluating.build(run.parts).evaluators["asked"].examples({"model": {}})


def of_python(run):
    model = api.Model(run.parts, {"model": {}}, {"model": {}}, 0, None)
    api.generate(model, ASKED, max_new_tokens=4)


@pytest.fixture(scope="module")
def generate():
    """The main, which defines its flags when it is imported: other mains have some of these too."""
    known = set(flags.FLAGS)
    yield importlib.import_module("experiments.generate")
    for name in set(flags.FLAGS) - known:
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()


def command(generate, run, *arguments, monkeypatch):
    monkeypatch.setattr(generate, "load", lambda *, adapters: (run.parts, {"model": {}}))
    monkeypatch.setattr(generate.cli, "start", lambda: None)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["generate"])
    with flagsaver.flagsaver(workdir=str(run.folder), **dict(arguments)):
        generate.main(["generate"])


@pytest.mark.parametrize("door", [samples, evaluation, of_python])
def test_a_text_is_asked_as_it_was_taught(run, ask, door):
    assert ask(door, run) == run.trained()


def test_the_command_asks_as_it_was_taught(run, ask, generate, monkeypatch):
    for given in ((("prompt", [ASKED]),), (("prompt", [ASKED]), ("until", ["x"]))):
        assert ask(command, generate, run, *given, monkeypatch=monkeypatch) == run.trained()


def test_an_evaluation_may_say_what_its_texts_are(run, ask):
    spec = dict(run.plan.settings.evals["asked"])

    def asked(is_chat):
        made = evaluating._evaluator(dict(spec, chat=is_chat), run.parts, where="e", texts={})
        return ask(made.examples, {"model": {}})

    assert asked(False) == run.parts.tokenizer.encode(ASKED)
    assert asked(True)[0] == run.parts.tokenizer.token_id("<|im_start|>")


def test_a_chat_speaks_as_it_was_taught(run, ask, generate, monkeypatch, capsys):
    lines = iter([ASKED, "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    asked = ask(command, generate, run, ("chat", True), monkeypatch=monkeypatch)
    told = capsys.readouterr().err
    if run.plan.settings.data["kind"] == "chat":
        assert asked == run.trained()
        assert told == ""
    else:
        assert "it has not seen the chat template" in told


def test_a_server_asks_as_it_was_taught(run):
    form = prompting.form_of(run.parts.tokenizer, run.parts.settings.data)
    own = service.Service({}, run.parts.tokenizer, form, length=64, max_body=1 << 20)
    assert own.text_ids([ASKED]) == [run.trained()]
    if form.wraps:
        assert own.chat_ids(USER) == [run.trained()]


def test_an_export_has_the_template_it_was_taught_with(run, tmp_path):
    for name, content in export_files.extra_files(run.parts).items():
        (tmp_path / name).write_bytes(content)
    exported = tokenizer_files.load(tmp_path)
    if run.plan.settings.data["kind"] == "prompt":
        assert exported.encode(ASKED) == run.trained()
        return
    # Who reads an export passes the arguments by hand.
    template = chat.find(None, exported, arguments={"brief": True})
    text = template.render(USER, add_generation_prompt=True)
    assert exported.encode(text, add_special_tokens=False) == run.trained()
