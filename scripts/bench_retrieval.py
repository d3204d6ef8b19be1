r"""Speed and recall of indexes on questions whose passages are known.

    python -m scripts.bench_retrieval                         # SQuAD of the data folder
    python -m scripts.bench_retrieval --table glove.txt       # also dense, and both fused
    python -m scripts.bench_retrieval --passages docs.jsonl --questions q.jsonl

Passages are rows of `id` and `text`; questions of `question` (or `prompt`) and `passage_id`, which
may be a list. The data folder is what FTJAX_DATA names. JSON lines come out: seconds to read the
vectors and to index, milliseconds a query (one at a time), resident bytes, recall@1 and @5, MRR.
"""

import argparse
import json
import pathlib
import time
from collections.abc import Sequence

from configs import common
from ftjax.data.sources import documents, jsonl
from ftjax.evals import generate
from ftjax.retrieval import index, measure, passages

AT = (1, 5)


def read(passages_path: str, questions_path: str) -> tuple[list, list[str], list[set[int]]]:
    """Read passages, questions, and the places of the passages that answer each.

    Raises:
      ValueError: a question names a passage that is not there.
    """
    rows = documents.read(passages_path, where="--passages")
    found = passages.of_rows(rows, where="--passages", place=rows.where)
    places = {each.id: i for i, each in enumerate(found)}
    asked = jsonl.read(questions_path, where="--questions")
    golds = []
    for i, row in enumerate(asked):
        names = row.get("passage_id") or []
        names = [names] if isinstance(names, str) else names
        if not names or not set(names) <= places.keys():
            raise ValueError(
                f"{asked.where(i)}: passage_id: got {row.get('passage_id')!r}; expected the id of "
                "one of the passages"
            )
        golds.append({places[name] for name in names})
    return found, [generate.prompt_of(row) for row in asked], golds


def measured(spec: dict, found: Sequence, questions: Sequence[str], golds: Sequence) -> dict:
    """Index the passages, ask all questions, and return the numbers."""
    start = time.perf_counter()
    made = index.build(spec, found, where="index")
    indexed = time.perf_counter()
    places = [made.search([question], k=max(AT)).places[0] for question in questions]
    ended = time.perf_counter()
    scores = measure.summary(places, golds, at=AT)
    return {
        "index": spec["name"],
        "passages": len(found),
        "questions": len(questions),
        "index_s": round(indexed - start, 3),
        "query_ms": round(1000 * (ended - indexed) / len(questions), 3),
        "bytes": made.nbytes,
        **{name: round(value, 4) for name, value in scores.items()},
    }


def main() -> None:
    """Measure every index that the flags allow."""
    squad = pathlib.Path(common.data_folder()) / "qa" / "squad"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", default=str(squad / "passages.jsonl.gz"))
    parser.add_argument("--questions", default=str(squad / "test.jsonl.gz"))
    parser.add_argument("--table", default="", help="word vectors, for dense and fused")
    args = parser.parse_args()
    data = read(args.passages, args.questions)
    specs = [dict(name="bm25")]
    if args.table:
        dense = dict(name="dense", table=args.table)
        specs += [dense, dict(name="fuse", indexes=(specs[0], dense))]
    for spec in specs:
        print(json.dumps(measured(spec, *data)), flush=True)


if __name__ == "__main__":
    main()
