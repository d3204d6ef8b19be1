r"""Prompt, retrieve, fine-tune, or both? Every arm on the same questions, and a verdict.

    python -m experiments.decide --config configs/decide_tiny.py --workdir runs/decide
    python -m experiments.decide --workdir runs/mine
        --config configs/decide.py:task=train.jsonl,held=test.jsonl,passages=docs.jsonl

Arms are zero-shot and few-shot prompts, retrieval, and models that are trained here, as ordinary
runs. Each is finished in a folder of its own, DIR/arms/<label>, so that a command that was stopped
goes on where it was. DIR/decide.json holds every number, DIR/report.html shows them, and a table is
printed. An arm that fails is marked with its error; the others go on.
"""

import pathlib
import sys
import time

from absl import app

from experiments import cli, train
from ftjax.core import config as conf
from ftjax.core import errors
from ftjax.decide import config as decisions


def define() -> cli.RunsFlags:
    """Define the flags; not at import, since tests import several commands."""
    return cli.define_runs("get_config")


def main(argv: list[str], given: cli.RunsFlags) -> None:
    """Run what the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"got the arguments {argv[1:]}; expected flags alone")
    decision = read(given.config.value)
    cli.start()
    import jax  # slow to import

    if jax.process_count() > 1:
        raise app.UsageError(f"got {jax.process_count()} processes; expected one")
    from ftjax.run import workdirs

    with workdirs.opened(given.workdir.value) as workdir:
        decide(decision, workdir)


def read(config: str) -> decisions.Decision:
    """Load the config of `file.py:arg` and check it.

    Raises:
      ValueError: a key or a value that is not legal.
    """
    return decisions.read(conf.load(config))


def decide(decision: decisions.Decision, workdir: pathlib.Path) -> dict | None:
    """Run every arm, conclude, report; returns what decide.json holds, None where stopped.

    Raises:
      ValueError: anything wrong with config or data.
      RuntimeError: an arm failed; the report is there, and the arm is marked in it.
    """
    from ftjax.decide import benchmark, decision_record, decision_report

    own = benchmark.open_benchmark(decision, workdir)
    found = {}
    for label in own.arms:
        sys.stdout.write(f"\n== {label}\n")
        sys.stdout.flush()
        try:
            record = run_arm(own, label)
        except errors.MESSAGES as error:
            if not errors.is_message(error):
                raise
            record = {"name": decision.arms[label]["name"], "error": str(error)}
            sys.stdout.write(f"{label} ended: {error}\n")
        if record is None:  # stopped by a signal; the next call goes on
            return None
        found[label] = record
    record = decision_record.joined(own, found)
    decision_report.write(record, workdir)
    if failed := {label: each["error"] for label, each in found.items() if "error" in each}:
        raise RuntimeError(
            f"decide: {len(failed)} of {len(found)} arms have no result: "
            + "; ".join(f"{label}: {reason}" for label, reason in failed.items())
        )
    return record


def run_arm(own, label: str) -> dict | None:
    """Choose the arm's trial on validation, and answer the test questions once a seed.

    What is finished is read back. Returns the arm's record, None where training was stopped.
    """
    from ftjax.decide import arm_steps

    if (kept := arm_steps.finished(own, label)) is not None:
        sys.stdout.write(f"{label}: finished before, read back\n")
        return kept
    trials, validated = own.trials(label), []
    if len(trials) > 1:
        for n in range(len(trials)):
            if (params := weights(own, label, n, own.seeds(label)[0])) is None:
                return None
            validated.append(arm_steps.validated(own, label, n, params))
            sys.stdout.write(f"{label}: trial {n}: validation {validated[-1]:.3f}\n")
    best = max(range(len(trials)), key=lambda n: validated[n]) if validated else 0
    answers = []
    for seed in own.seeds(label):
        start = time.perf_counter()
        if (params := weights(own, label, best, seed)) is None:
            return None
        answers.append(arm_steps.answered(own, label, best, params, seed=seed))
        sys.stdout.write(
            f"{label}: seed {seed}: test {answers[-1].mean:.3f} "
            f"({time.perf_counter() - start:.0f} s)\n"
        )
    return arm_steps.finish(own, label, best, answers, validated=validated)


def weights(own, label: str, trial: int, seed: int):
    """Return the weights of an arm: the base's, or those of its run, which is trained if it is not.

    None where training was stopped by a signal.
    """
    from ftjax.decide import arm_steps

    if not own.arm(label).run:
        return own.base
    folder = own.folder(label) / f"trial{trial}-seed{seed}"
    settings = arm_steps.settings_of(own, label, trial, seed=seed)
    if not arm_steps.is_trained(folder, settings) and not train.train(settings, folder).has_ended:
        return None
    return arm_steps.trained(folder)


if __name__ == "__main__":
    cli.run(main, define())
