r"""New facts, facts that change and a new skill for the embedded base: prompt, retrieve, or tune?

    python -m experiments.decide --config configs/decide_tiny.py --workdir runs/decide
    python -m experiments.decide --workdir runs/rare
        --config configs/decide_tiny.py:rare=0.5,arms=zero_shot+rag+lora,trials=1
    python -m scripts.decide_growth --workdir runs/growth --over people=8,16,32,64,128,256
        --config configs/decide_tiny.py:arms=zero_shot+rag+lora,trials=1,seeds=2

Facts are about people whom the base has never met, stated in passages of two facts each, and asked
in wordings that training does not use; then a tenth of them changes, and every arm is brought up to
it. The skill has inputs that training does not use. Old abilities are asked with every arm's prompt
in front of them. Validation asks in the wordings of training. `queries`, `updates`: what the
verdict is for; costs are in FLOPs.

Beside the arms of decide.py: LoRA on statements alone, each fact in one wording or in several, and
LoRA, then retrieval. With these, what the literature says is judged, and the command ends with an
error where a gate (docs/decide.md) does not come out. With `rare=0.5` training tells of half of the
people four times less often than of the others, and what retrieval is worth on either is judged.

Hardware: two CPU cores, 12.7 minutes of CPU time in all, compiling included (11.4
minutes by the clock on cores that other work used too, most programs compiled before). Expect
retrieval for facts and changed facts (exact match .71 and .85), training for the skill (.93 to .98,
0 without), and all gates; docs/decide.md has the rest. At 7B and more, training does not memorise a
corpus as it does these few people.
"""

from configs import common, decide
from ftjax.decide import config as decisions

SKILL = "double"
CHANGED = 0.1
TRAINED = ("facts", "skill", "told", "changed")
# label = the arm's section without its trials
ARMS = {
    **{name: dict(name=name) for name in decide.ARMS},
    **{name: dict(name=name, train=TRAINED) for name in ("lora", "full", "lora_rag")},
    "lora_statements": dict(name="lora", train=("stated",)),
    "lora_paraphrases": dict(name="lora", train=("told",)),
    "lora_then_rag": dict(name="rag", weights="lora"),
}
TEMPLATES = ("{prompt}", "Read and answer.\n{prompt}")
SMOKE = (*decide.ARMS, "lora_then_rag")  # of one kind of training each


def get_config(arg=None):
    """Return the config; `smoke` is what a test runs."""
    arg = common.parse_arg(
        arg, people=32, steps=120, seeds=3, rank=16, queries=1000.0, updates=0.0, limit=256,
        rare=0.0, base="tiny", max_tokens=128, arms="", trials=2, smoke=False, runlocal=False,
    )  # fmt: skip
    small = arg.smoke or arg.runlocal
    c = decisions.defaults()
    people = dict(name="embedded", domain="facts", population="new", people=arg.people)
    fill(c, arg, people | dict(rare=arg.rare))
    for name in ("lora", "full"):
        c.runs[name] = decide.run(arg, full=name == "full")
        c.runs[name].optim.learning_rate = 1e-3 if name == "full" else 5e-3
        c.runs[name].batch_size, c.runs[name].log_every_steps = 8, 20
    names = arg.arms.split("+") if arg.arms else SMOKE if small else ARMS
    trials = 1 if small else arg.trials
    for label in names:
        own = trials_of(label, c)[:trials] if trials > 1 else ()
        c.arms[label] = dict(ARMS[label], trials=own)
    c.validation = c.validation if trials > 1 else {}
    c.seeds, c.max_new_tokens, c.latency_rows = tuple(range(arg.seeds)), 12, 4
    c.latency_rounds = 3 if small else 12  # a query takes milliseconds: the median of many
    c.prices = dict(queries=arg.queries, updates=arg.updates)
    c.gates = not small and not arg.arms
    return decide.shrink(c) if small else c


def fill(c, arg, people):
    """Set the data: of the world as it is, and of the one in which some facts have changed."""
    skill = dict(name="embedded", domain="skills", skills=SKILL, normalize="none")
    new, asked = dict(people, changed=CHANGED), dict(people, form="questions")
    c.train, c.changed.train = (data(each, skill) for each in (people, new))
    c.changed.train.changed = dict(asked, changed=CHANGED, only="changed", rows=200, weight=2.0)
    c.test.facts = dict(asked, split="test", limit=arg.limit)
    c.test.skill = dict(skill, split="test", rows=64)
    c.validation.facts = dict(asked, split="validation", limit=48)
    c.validation.skill = dict(skill, split="validation", rows=32)
    moved = round(CHANGED * 8 * arg.people)  # facts, each of which is asked twice
    c.changed.test.changed = dict(asked, changed=CHANGED, only="changed", split="test")
    c.changed.test.changed.update(rows=2 * moved, limit=arg.limit, cluster="{name} {relation}")
    c.changed.config = {"steps": max(1, arg.steps // 3)}
    for domain in ("facts", "reading", "skills"):
        held = dict(name="embedded", domain=domain, split="test", limit=24)
        c.old[domain] = dict(held, normalize="none" if domain == "skills" else "squad")
    c.passages = dict(people, form="passages")
    c.changed.passages = dict(new, form="passages")


def data(people, skill) -> dict:
    """Return the training data about these people: questions, and texts in one wording or more."""
    texts = dict(people, form="statements", kind="text", rows=400, weight=1.0)
    return dict(
        facts=dict(people, form="questions", rows=800, weight=2.0),
        skill=dict(skill, rows=1600, weight=2.0), told=texts, stated=dict(texts, wordings=1),
    )  # fmt: skip


def trials_of(label: str, c) -> tuple[dict, ...]:
    """Return the trials of an arm, as many of each."""
    name = ARMS[label]["name"]
    if name == "few_shot":
        return dict(shots=4), dict(shots=8)
    if name in ("rag", "few_shot_rag"):
        return dict(k=4), dict(k=2)
    if name in ("lora", "full", "lora_rag"):
        rate = c.runs["full" if name == "full" else "lora"].optim.learning_rate
        return tuple(dict(config={"optim.learning_rate": rate * each}) for each in (1.0, 0.4))
    if name == "prompt_search":
        return dict(instruction="Say what is true.", template=TEMPLATES[1]), dict(rewrite=True)
    return dict(), dict(instruction="Answer with one word.")
