"""Rows that the base itself has written: self-generated replay, where old data cannot be had.

    make(rows=256, prompts=dict(name="jsonl", path="prompts.jsonl"))     kind="prompt"
    make(rows=256)                                                       kind="text": whole texts
    make(rows=256, prompts=dict(...), rewrite="...{prompt}...{response}")       given answers anew

A run samples them before its first step, from the weights that it starts from, and keeps them in
its workdir as JSON lines, each with its seed: see `ftjax/run/replay.py`, which sets `path`.
"""

from collections.abc import Mapping

from ftjax.core.typed import Count, Natural, Patterns, Positive
from ftjax.data.rows import Rows
from ftjax.data.sources import jsonl


def make(
    *, rows: Count, max_new_tokens: Count = 64, temperature: Positive = 1.0, seed: Natural = 0,
    until: Patterns = (), prompts: Mapping | None = None, rewrite: str = "",
    check: Mapping | None = None, path: str = "",
) -> Rows:  # fmt: skip
    """Read the rows that have been sampled.

    Args:
      rows: how many are sampled. max_new_tokens: of each, at most.
      temperature: of the draws; 1 is the model's own distribution. seed: of the draws.
      until: strings that a text ends before.
      prompts: a section of rows whose prompts are continued, in turn; None starts from nothing.
      rewrite: a template of the fields of `prompts`, whose answers are rewritten; check: what such
        an answer must pass, see `ftjax/run/rewriting.py`.
      path: where they are, which the run sets.

    Raises:
      ValueError: there is no run that has sampled them.
    """
    del rows, max_new_tokens, temperature, seed, until, prompts, rewrite, check
    if not path:
        raise ValueError(
            "data.name: got 'self', whose rows are sampled by the run itself before its first "
            "step; expected a run of experiments.train; leave out --dry_run and --show_mask, or "
            "name a file of rows"
        )
    return jsonl.read(path, where="data.path")


def files(*, path: str = "") -> list[str] | None:
    """Return the files that `make` reads."""
    return [path] if path else None
