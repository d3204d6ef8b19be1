"""All arms of a decision in one record: what decide.json holds, conclusions included.

record = joined(own, {label: record of the arm})
"""

from collections.abc import Mapping, Sequence

from ftjax.core import files
from ftjax.decide import answering, arms, conclusion, forgetting, knowledge, leakage, questions
from ftjax.decide.benchmark import VERSION, Benchmark
from ftjax.decide.questions import Question

AT = (1, 2, 4, 5, 8)  # numbers of passages that recall is measured at


def joined(own: Benchmark, found: Mapping[str, dict]) -> dict:
    """Put the records of all arms together with what is concluded of them.

    Raises:
      ValueError: no arm has a result.
    """
    decision, known = own.decision, own.knowledge
    asked = [*own.sets.test, *(own.later.sets.test if own.later else ())]
    usable = [each for each in found.values() if not arms.ARMS[each["name"]].is_ceiling]
    if all("error" in each for each in usable):
        raise ValueError(
            f"arms: got no result of {len(usable)} arms that can be used; expected one at least; "
            f"{_errors(found)}"
        )
    record = {
        "version": VERSION,
        "base": decision.base,
        "metric": own.answerer.metric.name,
        "config": {key: value for key, value in decision.plain.items() if key != "plain"},
        "prices": dict(decision.prices),
        "flops": answering.constants(own.parts),
        "items": _items(asked),
        "updated": sorted({each.need for each in own.later.sets.test} if own.later else ()),
        "old_items": _items(own.sets.old),
        "passages": len(known.passages) if known else 0,
        "documents_cut": known.cut if known else 0,
        "index_s": known.index_s if known else None,
        "retrieval": _retrieval(own),
        "overlap": _overlap(own),
        "arms": dict(found),
    }
    # As the file will hold it, so that whoever reads it concludes the same.
    record = files.plain(record)
    record["forgetting"] = _forgetting(own, record)
    record["needs"] = files.plain(conclusion.conclude(record))
    return record


def _retrieval(own: Benchmark) -> dict:
    """Measure retrieval by itself, over the whole test sources: a search is cheap."""
    if own.knowledge is None:
        return {}
    asked = questions.read(own.decision.test, where="test", is_limited=False)
    knowledge.check(own.knowledge, asked)
    return knowledge.measured(own.knowledge, asked, at=AT)


def _errors(found: Mapping[str, dict]) -> str:
    return "; ".join(f"{k}: {each['error']}" for k, each in found.items() if "error" in each)


def _items(asked: Sequence[Question]) -> list[dict]:
    kept = ("id", "need", "prompt", "answers", "gold", "where", "stale")
    return [
        {key: getattr(each, key) for key in kept}
        | {"cluster": number, "told": each.row.get("told")}
        for each, number in zip(asked, questions.clusters(asked), strict=True)
    ]


def _overlap(own: Benchmark) -> dict[str, int]:
    """Count what could have leaked: refused where it is of questions, allowed in passages."""
    train = [each.item for each in own.sets.train]
    test = [each.item for each in own.sets.test]
    if own.knowledge is None:
        return {"train": 0, "passages": 0, "train_rows": len(train)}
    texts = [leakage.Item(None, each.text, each.id) for each in own.knowledge.passages]
    in_passages = leakage.find(texts, test, share=own.decision.overlap).by_text
    return {"train": 0, "passages": len(in_passages), "train_rows": len(train)}


def _forgetting(own: Benchmark, record: Mapping) -> dict:
    """Compare every arm on the old questions with the base as it is."""
    if not own.sets.old:
        return {}
    asked, metric = own.sets.old, own.answerer.metric.of_old
    prompts = [each.prompt for each in asked]
    base = own.answerer.answer(own.base, prompts, asked, metric=metric).scores
    scores = {label: each["old"] for label, each in record["arms"].items() if "error" not in each}
    return files.plain(forgetting.of(scores, base, record["old_items"]))
