r"""Open-book reading: a passage about people or things met only there, then a question.

The people are invented for each row, so a model that knows everything still has to read; the
answer is one word or one name of the passage, and no two subjects share a value.

    "Text: Bamo plays golf. Telika plays chess.\nQ: Who plays chess?\nA:" -> " Telika"

Validation has names of its own; test has other names and wordings that training never uses.
"""

from ftjax.data.worlds import generated, names, relations

FORMS = ("prompt", "text")
WORLDS = {"people": relations.PEOPLE, "things": relations.THINGS}


def make(
    *,
    split: str = "train",
    rows: int | None = None,
    seed: int = 0,
    about: str = "people",
    subjects: int | tuple[int, int] = (2, 4),
    facts: int | tuple[int, int] = (1, 2),
    questions: int | tuple[int, int] = 1,
    form: str = "prompt",
    wording: str | None = None,
):
    """Make reading rows: `subjects` people or things with `facts` relations each.

    With several `questions` (each range is closed) all but the last are answered in the prompt.
    `form="text"` gives the whole as one text, for pretraining. `wording` is "seen" or "held_out";
    by default the test split alone is held out. A row also carries "answer", "choices" (what the
    passage offers for that relation, so chance is one over their number), "facts" and "relation".
    Raises ValueError for more subjects than the names and values that are there.
    """
    generated.legal(split, generated.SPLITS, "reading: split")
    generated.legal(about, WORLDS, "reading: about")
    generated.legal(form, FORMS, "reading: form")
    wording = wording or ("held_out" if split == "test" else "seen")
    generated.legal(wording, ("seen", "held_out"), "reading: wording")
    _check(about, split, subjects, facts, questions)
    key = ("reading", about, split, wording, seed)

    def draw(index):
        rng = generated.generator(*key, index)
        who = _subjects(rng, about, split, generated.between(rng, subjects))
        told = _facts(rng, WORLDS[about], who, generated.between(rng, facts))
        asked = _questions(rng, WORLDS[about], told, wording, generated.between(rng, questions))
        row = _row(_passage(rng, WORLDS[about], told, wording), asked, told)
        return generated.as_text(row) if form == "text" else row

    rows = generated.ROWS[split] if rows is None else rows
    return generated.Generated(draw, count=rows, name=f"reading-{about}/{split}")


def _check(about, split, subjects, facts, questions):
    """Check that ranges are in reach: each subject has a value of its own in every relation."""
    nouns = names.MAX_NAMES if about == "people" else len(relations.SUBJECTS[split])
    most = {
        "subjects": min(nouns, *(len(r.values) for r in WORLDS[about].values())),
        "facts": len(WORLDS[about]),
        "questions": 100,
    }
    for option, limits in (("subjects", subjects), ("facts", facts), ("questions", questions)):
        low, high = (limits, limits) if isinstance(limits, int) else limits
        if not 1 <= low <= high <= most[option]:
            raise ValueError(
                f"reading: got {option}={limits}; expected a number or a range within 1 to "
                f"{most[option]} about {about} in {split}; take fewer"
            )


def _subjects(rng, about, split, count):
    if about == "people":
        return names.draw(rng, split, count)
    return [f"the {noun}" for noun in generated.sample(rng, relations.SUBJECTS[split], count)]


def _facts(rng, world, who, count):
    chosen = generated.sample(rng, list(world), count)
    values = {key: generated.sample(rng, world[key].values, len(who)) for key in chosen}
    return [(name, key, values[key][i]) for i, name in enumerate(who) for key in chosen]


def _passage(rng, world, told, wording):
    if rng.random() < 0.5:  # half of the passages go subject by subject, half jump about
        told = [told[int(i)] for i in rng.permutation(len(told))]
    lines = []
    for name, key, value in told:
        r = world[key]
        options = r.statements if wording == "seen" else r.held_statements
        lines.append(relations.fill(generated.pick(rng, options), name=name, value=value))
    return " ".join(lines)


def _questions(rng, world, told, wording, count):
    """Return (question, answer, choices, relation) for `count` facts; two in five ask who."""
    asked = []
    for name, key, value in generated.sample(rng, told, min(count, len(told))):
        r, backwards, seen = world[key], rng.random() < 0.4, wording == "seen"
        if backwards:
            options, answer = (r.who if seen else r.held_who), name
        else:
            options, answer = (r.questions if seen else r.held_questions), value
        column = 0 if backwards else 2
        choices = sorted(fact[column] for fact in told if fact[1] == key)
        text = relations.fill(generated.pick(rng, options), name=name, value=value)
        asked.append((text, answer, choices, key))
    return asked


def _row(passage, asked, told):
    *shown, (text, answer, choices, relation) = asked
    earlier = "".join(f"\nQ: {q}\nA: {a}" for q, a, _, _ in shown)
    prompt = f"Text: {passage}{earlier}\nQ: {text}\nA:"
    return generated.question(prompt, answer, choices=choices, relation=relation, facts=told)
