r"""A small world of invented people: closed-book facts, told in many wordings and then asked.

Each person of a population has one value for each relation (country, job, ..., year), drawn once
by the number of the world: the facts are the same for every row seed. Training tells them in some
wordings; the test split asks in wordings that training never uses.

    train, statements: "Fact: Bamo comes from Peru. The pet of Bamo is a goat."
    test, questions:   "Q: Where does Bamo come from?\nA:" -> " Peru"
    passages:          "Bamo comes from Peru. The job of Bamo is baker."

Passages state every fact once, some facts of one person each, for an index to find; a question has
the `passage_id` of the one that answers it.

Populations are disjoint: "base" is for pretraining, "new", "new2" and "new3" for fine-tuning.

A world can change: a share `changed` of its facts then has another value, the same for every row
seed. `only="changed"` asks for these alone; such questions have what was true before as `stale`.

Of a share `rare` of the people training tells RARELY times less often than of the others, in
statements and in questions; every question then says how often its fact is `told`.
"""

import functools

from ftjax.data.worlds import generated, names, relations

POPULATIONS = ("base", "new", "new2", "new3")
FORMS = ("statements", "questions", "passages")
IN_PASSAGE = 2  # facts
KINDS = ("seen", "held_out")
ONLY = ("changed", "unchanged")
RARELY = 4  # times less often than of the others
OFTEN, SELDOM = "often", "rarely"


@functools.cache
def table(
    population: str = "base", people: int = 64, world: int = 0, changed: float = 0.0
) -> dict[str, dict[str, str]]:
    """Return the ground truth of a population: {name: {relation: value}}."""
    generated.legal(population, POPULATIONS, "facts: population")
    rng = generated.generator("facts", population, world)
    found = {
        name: {key: generated.pick(rng, r.values) for key, r in relations.PEOPLE.items()}
        for name in names.population(population, people, world)
    }
    if not 0 <= changed <= 1:
        raise ValueError(f"facts: got changed={changed}; expected a share of 0 to 1")
    pairs, rng = _pairs(found), generated.generator("changes", population, world)
    for name, key in generated.sample(rng, pairs, round(changed * len(pairs))):
        values = [v for v in relations.PEOPLE[key].values if v != found[name][key]]
        found[name][key] = generated.pick(rng, values)
    return found


def _pairs(known) -> list[tuple[str, str]]:
    return [(name, relation) for name in known for relation in relations.PEOPLE]


def make(
    *, split: str = "train", rows: int | None = None, seed: int = 0, population: str = "base",
    people: int = 64, world: int = 0, changed: float = 0.0, only: str | None = None,
    form: str | None = None, wording: str | None = None, wordings: int | None = None,
    rare: float = 0.0,
):  # fmt: skip
    """Make closed-book rows about one population of `people` invented people.

    `form` is "statements" (text rows of 2 to 5 facts about one person), "questions"
    (prompt/response rows) or "passages" (text rows of IN_PASSAGE facts, each fact once, with ids);
    by default the training split states and the others ask. `wording` is
    "seen" or "held_out"; by default the test split alone is held out. Questions go through all
    facts, in random order, before any fact comes again; validation and test hold each once
    unless `rows` says otherwise. `changed` is the share of facts with another value, `only`
    "changed" or "unchanged": questions about these facts alone. `wordings` is how many of the
    wordings statements use, all when not given. `rare` is the share of people of whom the training
    split tells RARELY times less often.
    """
    generated.legal(split, generated.SPLITS, "facts: split")
    form = generated.legal(
        form or ("statements" if split == "train" else "questions"), FORMS, "facts: form"
    )
    wording = generated.legal(
        wording or ("held_out" if split == "test" else "seen"), KINDS, "facts: wording"
    )
    known, before = (table(population, people, world, share) for share in (changed, 0.0))
    pairs = _chosen(known, before, only)
    _check_options(form, only, wordings)
    key = ("facts", population, world, split, form, wording, seed)
    seldom = _seldom(list(known), rare, generated.generator("rare", population, world))
    people = _weighted(known, seldom, own=lambda name: name)
    asked = _weighted(pairs, seldom, own=lambda pair: pair[0]) if split == "train" else pairs
    told = functools.partial(_told, seldom) if rare else None
    draw = {
        "statements": lambda: _statements(known, people, wording, key, wordings),
        "questions": lambda: _ask(known, before, asked, wording, key, told),
        "passages": lambda: _passages(known, wording, key),
    }[form]()
    count = _count(form, split, rows, len(pairs))
    return generated.Generated(draw, count=count, name=f"facts-{population}/{split}")


