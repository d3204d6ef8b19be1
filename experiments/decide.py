r"""Prompt, retrieve, fine-tune, or both? Every arm on the same questions, and a verdict.

    python -m experiments.decide --config configs/decide_tiny.py --workdir runs/decide
    python -m experiments.decide --workdir runs/mine
        --config configs/decide.py:task=train.jsonl,held=test.jsonl,passages=docs.jsonl
        --config.seeds=[0]

Arms are zero-shot and few-shot prompts, retrieval, and models that are trained here, as ordinary
runs. Each is finished in a folder of its own, DIR/arms/<label>, so that a command that was stopped
goes on where it was. DIR/decide.json holds every number, DIR/report.html shows them, and a table is
printed. An arm that fails is marked with its error; the others go on.
"""

import pathlib
import sys
import time
from collections.abc import Iterable
from typing import NamedTuple

from absl import app, flags

from experiments import cli, train
from ftjax.core import config as conf
from ftjax.core import config_flag, errors
from ftjax.decide import config as decisions
from ftjax.run import keys


class Flags(NamedTuple):
    """The flags of this command."""

    config: config_flag.Flag
    workdir: flags.FlagHolder


def define() -> Flags:
    """Define the flags; not at import, since tests import several commands."""
    holder = config_flag.define()
    config_flag.define_required(holder)
    return Flags(holder, cli.define_workdir())


def main(argv: list[str], given: Flags) -> None:
    """Run what the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"got the arguments {argv[1:]}; expected flags alone")
    decision = read(given.config.config.value, given.config.keys.value)
    cli.start()
    import jax  # slow to import

    if jax.process_count() > 1:
        raise app.UsageError(f"got {jax.process_count()} processes; expected one")
    from ftjax.run import workdirs

    with workdirs.opened(given.workdir.value) as workdir:
        decide(decision, workdir)


def read(config: str, given: Iterable[str] = ()) -> decisions.Decision:
    """Load the config of `file.py:arg`, set the keys `given`, `a.b=value` each, and check it.

    Raises:
      ValueError: a key or a value that is not legal.
    """
    found = conf.load(config)
    for key, _, text in (each.partition("=") for each in given):
        path = key.split(".")
        conf.put(found, path, keys.parse(text, present=conf.peek(found, path)))
    return decisions.read(found)


def decide(decision: decisions.Decision, workdir: pathlib.Path) -> dict | None:
    """Run every arm, conclude, report; returns what decide.json holds, None where stopped.

    Raises:
      ValueError: anything wrong with config or data.
      RuntimeError: an arm failed or a gate did not come out; the report is there, and says so.
    """
    from ftjax.decide import benchmark, decision_record, decision_report, timing

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
    record = decision_record.joined(own, timing.timed(own, found))
    decision_report.write(record, workdir)
    if failed := {label: each["error"] for label, each in found.items() if "error" in each}:
        raise RuntimeError(
            f"decide: {len(failed)} of {len(found)} arms have no result: "
            + "; ".join(f"{label}: {reason}" for label, reason in failed.items())
        )
    check_gates(decision, record)
    return record


def check_gates(decision: decisions.Decision, record: dict) -> None:
    """Raise RuntimeError where a statement that must come out did not, if that is wanted."""
    from ftjax.decide import findings

    failed = findings.gates(findings.judge(record)) if decision.gates else []
    if failed:
        lines = "; ".join(f"{each.statement.said}: {each.ours or each.verdict}" for each in failed)
        raise RuntimeError(f"decide: {len(failed)} gates did not come out: {lines}")


def run_arm(own, label: str) -> dict | None:
    """Choose the arm's trial on validation, and answer the test questions once a seed.

    What is finished is read back. Returns the arm's record, None where training was stopped.
    """
    from ftjax.decide import arm_steps

    if (kept := arm_steps.finished(own, label)) is not None:
        sys.stdout.write(f"{label}: finished before, read back\n")
        return kept
    chosen = searched(own, label)
    if chosen is None:
        return None
    trials, best, validated = chosen
    answers = []
    for seed in own.seeds(label):
        start = time.perf_counter()
        found = answered(own, label, trials[best], best, seed=seed)
        if found is None:
            return None
        answers.append(found)
        sys.stdout.write(
            f"{label}: seed {seed}: test {found.mean:.3f} ({time.perf_counter() - start:.0f} s)\n"
        )
        sys.stdout.flush()
    return arm_steps.finish(own, label, trials, best, answers, validated=validated)


def searched(own, label: str) -> tuple | None:
    """Try every trial of an arm on validation: the trials, the best one's number, all scores.

    None where training was stopped.
    """
    from ftjax.decide import arm_steps

    trials, scores = own.trials(label), []
    for n in range(len(trials) if len(trials) > 1 else 0):
        trials[n] = arm_steps.rewritten(own, trials[n], trials[:n], scores)
        if (params := weights(own, label, n, own.seeds(label)[0])) is None:
            return None
        scores.append(arm_steps.validated(own, label, trials[n], params))
        sys.stdout.write(f"{label}: trial {n}: validation {scores[-1]:.3f}\n")
    best = max(range(len(trials)), key=lambda n: scores[n]) if scores else 0
    return trials, best, scores


def answered(own, label: str, chosen, trial: int, *, seed: int):
    """Answer the test questions with one seed, and those of what changed; None where stopped."""
    from ftjax.decide import arm_steps

    if (params := weights(own, label, trial, seed)) is None:
        return None
    found = arm_steps.answered(own, label, chosen, params, seed=seed)
    if own.later is None:
        return found
    # A new index is all that an arm needs which reads what it knows.
    new = params if own.arm(label).passages else weights(own.later, label, trial, seed)
    if new is None:
        return None
    return arm_steps.updated(own, label, chosen, found, params, new)


def weights(own, label: str, trial: int, seed: int):
    """Return the weights of an arm: the base's, or those of its run, which is trained if it is not.

    An arm that takes the weights of another has those of the trial that the other chose. None where
    training was stopped by a signal.
    """
    from ftjax.decide import arm_steps

    source = own.source(label)
    if not source:
        return own.base
    trial = trial if source == label else arm_steps.best_trial(own, source)
    folder = arm_steps.run_folder(own, source, trial, seed=seed)
    settings = arm_steps.settings_of(own, source, trial, seed=seed)
    run = lambda: train.train(settings, folder, shared=own.shared)
    has_ended = arm_steps.is_trained(folder, settings) or run().has_ended
    return arm_steps.trained(folder) if has_ended else None


if __name__ == "__main__":
    cli.run(main, define())
