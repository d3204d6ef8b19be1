r"""Answers judged exactly: the right one of an embedded domain against wrong ones of its own kind.

    make(kind="preference", domain="skills", skills="reverse")[0]
    -> {"prompt": "Do: reverse\nIn: k a t o\nOut:", "chosen": " o t a k", "rejected": " r e s i"}

`kind="unpaired"` gives single completions, half of them good; `kind="ranking"` gives `count`
answers in the order of how much of the right one they have. Wrong answers are those of other rows,
or the other choices where a row has some, so their form gives nothing away.
"""

import difflib
from collections.abc import Callable

from ftjax.data.sources import embedded
from ftjax.data.worlds import generated

REACH = 50  # rows to look through for a wrong answer


def make(
    *, kind: str = "preference", domain: str = "skills", split: str = "train",
    rows: int | None = None, seed: int = 0, count: int = 3, **domain_options,
) -> generated.Generated:  # fmt: skip
    """Make judged rows of a domain of questions; the options are those of `embedded.make`.

    Raises ValueError for an unknown kind, a domain without prompts, or one answer everywhere.
    """
    generated.legal(kind, ANSWERS, "judged: kind")
    source = embedded.make(domain=domain, split=split, rows=rows, seed=seed, **domain_options)
    if len(source) and "response" not in source[0]:
        raise ValueError(
            f"judged: got domain {domain!r}, whose rows have no response; expected questions, such "
            "as those of 'skills', 'reading' or 'facts'"
        )
    key = ("judged", kind, domain, split, seed)

    def draw(index):
        row, rng = source[index], generated.generator(*key, index)
        wrong = lambda: _wrong(source, index, rng)
        return {"prompt": row["prompt"]} | ANSWERS[kind](row["response"], wrong, rng, count)

    return generated.Generated(draw, count=len(source), name=f"judged-{source.name}")


def _preference(right: str, wrong: Callable, rng, count: int) -> dict:
    return {"chosen": right, "rejected": wrong()[0]}


def _unpaired(right: str, wrong: Callable, rng, count: int) -> dict:
    good = bool(rng.random() < 0.5)
    return {"completion": right if good else wrong()[0], "label": good}


def _ranking(right: str, wrong: Callable, rng, count: int) -> dict:
    close = lambda text: -difflib.SequenceMatcher(None, right, text).ratio()
    return {"answers": [right, *sorted(wrong()[: count - 1], key=close)]}


# data.kind -> the fields of its rows but the prompt. wrong: () -> wrong answers in random order.
ANSWERS = {"preference": _preference, "unpaired": _unpaired, "ranking": _ranking}


def _wrong(source, index: int, rng) -> list[str]:
    """Return wrong answers in random order: a row's other choices, or answers of later rows.

    Those of the same skill where there are some, so that they have the right form.
    """
    row = source[index]
    if "choices" in row:
        texts = [f" {choice}" for choice in row["choices"]]
    else:
        later = [source[(index + n) % len(source)] for n in range(1, min(REACH, len(source)))]
        same = [other for other in later if other.get("skill") == row.get("skill")]
        texts = [other["response"] for other in same + ([] if len(same) > 2 else later)]
    found = [text for text in dict.fromkeys(texts) if text != row["response"]]
    if not found:
        raise ValueError(
            f"{source.where(index)}: got no answer but the right one; expected others among the "
            f"next {REACH} rows; take more rows or another domain"
        )
    return generated.sample(rng, found, len(found))
