r"""A small study of forgetting: a new language, seven methods, and what the literature says to it.

    python -m experiments.sequential --config configs/forgetting_smoke.py --workdir runs/smoke
    python -m experiments.train --config configs/forgetting_smoke.py:replay=0.3 --workdir runs/one

Small enough to run while reading docs/forgetting.md. Rates, ranks and shares of replay are swept as
far as the statements there need that a study of one task can carry; tests assert these. One seed
says nothing about noise: `forgetting_tiny.py` beside it is the study to learn from.

Two CPU cores, 172 CPU-seconds: 10 runs of 30 steps. Expect old languages to fall, where half of the
new one is learned, by 0.11 nats after full fine-tuning, 0.10 after LoRA and 0.03 with anchors.
"""

from configs import common, forgetting_tiny

TASKS = {"language": dict(domain="languages", languages=4)}
OLD = {"old_languages": dict(domain="languages", languages="base")}


def get_config(arg=None):
    """Return the config of one run."""
    arg = common.parse_arg(arg, **forgetting_tiny.METHODS, task="language", steps=30)
    c = forgetting_tiny.staged(arg, TASKS, OLD)
    return common.shrink(c) if arg.runlocal else c


def study():
    """List what `experiments.sequential` compares."""
    return dict(
        tasks=tuple(TASKS), match=dict(metric="nll", fraction=0.5),
        methods=dict(full="full", lora="", rank1="rank=1", replay10="replay=0.1",
                     replay30="replay=0.3", self30="self_replay=0.3", kl="anchor=1.0"),
        rates=dict(full=(3e-4, 1e-3, 3e-3), lora=(3e-3, 1e-2), rank1=(3e-3,), replay10=(3e-3,),
                   replay30=(3e-3,), self30=(3e-3,), kl=(3e-3,)),
        changes=("drift", "spectrum", "path", "states"),
        sees_old=("replay10", "replay30", "self30", "kl"),
        parts=dict(full="full", lora="lora", replay="replay30", self_replay="self30", kl_old="kl"),
        axes={"rank": dict(rank1=1, lora=8),
              "replay": dict(lora=0, replay10=0.1, replay30=0.3)},
    )  # fmt: skip
