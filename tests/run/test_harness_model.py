"""A model of ours as lm-evaluation-harness asks it: all that does not need the package."""

import types

import jax
import numpy as np
import pytest

from ftjax.core import mesh as meshes
from ftjax.data.sources import jsonl
from ftjax.evals import choice
from ftjax.run import harness_model, reader
from ftjax.run.harness_model import Drawing, Engine, drawing_of
from ftjax.sampling import text


@pytest.fixture(scope="module")
def run(trained):
    mesh = meshes.make(devices=jax.devices()[:1])
    parts = reader.parts_of(trained.workdir, mesh=mesh)
    return types.SimpleNamespace(parts=parts, params=reader.base_of(parts))


@pytest.fixture(scope="module")
def engine(run):
    return Engine(run.parts, longest=64)


@pytest.fixture(scope="module")
def answers(run):
    """Greedy answers of two prompts, as we sample them otherwise."""
    respond = text.make_sampler(
        run.parts.model, run.parts.tokenizer, max_new_tokens=6, batch_size=2, stop_ids=()
    )
    return respond(run.params, ["Q: what is 3?\nA:", "2 + 2 ="])


def test_log_likelihoods_are_those_of_the_evaluator_of_choices(lab, run, engine):
    rows = [dict(row) for row in jsonl.read(lab.root / "choices.jsonl", where="rows")]
    evaluate = choice.make(model=run.parts.model, tokenizer=run.parts.tokenizer, rows=rows)
    encode = run.parts.tokenizer.encode
    pairs = [
        (
            [run.parts.tokenizer.bos_id, *encode(row["prompt"])],
            encode(row["choices"][row["answer"]]),
        )
        for row in rows
    ]
    found = engine.logps(run.params, pairs)
    nll = evaluate.examples(run.params)["nll"]
    np.testing.assert_allclose([-logp for logp, _ in found], nll, atol=1e-4)
    assert np.ptp(nll) > 0.01


def test_an_answer_is_greedy_where_each_token_is_the_likeliest(run, engine, answers):
    pairs = [(each.prompt, each.tokens) for each in answers]
    assert [greedy for _, greedy in engine.logps(run.params, pairs)] == [True, True]
    for place in (0, -1):
        changed = [(prompt, replaced(tokens, place)) for prompt, tokens in pairs]
        assert [greedy for _, greedy in engine.logps(run.params, changed)] == [False, False]


def replaced(tokens, place):
    changed = list(tokens)
    changed[place] = (changed[place] + 1) % 2048
    return changed


def test_contexts_are_cut_from_the_left_and_counted(run):
    engine = Engine(run.parts, longest=10)
    context, continuation = list(range(300, 320)), [400, 401, 402]
    pairs = [(context, continuation), (context[-7:], continuation), (context[-6:], continuation)]
    (long, _), (fits, _), (shorter, _) = engine.logps(run.params, pairs)
    assert long == pytest.approx(fits, abs=1e-5)
    assert abs(fits - shorter) > 1e-3
    assert engine.cut == {"contexts": 1}


def test_an_empty_context_is_the_beginning_of_a_text(run, engine):
    bos = run.parts.tokenizer.bos_id
    (found, _), (same, _) = engine.logps(run.params, [([], [400]), ([bos], [400])])
    assert found == pytest.approx(same)


@pytest.mark.parametrize("count", [0, 64])
def test_a_continuation_that_cannot_be_scored_is_an_error(run, engine, count):
    with pytest.raises(ValueError, match=f"of {count} tokens; expected 1 to 63"):
        engine.logps(run.params, [([5], [400] * count)])


def test_answers_are_those_of_our_sampler_in_their_order(run, engine, answers):
    few, many = dict(until=["\n\n"], max_gen_toks=2), dict(max_gen_toks=6, do_sample=False)
    asked = [("2 + 2 =", many), ("2 + 2 =", few), ("Q: what is 3?\nA:", many)]
    found = engine.generate(run.params, asked)
    assert [found[2], found[0]] == [each.text for each in answers]
    assert found[1] == run.parts.tokenizer.decode(answers[1].tokens[:2])


