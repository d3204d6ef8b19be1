r"""Every remedy against forgetting that is a line of a config, on two new languages in turn.

    python -m experiments.sequential --config configs/forgetting_remedies.py --workdir runs/held
    python -m experiments.train --config configs/forgetting_remedies.py:remedy=ewc --workdir runs/1

The first compares two dozen of them at one rate and one strength each, which says what they do and
not which one is best: that takes a sweep of each one's strength, and more seeds. What each is, and
its paper, is in docs/forgetting.md and docs/penalties.md.

Two CPU cores, about 13 CPU-minutes: 48 runs of 40 steps. Expect old languages to fall by 0.23 nats
in full fine-tuning where 60 % of the new ones are learned, 0.14 in LoRA, 0.06 with LwF.
"""

from configs import common, forgetting_tiny

TASKS = {
    "first": dict(domain="languages", languages=4),
    "second": dict(domain="languages", languages=5),
}
OLD = {"old_languages": dict(domain="languages", languages="base")}
HELD = dict(name="embedded", domain="languages", languages="base", rows=500, kind="prompt")
# Of weights that train themselves.
FULL = ("l2sp_decoupled", "averaging", "layer_decay", "galore", "frozen_bottom")
SEES_OLD = ("replay", "ewc", "ewc_online", "mas", "agem", "self_replay", "lora_null", "corda")


def get_config(arg=None):
    """Return the config of one stage with one remedy."""
    arg = common.parse_arg(arg, **forgetting_tiny.METHODS, task="first", steps=40, remedy="none")
    if arg.remedy not in REMEDIES:
        raise ValueError(f"remedy: got {arg.remedy!r}; expected one of {', '.join(REMEDIES)}")
    arg.full = arg.full or arg.remedy in FULL
    if arg.remedy == "self_replay":
        arg.self_replay = 0.1
    c = forgetting_tiny.staged(arg, TASKS, OLD)
    REMEDIES[arg.remedy](c)
    return common.shrink(c) if arg.runlocal else c


def penalty(**spec):
    """Return what puts a penalty into a config."""
    return lambda c: c.penalties.update(held=spec)


def optim(**keys):
    """Return what changes the optimizer of a config."""
    return lambda c: c.optim.update(keys)


def anchor(*, old, **spec):
    """Return what puts an anchor on old rows, or on the task's own, into a config."""
    own = lambda c: dict(HELD, max_tokens=80) if old else c.data.to_dict()
    return lambda c: c.anchors.update(held=dict(spec, rows=8, data=own(c)))


def objective(**spec):
    """Return what changes the objective of a config."""

    def change(c):
        c.objective = spec

    return change


def frozen_bottom(c):
    """Train the upper half of the layers alone, and no embedding (arXiv:2501.13453)."""
    c.trainable, c.trainable_layers = ("model/blocks/**",), (3, 4, 5)


def osf(c):
    """Train what is orthogonal to the larger half of each weight's directions."""
    c.adapter = dict(name="osf", where="blocks/**", keep=0.5)


def start(init):
    """Return what starts adapters from the part of a weight that old rows use least."""
    own = dict(HELD, max_tokens=80)
    return lambda c: c.adapter.update(init=init, batches=8, data=own)


def sdft(c):
    """Learn the base's own words where they end with the given answer; else that answer."""
    own = {key: c.data[key] for key in ("name", "rows", "domain", "languages")}
    c.data = dict(
        name="self", kind="prompt", rows=256, max_new_tokens=40, prompts=own, max_tokens=80,
        rewrite="{prompt}{response}\n{prompt}", check=dict(name="exact", field="response"),
    )  # fmt: skip


REMEDIES = {
    "none": lambda c: None,
    "l2sp": penalty(name="l2sp", weight=0.1),
    "ewc": penalty(name="ewc", weight=1.0, rows=64, data=HELD),
    "ewc_online": penalty(name="ewc", weight=1.0, rows=64, data=HELD, past="", decay=0.9),
    "mas": penalty(name="mas", weight=1e-3, rows=64, data=HELD, past=""),
    "si": penalty(name="si", weight=1.0, damping=0.1, past=""),
    "lwf": anchor(old=False, name="kl_forward", weight=1.0, temperature=2.0),
    "off_target": anchor(old=False, name="kl_forward_off_target", weight=1.0),
    "agem": anchor(old=True, name="nll", weight=1.0, use="projection"),
    "self_replay": lambda c: None,  # by the argument of that name
    "sdft": sdft,
    "talr": objective(name="talr", tau=2.0, floor=0.01),
    "flow": objective(name="flow", tau=3.0),
    "sam": optim(sam=dict(rho=0.05)),
    "l2sp_decoupled": optim(l2sp=1.0),
    "averaging": optim(average=dict(every_steps=10, share=0.5)),
    "layer_decay": optim(layer_decay=0.7),
    "galore": optim(galore=dict(rank=16, every_steps=20)),
    "frozen_bottom": frozen_bottom,
    "osf": osf,
    "lora_null": start("lora_null"),
    "corda": start("corda"),
}


def study():
    """List what `experiments.sequential` compares: each remedy at the rate of its kind."""
    named = {"plain" if name == "none" else name: name for name in REMEDIES}  # "none" is a control
    methods = {name: f"remedy={own}" for name, own in named.items()}
    methods = dict(full="full", replay="replay=0.1") | methods  # what others stand beside
    rates = {name: (1e-3,) if name in (*FULL, "full", "osf") else (3e-3,) for name in methods}
    return dict(
        tasks=tuple(TASKS), carry="merged", methods=methods, rates=rates,
        match=dict(metric="nll", fraction=0.6), sees_old=SEES_OLD,
        parts=dict(full="full", lora="plain", replay="replay", self_replay="self_replay",
                   frozen_bottom="frozen_bottom"),
    )  # fmt: skip
