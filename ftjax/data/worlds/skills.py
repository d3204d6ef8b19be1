r"""Small skills with exact answers on letters, words and numbers, told by name or by example.

Letters stand apart ("k a t o"), so each is one token and the skill is about order, not spelling.

    shots=0: "Do: reverse\nIn: k a t o\nOut:" -> " o t a k"
    shots=2: "In: b d a\nOut: a d b\nIn: r e\nOut: e r\nIn: k a t o\nOut:" -> " o t a k"

With examples the skill is not named: it has to be read off them. `BASE` is for pretraining,
`HELD_OUT` for fine-tuning, and so is `MANY`: there an input has many right answers, of which a row
shows one, by a rule that nothing says. An input belongs to one split, by its checksum.
"""

import collections.abc
import itertools
import string

from ftjax.data.worlds import generated, names

FORMS = ("prompt", "text")
BUCKETS = ("test", "validation") + ("train",) * 8
VOWELS = "aeiou"


def letters(rng, length) -> str:
    """Draw so many letters, with a blank between them."""
    count = generated.between(rng, length)
    return " ".join(string.ascii_lowercase[int(i)] for i in rng.integers(26, size=count))


def _voiced(rng, length):
    """Return letters of which about half are vowels, and at least one."""
    voiced = rng.random(generated.between(rng, length)) < 0.5
    voiced[int(rng.integers(len(voiced)))] = True
    return " ".join(generated.pick(rng, VOWELS if v else "bdgklmnprst") for v in voiced)


def _wordlist(rng, length):
    return " ".join(names.word(rng) for _ in range(min(generated.between(rng, length), 5)))


def _sum(rng, length):
    big = int(rng.integers(100)) if rng.random() < 0.5 else int(rng.integers(10))
    return f"{big} + {int(rng.integers(10))}"


def _difference(rng, length):
    big = int(rng.integers(100)) if rng.random() < 0.5 else int(rng.integers(10))
    return f"{big} - {int(rng.integers(min(big, 9) + 1))}"


def _digits(rng, length):
    drawn = generated.sample(rng, string.digits, min(generated.between(rng, length), 10))
    return " ".join(drawn)


def _pairs(rng, length):
    count = min(generated.between(rng, length), 10)
    keys = generated.sample(rng, string.ascii_lowercase, count)
    values = [str(int(i)) for i in rng.permutation(10)[:count]]
    pairs = ", ".join(f"{k} {v}" for k, v in zip(keys, values, strict=True))
    return f"{pairs}; {generated.pick(rng, keys)}"


def _distinct(rng, length):
    count = min(generated.between(rng, length), 5)  # whose orders are 120
    return " ".join(generated.sample(rng, string.ascii_lowercase, count))


def _other_orders(text):
    """List all orders but the given one; first that with the first letter at the end."""
    letters = tuple(text.split())
    shown = (*letters[1:], letters[0])
    others = sorted({*itertools.permutations(letters)} - {letters, shown})
    return [" ".join(order) for order in (shown, *others)]


def _shift(letters, by):
    moved = [chr((ord(c) - ord("a") + by) % 26 + ord("a")) for c in letters.split()]
    return " ".join(moved)


def _recall(text):
    pairs, key = text.split("; ")
    return dict(pair.split() for pair in pairs.split(", "))[key]


def _swap_ends(text):
    first, *middle, last = text.split()
    return " ".join([last, *middle, first])


