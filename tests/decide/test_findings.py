import numpy as np
import pytest

from ftjax.decide import findings


def record(**arms):
    """A record of 60 questions a need; arms: rates of each need, by arm."""
    needs = ("facts", "skill", "changed")
    items = [{"need": need, "cluster": i} for need in needs for i in range(60)]
    made = {}
    for label, rates in arms.items():
        rows = [np.arange(60) < 60 * rates.get(need, 0.0) for need in needs]
        made[label] = {"scores": [np.concatenate(rows).astype(float).tolist()],
                       "old": [(np.arange(60) < 60 * rates.get("old", 0.5)).tolist()]}  # fmt: skip
    old = [{"need": "skills", "cluster": i} for i in range(60)]
    return {"items": items, "old_items": old, "arms": made}


def verdict(found, start):
    [own] = [each for each in findings.judge(found) if each.statement.said.startswith(start)]
    return own.verdict


LADDER = dict(
    lora_statements={"facts": 0.3}, lora_paraphrases={"facts": 0.6}, rag_oracle={"facts": 0.9}
)


def test_every_difference_of_a_statement_must_come_out():
    said = "new facts: training on statements"
    assert verdict(record(**LADDER), said) == findings.AGREES
    close = LADDER | dict(lora_paraphrases={"facts": 0.3})
    assert verdict(record(**close), said) == findings.OPEN
    turned = LADDER | dict(lora_statements={"facts": 0.8})
    assert verdict(record(**turned), said) == findings.DISAGREES


def test_a_statement_without_its_arms_is_not_run():
    assert verdict(record(rag_oracle={}), "new facts: training on statements") == findings.NOT_RUN
    broken = record(**LADDER)
    broken["arms"]["rag_oracle"] = {"error": "no"}
    assert verdict(broken, "new facts: training on statements") == findings.NOT_RUN


@pytest.mark.parametrize(
    ("shots", "expected"),
    [(0.0, findings.AGREES), (0.08, findings.OPEN), (0.5, findings.DISAGREES)],
)
def test_that_shots_carry_nothing_needs_an_interval_around_nothing(shots, expected):
    arms = dict(few_shot={"skill": shots}, zero_shot={}, lora={"skill": 0.9})
    assert verdict(record(**arms), "skills: shots carry nothing") == expected


def test_of_sixty_equal_answers_three_may_differ():
    few = record(few_shot={}, zero_shot={}, lora={"skill": 0.9})
    few["items"] = few["items"][:60] + few["items"][60:80] + few["items"][120:]
    for arm in few["arms"].values():
        arm["scores"] = [arm["scores"][0][:80] + arm["scores"][0][120:]]
    # 3 of 20 is more than the margin: so few questions do not tell.
    assert verdict(few, "skills: shots carry nothing") == findings.OPEN


def test_questions_about_one_fact_count_as_one():
    said = "new facts: retrieval beats"
    found = record(rag={"facts": 0.6}, lora_paraphrases={"facts": 0.4})
    assert verdict(found, said) == findings.AGREES
    for item in found["items"]:
        item["cluster"] //= 12  # of five facts, one of which is answered by one of them alone
    assert verdict(found, said) == findings.OPEN


def test_changed_facts_are_compared_with_new_ones():
    said = "training generalises worse to changed facts"
    assert verdict(record(lora={"facts": 0.9, "changed": 0.5}), said) == findings.AGREES
    assert verdict(record(lora={"facts": 0.5, "changed": 0.9}), said) == findings.DISAGREES


def test_forgetting_is_compared_on_the_old_questions():
    said = "full fine-tuning forgets more"
    assert verdict(record(lora={"old": 0.6}, full={"old": 0.2}), said) == findings.AGREES
    assert verdict(record(lora={"old": 0.2}, full={"old": 0.6}), said) == findings.DISAGREES


def test_hits_are_compared_with_misses():
    found = record(rag={"facts": 0.5})
    found["arms"]["rag"]["hit"] = [i < 30 for i in range(60)] + [None] * 120
    said = "the better the retrieval"
    assert verdict(found, said) == findings.AGREES
    found["arms"]["rag"]["hit"] = [True] * 180
    assert verdict(found, said) == findings.NOT_RUN


def test_gates_are_those_that_must_come_out_and_do_not():
    found = findings.judge(record(**LADDER, lora_rag={"facts": 0.5}, lora_then_rag={"facts": 0.5}))
    failed = [each.statement.said.split(" ")[0] for each in findings.gates(found)]
    assert failed == ["skills:", "training"]
    rows = findings.table(found)
    assert rows[0] == findings.HEADS
    assert rows[1][-1] == f"**{findings.AGREES}**"


def test_a_lead_on_rare_facts_is_compared_with_that_on_others():
    said = "training helps all facts"
    arms = dict(zero_shot={}, lora={"facts": 0.8}, rag={"facts": 0.7})
    assert verdict(record(**arms), said) == findings.NOT_RUN  # nothing is said of how often
    found = record(**arms)
    for i, item in enumerate(found["items"]):
        item["told"] = ("often", "rarely")[i % 2]
    assert verdict(found, said) == findings.OPEN  # retrieval is behind by as much on both
    often = [i for i, item in enumerate(found["items"][:60]) if item["told"] == "often"]
    rarely = [i for i, item in enumerate(found["items"][:60]) if item["told"] == "rarely"]
    scores = found["arms"]["lora"]["scores"][0]
    for places, share in ((often, 0.9), (rarely, 0.3)):
        for n, i in enumerate(places):
            scores[i] = float(n < share * len(places))
    assert verdict(found, said) == findings.AGREES
    for places, share in ((often, 0.4), (rarely, 1.0)):
        for n, i in enumerate(places):
            scores[i] = float(n < share * len(places))
    assert verdict(found, said) == findings.DISAGREES


def test_a_statement_is_taken_from_the_first_decision_that_runs_it():
    ladder, close = record(**LADDER), record(**LADDER | dict(lora_paraphrases={"facts": 0.3}))
    nothing = record(rag_oracle={})
    said = "new facts: training on statements"
    for first, second, expected in (
        (nothing, ladder, findings.AGREES),
        (ladder, close, findings.AGREES),
        (close, ladder, findings.OPEN),
        (nothing, nothing, findings.NOT_RUN),
    ):
        found = findings.first_run([findings.judge(each) for each in (first, second)])
        [own] = [each for each in found if each.statement.said.startswith(said)]
        assert own.verdict == expected
        assert len(found) == len(findings.STATEMENTS)