def _count(form: str, split: str, rows: int | None, facts: int) -> int:
    if form == "passages":
        every = facts // IN_PASSAGE
        return every if rows is None else min(rows, every)
    default = generated.ROWS["train"] if split == "train" else facts
    return default if rows is None else rows


def _check_options(form: str, only: str | None, wordings: int | None) -> None:
    if only is not None and form != "questions":
        raise ValueError(f"facts: got only={only!r} with form={form!r}; expected questions")
    if wordings is not None and (wordings < 1 or form != "statements"):
        raise ValueError(
            f"facts: got wordings={wordings} with form={form!r}; expected 1 or more of statements"
        )


def _chosen(known, before, only: str | None) -> list[tuple[str, str]]:
    """List the facts that are asked for."""
    pairs = _pairs(known)
    if only is None:
        return pairs
    generated.legal(only, ONLY, "facts: only")
    moved = lambda name, relation: known[name][relation] != before[name][relation]
    found = [pair for pair in pairs if moved(*pair) == (only == "changed")]
    if not found:
        raise ValueError(f"facts: got only={only!r}, which no fact is; set `changed` to a share")
    return found


def _seldom(people: list[str], rare: float, rng) -> frozenset[str]:
    """Choose the people of whom training tells seldom."""
    if not 0 <= rare < 1:
        raise ValueError(f"facts: got rare={rare}; expected a share of 0 to less than 1")
    return frozenset(generated.sample(rng, people, round(rare * len(people))))


def _weighted(every, seldom, *, own) -> list:
    """List what is drawn from: RARELY times what is of the others, where there are seldom ones."""
    if not seldom:
        return list(every)
    return [each for each in every for _ in range(1 if own(each) in seldom else RARELY)]


def _told(seldom, name: str) -> str:
    return SELDOM if name in seldom else OFTEN


def _statements(known, people, wording, key, wordings):
    def draw(index):
        rng = generated.generator(*key, index)
        name = generated.pick(rng, people)
        told = generated.sample(rng, list(relations.PEOPLE), generated.between(rng, (2, 5)))
        told = {relation: known[name][relation] for relation in told}
        lines = [_say(rng, name, key, value, wording, wordings) for key, value in told.items()]
        return {"text": " ".join(["Fact:", *lines]), "name": name, "facts": told}

    return draw


def _passages(known, wording, key):
    groups, people = list(_groups()), list(known)

    def draw(index):
        name, own = people[index // len(groups)], groups[index % len(groups)]
        rng, told = generated.generator(*key, index), {r: known[name][r] for r in own}
        lines = [_say(rng, name, relation, value, wording) for relation, value in told.items()]
        return {"id": passage_id(name, own[0]), "text": " ".join(lines), "facts": told}

    return draw


def _groups():
    every = list(relations.PEOPLE)
    return (every[i : i + IN_PASSAGE] for i in range(0, len(every), IN_PASSAGE))


def passage_id(name: str, relation: str) -> str:
    """Return the id of the passage that holds a fact."""
    return f"{name}-{list(relations.PEOPLE).index(relation) // IN_PASSAGE}"


def _say(rng, name, relation, value, wording, wordings=None):
    r = relations.PEOPLE[relation]
    options = r.statements if wording == "seen" else r.held_statements
    return relations.fill(generated.pick(rng, options[:wordings]), name=name, value=value)


def _ask(known, before, pairs, wording, key, told=None):
    @functools.lru_cache(maxsize=4)
    def order(epoch):
        return generated.generator(*key, "order", epoch).permutation(len(pairs))

    def draw(index):
        epoch, place = divmod(index, len(pairs))
        name, relation = pairs[int(order(epoch)[place])]
        r, rng = relations.PEOPLE[relation], generated.generator(*key, index)
        options = r.questions if wording == "seen" else r.held_questions
        text = relations.fill(generated.pick(rng, options), name=name, value="")
        answer = known[name][relation]
        truth = {"name": name, "relation": relation, "choices": sorted(set(r.values))}
        truth["passage_id"] = passage_id(name, relation)
        if before[name][relation] != answer:
            truth["stale"] = before[name][relation]
        if told is not None:
            truth["told"] = told(name)
        return generated.question(f"Q: {text}\nA:", answer, **truth)

    return draw
