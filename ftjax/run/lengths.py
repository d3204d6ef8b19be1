"""How long a run is: in steps, in passes over its data, and what of the data is left out.

length = of(settings, loader)
length.steps, length.total, length.passes      # asked for; that there is data for; over the data
"""

from typing import NamedTuple

from ftjax.data import loader as loaders
from ftjax.run.config import Settings

MOST_COLUMNS = 6  # named in a line
# More are said. Recipes of supervised fine-tuning make one to five; held-out text is best within
# tens even where there are tens of rows.
MANY_PASSES = 100


class Length(NamedTuple):
    """The length of a run.

    steps: asked for, as `steps` or as `epochs`. total: those that there is data for, which the
    learning rate's schedule ends with. passes: over the data, None where the data are prompts.
    """

    steps: int
    total: int
    passes: float | None

    def passes_after(self, step: int) -> float | None:
        """Return the passes that a run which ended after `step` has made."""
        # Not from rows counted so far: a run that goes on has not seen those before it.
        return None if self.passes is None else self.passes * step / self.total

    def text(self, summary: dict) -> str:
        """Say in a line what is trained on and how often; summary: the loader's."""
        ends = f" of {self.steps:,}, where the data end" if self.total < self.steps else ""
        read = [f"{summary['rows']:,} rows read"]
        read += [f"{count:,} {what}" for what, count in lost(summary).items() if count]
        if held := summary.get("held_out"):
            read.append(f"{held:,} more held out for the evaluation")
        if "epoch_rows" in summary:
            rows, examples = summary["epoch_rows"], summary["examples"]
            read.append(f"{examples:,} examples in {rows:,} rows of a batch")
        read += copies(summary)
        read += unread(summary)
        passes = "" if self.passes is None else f": {of_passes(self.passes)} over the data"
        steps = "step" if self.total == 1 else "steps"
        return f"{', '.join(read)}; {self.total:,} {steps}{ends}{passes}{self._many()}"

    def _many(self) -> str:
        if self.passes is None or self.passes <= MANY_PASSES:
            return ""
        return ", which are learned by heart: more rows, or --config.epochs=3, would do"


def copies(summary: dict) -> list[str]:
    """Say what the rows repeat, nearly of each other and of the evaluations."""
    near = summary.get("near_duplicates")
    found = [f"{near:,} near duplicates"] if near else []
    for label, (rows, of) in summary.get("overlap", {}).items():
        found += [f"{rows:,} of {of:,} rows of {label} in the training data"] if rows else []
    examples = summary.get("copies", ())
    return [f"{', '.join(found)} ({'; '.join(examples)})"] if found else []


def unread(summary: dict) -> list[str]:
    """Say what of the first tokens of answers is amiss, and which columns nobody reads."""
    count, columns = summary.get("unpredicted", 0), sorted(summary.get("unread_columns", ()))
    found = [f"{count:,} answers begin the text: their first token is not learned"] if count else []
    if count := summary.get("straddling", 0):
        found.append(
            f"{count:,} answers begin inside a token of their prompt, which nobody asks with: put "
            "the space between them at the answer's beginning, and in a chat drop it"
        )
    if (count := summary.get("touching", 0)) and 2 * count > summary["rows"]:
        found.append(
            f"{count:,} answers follow their prompts without a space (prompt={{prompt}}\\n behind "
            "configs/sft.py: puts a line end between)"
        )
    more = f" and {len(columns) - MOST_COLUMNS:,} more" if len(columns) > MOST_COLUMNS else ""
    shown = ", ".join(columns[:MOST_COLUMNS])
    return found + ([f"columns not read: {shown}{more}"] if columns else [])


def of_passes(passes: float) -> str:
    """Write a number of passes: "3 passes", "0.25 passes", "1 pass"."""
    # Three digits, but no exponents: 1e+03 passes is not what anybody would write.
    shown = f"{passes:,.0f}" if passes >= 100 else f"{passes:.3g}"
    return f"{shown} pass" if shown == "1" else f"{shown} passes"


def lost(summary: dict) -> dict[str, int]:
    """Count what of the rows read is not learned from, by how it was lost."""
    bad = summary["bad"]["count"] if "bad" in summary else summary.get("bad_rows", 0)
    return {
        "cut": summary.get("truncated", 0), "split": summary.get("split", 0),
        "dropped": sum(summary.get("dropped", {}).values()),
        "skipped": bad,
    }  # fmt: skip


def of(settings: Settings, loader) -> Length:
    """Measure a run over a loader; a stream of prompts has no end and no batches.

    Raises:
      ValueError: `epochs` of what has no batches.
    """
    # Prompts are drawn for as long as the run asks.
    if not isinstance(loader, loaders.Loader):
        check_online(settings)
        return Length(settings.steps, settings.steps, None)
    steps = settings.steps or max(loader.batches_in(settings.epochs), settings.min_steps)
    # The schedule ends where the data do: a rate that never comes down is another run.
    total = min(steps, loader.batches()) if loader.ends else steps
    return Length(steps, total, total / loader.batches_per_epoch())


def check_online(settings: Settings) -> None:
    """Refuse `epochs` of a run that samples its batches."""
    if settings.epochs is not None:
        raise ValueError(
            f"epochs: got {settings.epochs} for a run that learns from its own samples; expected "
            "None; set steps, and rollout.epochs for the passes over a round"
        )