# name -> (draw an input, the exact answer for an input)
BASE = {
    "copy": (letters, lambda s: s),
    "reverse": (letters, lambda s: s[::-1]),
    "upper": (letters, str.upper),
    "sort": (letters, lambda s: " ".join(sorted(s.split()))),
    "first letter": (letters, lambda s: s[0]),
    "last letter": (letters, lambda s: s[-1]),
    "count": (letters, lambda s: str(len(s.split()))),
    "shift": (letters, lambda s: _shift(s, 1)),
    "repeat": (letters, lambda s: f"{s} {s}"),
    "copy words": (_wordlist, lambda s: s),
    "first word": (_wordlist, lambda s: s.split()[0]),
    "last word": (_wordlist, lambda s: s.split()[-1]),
    "add": (_sum, lambda s: str(sum(int(n) for n in s.split(" + ")))),
    "largest": (_digits, lambda s: max(s.split())),
    "recall": (_pairs, _recall),
}
HELD_OUT = {
    "swap ends": (letters, _swap_ends),
    "double": (letters, lambda s: " ".join(f"{c} {c}" for c in s.split())),
    "vowels": (_voiced, lambda s: " ".join(c for c in s.split() if c in VOWELS)),
    "drop first": (letters, lambda s: s[2:]),
    "shift back": (letters, lambda s: _shift(s, -1)),
    "second word": (_wordlist, lambda s: s.split()[1]),
    "subtract": (_difference, lambda s: str(int(s.split()[0]) - int(s.split()[2]))),
    "smallest": (_digits, lambda s: min(s.split())),
}
# name -> (draw an input, all right answers for an input, first the one that rows show)
MANY = {"shuffle": (_distinct, _other_orders)}
EVERY = BASE | HELD_OUT | MANY


def answers(skill: str, text: str) -> list[str]:
    """Return the right answers of `skill` for the input `text`, first the one that is shown."""
    found = EVERY[generated.legal(skill, EVERY, "skills: skill")][1](text)
    return [found] if isinstance(found, str) else found


def solve(skill: str, text: str) -> str:
    """Return the exact answer of `skill` for the input `text`; of many the one that is shown."""
    return answers(skill, text)[0]


def split_of(skill: str, text: str) -> str:
    """Return the only split whose rows may use this input for this skill."""
    return BUCKETS[generated.bucket(f"{skill}:{text}", len(BUCKETS))]


def chosen(skills: str | collections.abc.Sequence[str]) -> list[str]:
    """Return skill names for "base", "held_out", one name, or a list of names."""
    groups = {"base": list(BASE), "held_out": list(HELD_OUT)}
    if isinstance(skills, str):
        skills = groups.get(skills, [skills])
    legal = set(EVERY) | (set() if skills else set(groups))
    return [generated.legal(skill, legal, "skills: skills") for skill in skills]


def make(
    *,
    split: str = "train",
    rows: int | None = None,
    seed: int = 0,
    skills: str | collections.abc.Sequence[str] = "base",
    shots: int | tuple[int, int] = 0,
    length: int | tuple[int, int] = (3, 5),
    form: str = "prompt",
):
    """Make skill rows: no example and the skill's name, or `shots` examples and no name.

    `skills` is "base", "held_out", a name or a list of names; `length` counts letters or words
    (at least 2; closed ranges). `form="text"` gives the whole as one text, for pretraining. A row
    also carries "answer", "skill" and "input", and "answers" where there are many.
    """
    generated.legal(split, generated.SPLITS, "skills: split")
    generated.legal(form, FORMS, "skills: form")
    if (length if isinstance(length, int) else length[0]) < 2:
        raise ValueError(f"skills: got length={length}; expected at least 2; try length=(3, 5)")
    names_of_skills = chosen(skills)
    key = ("skills", split, seed)

    def draw(index):
        rng = generated.generator(*key, index)
        skill = generated.pick(rng, names_of_skills)
        row = _row(skill, _inputs(rng, skill, split, 1 + generated.between(rng, shots), length))
        return generated.as_text(row) if form == "text" else row

    rows = generated.ROWS[split] if rows is None else rows
    return generated.Generated(draw, count=rows, name=f"skills/{split}")


def _inputs(rng, skill, split, count, length):
    """Return `count` different inputs of the split, so that no example gives the answer away."""
    make_input = EVERY[skill][0]
    found: dict[str, None] = {}
    while len(found) < count:
        text = make_input(rng, length)
        if split_of(skill, text) == split:
            found[text] = None
    return list(found)


def _row(skill, inputs):
    *shown, query = inputs
    lines = [f"In: {text}\nOut: {solve(skill, text)}\n" for text in shown]
    start = "".join(lines) if lines else f"Do: {skill}\n"
    many = {"answers": answers(skill, query)} if skill in MANY else {}
    return generated.question(
        f"{start}In: {query}\nOut:", solve(skill, query), skill=skill, input=query, **many
    )
