r"""How much do full fine-tuning, LoRA, replay and anchors make the embedded base forget?

    python -m experiments.sequential --config configs/forgetting_tiny.py --workdir runs/forgetting
    python -m experiments.train --config configs/forgetting_tiny.py:task=skill --workdir runs/skill

Three tasks one after the other: a language that the base has never seen, a skill that it does not
have, facts about people whom it has not met. Probes are languages, skills, facts and English that
it was trained on. Four methods, three rates each, three seeds, compared where each has learned 70 %
of what the best cell learned, in nats. See docs/forgetting.md.

44 minutes on one of two busy CPU cores: 108 runs of 48 steps in one process,
without the measures of `changes`. Expect forgetting at the match of 0.08 nats with anchors on old
rows, 0.13 with a tenth of old rows, 0.15 after full fine-tuning and 0.27 after LoRA.
"""

from configs import common

TASKS = {
    "language": dict(domain="languages", languages=5),
    "skill": dict(domain="skills", skills="double"),
    "facts": dict(domain="facts", population="new", people=8, form="questions"),
}
OLD = {
    "old_languages": dict(domain="languages", languages="base"),
    "old_skills": dict(domain="skills"),
    "old_facts": dict(domain="facts", form="questions"),
}
# What the argument of a study's config may set, besides its task and steps.
METHODS = dict(
    full=False, rank=8, replay=0.0, self_replay=0.0, anchor=0.0, l2sp=0.0, runlocal=False
)


def get_config(arg=None):
    """Return the config of one stage: a task by a method."""
    arg = common.parse_arg(arg, **METHODS, task="language", steps=48)
    c = staged(arg, TASKS, OLD)
    text = dict(name="embedded", domain="english", split="test", kind="text", loss="all")
    c.evals.english = dict(name="nll", data=text, rows=8)
    return common.shrink(c) if arg.runlocal else c


def staged(arg, tasks, old):
    """Return the config of a stage over embedded tasks, with probes of what the base knows."""
    c = common.base()
    common.tune(c, full=arg.full, rank=arg.rank)
    own = dict(name="embedded", rows=1000, **tasks[arg.task])
    c.data = dict(own, max_tokens=80, kind="prompt")
    parts = [dict(own, weight=1 - arg.replay - arg.self_replay, label="new")]
    for share, row in ((arg.replay, kept), (arg.self_replay, said)):
        for label, source in old.items() if share else ():
            parts.append(dict(row(source), weight=share / len(old), label=label))
    if len(parts) > 1:
        c.data = dict(name="mixture", parts=tuple(parts), max_tokens=80, kind="prompt")
    if arg.anchor:
        few = [
            dict(name="embedded", split="train", rows=500, weight=1.0, **s) for s in old.values()
        ]
        c.anchors.old = dict(
            name="kl_forward", weight=arg.anchor, rows=8,
            data=dict(name="mixture", parts=tuple(few), max_tokens=80, kind="prompt"),
        )  # fmt: skip
    if arg.l2sp:
        c.penalties.near = dict(name="l2sp", weight=arg.l2sp)
    for label, source in {**tasks, **old}.items():
        held = dict(name="embedded", split="test", **source)
        group = "new" if label == arg.task else "old"
        c.evals[label] = dict(name="nll", group=group, data=held, rows=16)
    c.optim.schedule = dict(name="constant", warmup_steps=4)
    c.steps, c.batch_size, c.log_every_steps = arg.steps, 8, 20
    c.eval_every_steps = max(arg.steps // 6, 1)
    return c


def kept(source):
    """Return real old rows."""
    return dict(name="embedded", split="train", rows=500, **source)


def said(source):
    """Return what the base says itself to the prompts of old rows."""
    prompts = dict(name="embedded", split="train", rows=32, **source)
    return dict(name="self", rows=128, max_new_tokens=40, prompts=prompts)


def study():
    """List what `experiments.sequential` compares."""
    return dict(
        tasks=tuple(TASKS), carry="merged", seeds=3,
        methods=dict(full="full", lora="", replay="replay=0.1", anchor="anchor=1.0"),
        rates=dict(
            full=(3e-4, 1e-3, 3e-3), lora=(1e-3, 3e-3, 1e-2), replay=(1e-3, 3e-3, 1e-2),
            anchor=(1e-3, 3e-3, 1e-2),
        ),
        match=dict(metric="nll", fraction=0.7), changes=("drift", "spectrum", "path", "states"),
        sees_old=("replay", "anchor"),
        parts=dict(full="full", lora="lora", replay="replay", kl_old="anchor"),
    )  # fmt: skip
