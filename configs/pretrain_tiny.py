r"""Pretrain the embedded base: a llama of 1.5 M parameters, on embedded data only, from nothing.

    python -m experiments.train --config configs/pretrain_tiny.py --workdir runs/pretrain_tiny

The mixture holds nothing that fine-tuning and tests hold out: the populations "new", "new2",
"new3", the languages 4 to 7, the held-out skills and wordings, and the names and inputs of the
other splits. Shares are of tokens; a mixture draws rows, so its `weight` is the share divided by
the mean tokens of a row.

Two CPU cores, about an hour. Expect exact match 0.9 on facts, 0.85 on skills, 0.55 on skills by
four examples and 0.3 on reading; `ftjax/assets/tiny/README.md` has the numbers of the base itself.
"""

from configs import common

# (share of tokens, mean tokens of a row, options of `ftjax.data.embedded.make`)
SHARES = (
    (0.13, 85, dict(domain="english")),
    (0.13, 137, dict(domain="code")),
    (0.08, 31, dict(domain="facts", form="statements")),
    (0.04, 15, dict(domain="facts", form="questions")),
    (0.22, 86, dict(domain="reading", form="text", questions=(2, 5))),
    (0.04, 73, dict(domain="reading", form="text", about="things", questions=(1, 4))),
    (0.12, 79, dict(domain="skills", form="text", shots=(2, 6))),
    (0.06, 21, dict(domain="skills", form="text", shots=0)),
    (0.08, 56, dict(domain="patterns")),
    (0.10, 70, dict(domain="languages")),
)
SEQUENCE, BATCH = 256, 16
TOKENS = 5000 * BATCH * SEQUENCE  # drawn from; more than a run uses


def mixture(tokens: int) -> list[dict]:
    """List the parts of the mixture, with rows enough that nothing generated comes twice."""
    parts = []
    for place, (share, mean, options) in enumerate(SHARES):
        part = dict(name="embedded", label=options["domain"], weight=share / mean, seed=place)
        if options["domain"] not in ("english", "code"):
            part |= dict(rows=int(share * tokens / mean) + 1)
        is_text = options.get("form") != "questions" and options["domain"] != "languages"
        parts.append(part | options | dict(kind="text" if is_text else "prompt"))
    return parts


def get_config(arg=None):
    """Return the config; `runlocal` for seconds, `steps=` for another length."""
    arg = common.parse_arg(arg, runlocal=False, steps=4500)
    c = common.base()
    c.model = dict(c.model, base="", preset="tiny")
    c.tokenizer = "tiny"
    c.optim.learning_rate = 3e-3
    c.optim.schedule = dict(
        name="wsd", warmup_steps=250, decay_steps=arg.steps // 3, final_fraction=0.05
    )
    c.optim.weight_decay = 0.05
    c.optim.b2 = 0.98
    c.optim.no_decay = ("**norm",)
    tokens = TOKENS // 1000 if arg.runlocal else TOKENS
    c.data = dict(
        name="mixture", parts=mixture(tokens), max_tokens=SEQUENCE, loss="all", packing="bfd"
    )
    c.steps, c.batch_size = arg.steps, BATCH
    c.log_every_steps = 20
    c.checkpoint.every_steps = 250
    held = dict(name="embedded", split="test", rows=128)
    c.evals.reading = dict(name="generate", data=dict(held, domain="reading"), max_new_tokens=8)
    c.evals.facts = dict(name="generate", data=dict(held, domain="facts"), max_new_tokens=8)
    shots = dict(held, domain="skills", shots=4)
    c.evals.skills_4shot = dict(name="generate", data=shots, max_new_tokens=16)
    c.evals.skills = dict(name="generate", data=dict(held, domain="skills"), max_new_tokens=16)
    for domain in ("english", "code", "languages"):
        kind = "prompt" if domain == "languages" else "text"
        text = dict(held, domain=domain, kind=kind, loss="all")
        c.evals[domain] = dict(name="nll", data=text)
    c.eval_every_steps = 1000
    return common.shrink(c, tokens=SEQUENCE) if arg.runlocal else c
