r"""Data that needs no download: real text of the running Python, and seeded worlds made here.

    rows = make(domain="reading", split="test", rows=200)
    rows[0] -> {"prompt": "...\nQ: Who plays chess?\nA:", "response": " Telika", "answer": ...}

| domain    | what                                                | module    |
|-----------|-----------------------------------------------------|-----------|
| english   | docstrings, comments and the language reference     | pytext    |
| code      | source of the standard library                      | pytext    |
| facts     | closed-book facts about populations of people       | facts     |
| reading   | open-book questions about people met once           | reading   |
| skills    | exact small skills, named or by example             | skills    |
| rules     | requests to refuse, and a form of all answers       | rules     |
| patterns  | text that repeats itself                            | patterns  |
| languages | order-2 Markov chains with a known entropy          | languages |
"""

import functools
import inspect

from ftjax.data.worlds import facts, generated, languages, patterns, pytext, reading, rules, skills

DOMAINS = {
    "english": functools.partial(pytext.make, domain="english"),
    "code": functools.partial(pytext.make, domain="code"),
    "facts": facts.make,
    "reading": reading.make,
    "skills": skills.make,
    "rules": rules.make,
    "patterns": patterns.make,
    "languages": languages.make,
}


def files() -> list[str]:
    """Return the files that `make` reads: none, the rows are made by the code of this folder."""
    return []


def make(
    *, domain: str, split: str = "train", rows: int | None = None, seed: int = 0,
    emphasis: float = 1.0, form: str | None = None, **domain_options,
) -> generated.Generated:  # fmt: skip
    """Make the rows of one domain: a sequence of dicts with `.where(i)`.

    `rows=None` gives every row of a text, and 100,000 (train) or 1,000 of what is generated;
    `emphasis` is the weight of every row in the loss; the options of a domain are those of its
    module's `make`. Raises ValueError for an unknown domain, split or option, with the legal ones.
    """
    source = DOMAINS[generated.legal(domain, DOMAINS, "embedded: domain")]
    known = set(inspect.signature(source).parameters) - {"domain"}
    domain_options |= {} if form is None else {"form": form}
    for option in domain_options:
        generated.legal(option, known, f"embedded: option of {domain!r}")
    found = source(split=split, rows=rows, seed=seed, **domain_options)
    if emphasis == 1.0:
        return found
    draw = lambda index: {**found[index], "weight": emphasis}
    return generated.Generated(draw, count=len(found), name=found.name, weighted=True)
