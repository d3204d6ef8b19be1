import numpy as np
import pytest

from ftjax.decide import arms, contexts, knowledge, questions
from ftjax.decide.config import Templates
from ftjax.retrieval import bm25, passages

TEXTS = {"a": "Emma eats rice.", "b": "Tomo bakes bread.", "c": "Ruth plays chess with Emma."}
PASSAGES = passages.of_rows([{"id": i, "text": t} for i, t in TEXTS.items()], where="passages")
KNOWN = knowledge.Knowledge(
    PASSAGES, bm25.make(passages=PASSAGES), {name: [n] for n, name in enumerate(TEXTS)}, 0.0
)


def question(prompt, *, gold=(), need="facts", answer="x"):
    return questions.Question(
        None, need, prompt, f" {answer}", (answer,), tuple(gold), "squad", "row 0"
    )


TRAIN = [
    question("Q: What does Tomo bake?\nA:", gold=["b"], answer="bread"),
    question("Q: What does Emma eat?\nA:", gold=["a"], answer="rice"),
    question("Do: double\nOut:", need="skill", answer="aa"),
]
ASKED = question("Q: Which food does Emma eat?\nA:", gold=["a"], answer="rice")


def maker(*, room=100, train=TRAIN, **templates):
    count = lambda text: len(text.split())
    return contexts.Maker(Templates(**templates), train, KNOWN, count, room)


def prompt(name, asked=ASKED, *, room=100, **trial):
    [made], counted = contexts.make(maker(room=room), arms.ARMS[name], arms.Trial(**trial), [asked])
    return made, dict(counted)


def test_every_arm_has_its_prompt():
    shots = TRAIN[0].prompt + " bread\n\n" + TRAIN[1].prompt + " rice\n\n"
    found = "Text: Emma eats rice. Ruth plays chess with Emma.\n"
    for name in ("zero_shot", "lora", "full"):
        assert prompt(name)[0] == (ASKED.prompt, ())
    assert prompt("few_shot")[0] == (shots + ASKED.prompt, ())
    assert prompt("few_shot", shots=1)[0] == (TRAIN[0].prompt + " bread\n\n" + ASKED.prompt, ())
    for name in ("rag", "lora_rag"):
        assert prompt(name, k=2)[0] == (found + ASKED.prompt, (0, 2))
    assert prompt("rag_oracle")[0] == ("Text: Emma eats rice.\n" + ASKED.prompt, (0,))
    assert prompt("few_shot_rag", k=2)[0] == (shots + found + ASKED.prompt, (0, 2))
    assert prompt("zero_shot", instruction="Be brief.")[0].text == "Be brief.\n\n" + ASKED.prompt


def test_nearest_shots_stand_next_to_the_question():
    made, _ = prompt("few_shot", shots=2, nearest=True)
    assert made.text.index("Tomo") < made.text.index("does Emma eat?\nA: rice")
    made, _ = prompt("few_shot", question("Do: double\nOut:", need="skill"), nearest=True)
    assert made.text.startswith("Do: double\nOut: aa\n\n")


def test_a_need_without_shots_or_hits_is_a_plain_question():
    other = question("zzz", need="other")
    assert prompt("few_shot_rag", other)[0] == ("zzz", ())


def test_what_does_not_fit_is_left_out_and_counted():
    made, counted = prompt("few_shot_rag", k=2, room=27)
    assert (made.cited, counted) == ((0,), {"passages without room": 1})
    made, counted = prompt("few_shot_rag", k=2, room=15)
    assert made.cited == ()
    assert counted == {"passages without room": 2, "shots without room": 1}
    made, counted = prompt("rag", k=3, budget=3)
    assert (made.cited, counted) == ((0,), {"passages beyond the budget": 1})
    with pytest.raises(ValueError, match=r"row 0: got a prompt of 7 tokens; expected at most 5"):
        prompt("rag", room=5)


def test_training_prompts_hold_the_gold_passage_among_others_but_for_a_share():
    own = maker(train=[ASKED] * 400)
    trial, arm = arms.Trial(k=2), arms.ARMS["lora_rag"]
    made = contexts.for_training(own, arm, trial, left_out=0.25, seed=0)
    has = np.array([0 in each.cited for each in made])
    assert 0.2 < (~has).mean() < 0.3
    assert {each.cited for each in made} == {(0, 2), (2, 0), (2,)}
    again = contexts.for_training(own, arm, trial, left_out=0.25, seed=0)
    assert made == again
    plain = contexts.for_training(own, arms.ARMS["lora"], trial, left_out=0.25, seed=0)
    assert {each.text for each in plain} == {ASKED.prompt}


def test_gold_of_a_cut_document_is_where_the_answer_stands():
    parts = [
        PASSAGES[0]._replace(id=f"a#{n}", text=t) for n, t in enumerate(["no", "has rice", "x"])
    ]
    known = KNOWN._replace(passages=parts, by_document={"a": [0, 1, 2]})
    assert known.gold(ASKED) == (1,)
    assert known.gold(ASKED._replace(answers=("soup",))) == (0, 1, 2)
    assert known.gold(ASKED._replace(gold=())) == ()