def test_an_answer_ends_before_a_string_of_until(run, engine, answers):
    whole = answers[1].text
    options = dict(until=whole[2:4], max_gen_toks=6)
    assert engine.generate(run.params, [("2 + 2 =", options)]) == [whole[: whole.find(whole[2:4])]]


def test_a_prompt_leaves_room_for_its_answer(run):
    engine = Engine(run.parts, longest=12)
    options = dict(max_gen_toks=4)
    long, short = "7 " * 20 + "1 2 3 4", "1 2 3 4"
    ids = run.parts.tokenizer.encode
    assert ids(long)[-8:] != ids(short)
    [found] = engine.generate(run.params, [(long, options)])
    assert engine.cut == {"contexts": 1}
    tail = run.parts.tokenizer.decode(ids(long)[-8:])
    assert engine.generate(run.params, [(tail, options)]) == [found]
    with pytest.raises(ValueError, match=r"max_gen_toks: got 12; expected less than 12"):
        engine.generate(run.params, [(short, dict(max_gen_toks=12))])


def test_no_chat_template_is_an_error_for_a_chat(run, monkeypatch):
    monkeypatch.setattr(run.parts.tokenizer, "chat_template", None)
    with pytest.raises(ValueError, match="--lm_eval_chat: got a run without a chat template"):
        Engine(run.parts, longest=64, chat=True)


# -- texts to tokens -------------------------------------------------------------------------------


class Adding:
    """A tokenizer that puts bos and eos around every text; tokens are characters."""

    bos_id, eos_id, eos_token = 1, 2, "$"

    def encode(self, text, *, add_special_tokens=True):
        ids = [2 if letter == "$" else ord(letter) for letter in text]
        return [1, *ids, 2] if add_special_tokens else ids


@pytest.mark.parametrize(
    ("chat", "special", "string", "ids"),
    [(False, None, "a", [1, 97]), (False, False, "a", [97]), (True, None, "a", [97]),
     (True, True, "a", [1, 97]), (False, False, "a$", [97, 2]), (False, None, "", [1])],
)  # fmt: skip
def test_texts_are_encoded_as_the_tokenizer_does_and_not_ended(chat, special, string, ids):
    own = types.SimpleNamespace(tokenizer=Adding(), chat=chat)
    assert Engine.encode(own, string, special=special) == ids


# -- generation_kwargs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "drawing"),
    [({}, Drawing((), 9, 0.0)),
     (dict(until="\n", max_gen_toks=5), Drawing(("\n",), 5, 0.0)),
     (dict(until=["a", ""], max_new_tokens=5), Drawing(("a",), 5, 0.0)),
     (dict(temperature=0.7), Drawing((), 9, 0.7)),
     (dict(do_sample=False, temperature=0.7), Drawing((), 9, 0.0)),
     (dict(do_sample=True, temperature=0.7, top_k=3, top_p=0.9), Drawing((), 9, 0.7, 3, 0.9))],
)  # fmt: skip
def test_generation_kwargs_mean_what_they_mean_to_the_harness(options, drawing):
    assert drawing_of(options, default=9) == drawing


@pytest.mark.parametrize(
    ("options", "message"),
    [(dict(num_beams=4), r"generation_kwargs.num_beams: got 4; expected some of do_sample, max_"),
     (dict(temprature=1), "did you mean 'temperature'"),
     (dict(max_gen_toks=4, max_tokens=5), "got max_gen_toks and max_tokens; expected one of them"),
     (dict(do_sample=True), "temperature: got None with do_sample: true; expected more than 0")],
)  # fmt: skip
def test_generation_kwargs_that_are_not_honoured_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        drawing_of(options)


def test_the_default_number_of_tokens_is_the_harness_own():
    assert drawing_of({}).max_new_tokens == harness_model.NEW_TOKENS == 256
