r"""Pretrain the embedded base: a llama of 1.5 M parameters, on embedded data only, from nothing.

    T="python -m experiments.train --config configs/pretrain_tiny.py"
    $T --workdir runs/first
    $T:stage=2,base=runs/first/export --workdir runs/second
    $T:stage=3,base=runs/second/export --workdir runs/pretrain_tiny

The first stage learns words and facts at a constant learning rate; the second sees more of what has
to be looked up in the context, and lets the rate fall; the third learns to answer questions about a
passage, from the answers alone: among all tokens they are too few to be noticed.

The mixtures hold nothing that fine-tuning and tests hold out: the populations "new", "new2",
"new3", the languages 4 to 7, the held-out skills and wordings, and the names and inputs of the
other splits. Shares are of tokens; a mixture draws rows, so its `weight` is the share divided by
the mean tokens of a row.

Two CPU cores, about an hour; `ftjax/assets/tiny/README.md` has the numbers of the base itself.
"""

from configs import common

# (share of tokens in each stage, mean tokens of a row, options of `data.sources.embedded.make`)
SHARES = (
    ((0.13, 0.09, 0.14), 85, dict(domain="english")),
    ((0.13, 0.09, 0.14), 137, dict(domain="code")),
    ((0.08, 0.03, 0.03), 31, dict(domain="facts", form="statements")),
    ((0.04, 0.04, 0.06), 15, dict(domain="facts", form="questions")),
    ((0.22, 0.22, 0.00), 86, dict(domain="reading", form="text", questions=(2, 5))),
    ((0.00, 0.10, 0.00), 67, dict(domain="reading", form="text", facts=1, questions=(2, 4))),
    ((0.04, 0.04, 0.00), 73, dict(domain="reading", form="text", about="things", questions=(1, 4))),
    ((0.00, 0.00, 0.25), 70, dict(domain="reading", questions=(1, 3), emphasis=8.0)),
    ((0.00, 0.00, 0.10), 53, dict(domain="reading", about="things", emphasis=8.0)),
    ((0.12, 0.08, 0.12), 79, dict(domain="skills", form="text", shots=(2, 6))),
    ((0.06, 0.05, 0.06), 21, dict(domain="skills", form="text", shots=0)),
    ((0.08, 0.20, 0.04), 56, dict(domain="patterns")),
    ((0.10, 0.06, 0.06), 70, dict(domain="languages")),
)
STEPS = (3000, 4500, 1200)
SEQUENCE, BATCH = 256, 16
TEXTS = ("english", "code", "patterns")
TOKENS = 5000 * BATCH * SEQUENCE  # drawn from; more than a stage uses


def mixture(stage: int, tokens: int) -> list[dict]:
    """List the parts of a stage's mixture, with rows enough that nothing generated comes twice."""
    parts = []
    for place, (shares, mean, options) in enumerate(SHARES):
        share, seed = shares[stage - 1], stage * len(SHARES) + place
        if not share:
            continue
        part = dict(name="embedded", label=options["domain"], weight=share / mean, seed=seed)
        if options["domain"] not in ("english", "code"):
            part |= dict(rows=int(share * tokens / mean) + 1)
        form = options.get("form", "text" if options["domain"] in TEXTS else "prompt")
        kind = "text" if form in ("text", "statements") else "prompt"
        parts.append(part | options | dict(kind=kind))
    return parts


def get_config(arg=None):
    """Return the config of a stage, which starts from `base=`; `steps=` for another length."""
    arg = common.parse_arg(arg, runlocal=False, stage=1, base="", steps=0)
    c = common.base()
    steps = arg.steps or STEPS[arg.stage - 1]
    c.model = dict(c.model, base=arg.base, preset="" if arg.base else "tiny")
    c.tokenizer = "tiny"
    c.optim.learning_rate = 3e-3
    c.optim.schedule = dict(name="constant", warmup_ratio=250 / steps)
    if arg.stage > 1:
        fall = dict(name="wsd", decay_ratio=0.5, final_fraction=0.05)
        c.optim.schedule = dict(fall, warmup_ratio=250 / steps)
    c.optim.weight_decay = 0.05
    c.optim.b2 = 0.98
    c.optim.no_decay = ("**{norm,norm/*,bias}",)
    parts = mixture(arg.stage, TOKENS)
    if arg.runlocal:
        parts = [part | dict(rows=64) for part in parts]
    c.data = dict(
        name="mixture", parts=parts, max_tokens=SEQUENCE, packing="bfd",
        loss="completion" if arg.stage == 3 else "all",
    )  # fmt: skip
    c.steps, c.batch_size = steps, BATCH
    c.log_every_steps = 20
    c.checkpoint.every_steps = 250
    held = dict(name="embedded", split="test", rows=128)
    words = dict(name="generate", max_new_tokens=8, normalize="squad")
    c.evals.reading = dict(words, data=dict(held, domain="reading"))
    seen = dict(held, domain="reading", split="validation")
    c.evals.reading_seen_wordings = dict(words, data=seen)
    c.evals.facts = dict(words, data=dict(held, domain="facts"))
    shots = dict(held, domain="skills", shots=4)
    c.evals.skills_4shot = dict(name="generate", data=shots, max_new_tokens=16)
    c.evals.skills = dict(name="generate", data=dict(held, domain="skills"), max_new_tokens=16)
    for domain in ("english", "code", "languages"):
        kind = "prompt" if domain == "languages" else "text"
        text = dict(held, domain=domain, kind=kind, loss="all")
        c.evals[domain] = dict(name="nll", data=text)
    c.eval_every_steps = 1000
    return common.shrink(c, tokens=SEQUENCE) if arg.runlocal else c
