r"""Fine-tune a model as one config file says.

    python -m experiments.train --config configs/sft.py:path=my.jsonl --workdir runs/mine
    python -m experiments.train --config configs/sft.py --dry_run          # what it would do
    python -m experiments.train --config configs/sft.py --show_mask 50     # mask.html
    python -m experiments.train --config ... --config.optim.learning_rate=1e-4

A workdir that holds a run resumes it, exactly. The run leaves there: config.json, metrics.jsonl,
TensorBoard events, checkpoints/, evals/ and samples/ (before and after), summary.json, report.html
and export/ (a PEFT adapter, or a Hugging Face model).
"""

import pathlib

from absl import app, flags

from experiments import cli
from ftjax.core import config as conf
from ftjax.run import config as settings
from ftjax.run import keys

CONFIG = conf.flag()
WORKDIR = flags.DEFINE_string("workdir", "", "directory of the run; one that holds a run resumes")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "print config, sizes and the first example, and exit")
RESTART_DATA = flags.DEFINE_bool(
    "restart_data", False, "resume with the data from their beginning: other data or batch size"
)
MASK = flags.DEFINE_integer(
    "show_mask", 0, "write a page of so many rows with what is learned coloured, and exit",
    lower_bound=0,
)  # fmt: skip
ALLOW = flags.DEFINE_bool("allow_config_change", False, "resume although the config has changed")


def main(argv: list[str]) -> None:
    """Run what the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"got the arguments {argv[1:]}; expected flags alone")
    if not WORKDIR.value and not DRY_RUN.value and not MASK.value:
        raise app.UsageError("--workdir: got none; expected a directory for the run")
    chosen = settings.read(keys.read(CONFIG))
    cli.start()
    from ftjax.run import dry_run, mask_page  # slow to import
    from ftjax.run import plan as running

    if MASK.value:
        page = pathlib.Path(WORKDIR.value or ".") / "mask.html"
        shown = mask_page.write(running.plan(chosen), count=MASK.value, path=page)
        print(f"{page}: {shown} examples")
        return
    if DRY_RUN.value:
        dry_run.show(running.plan(chosen))
        return
    running.train(
        chosen,
        pathlib.Path(WORKDIR.value),
        allow_config_change=ALLOW.value,
        restart_data=RESTART_DATA.value,
    )


if __name__ == "__main__":
    conf.define_required(CONFIG)
    cli.run(main)
