"""The prompts of an online run: an endless shuffled stream over the rows of its data, by place.

rows, ids, cursor = Prompts(parts).take(cursor, 16)
"""

import functools
import hashlib
import json
from typing import NamedTuple

import numpy as np

from ftjax.core import config as conf
from ftjax.core import files
from ftjax.data import epoch_order as draw
from ftjax.run import build as setup
from ftjax.run import prompting
from ftjax.sampling import text

# Keys of a data section that say how rows become tokens; the others are the source's.
ENCODING = (
    "max_tokens", "chat_template", "template_args", "allow_dropped", "date", "fields", "new_tokens",
)  # fmt: skip


class Bad(NamedTuple):
    """A row that cannot be a prompt."""

    message: str


class Prompts:
    """An endless shuffled stream of prompts, by place; rows that cannot be one are counted."""

    def __init__(self, parts: setup.Parts):
        s = parts.settings
        data = {k: v for k, v in s.data.items() if k not in ENCODING}
        self.rows = conf.build(data, "data.sources", where="data")
        if not len(self.rows):
            raise ValueError("data: got no rows; expected prompts")
        self.bad: list[Bad] = []
        self.data, self._seed, self._tokenizer = self, s.seed.data, parts.tokenizer
        self.max_length = s.data["max_tokens"] - s.rollout.max_new_tokens
        template = prompting.template_of(parts.tokenizer, s.data)
        self._demo = s.rollout.demo
        self._field = s.data.get("fields", {}).get("prompt", "prompt")
        self._encode = prompting.make_encode(parts.tokenizer, template=template)
        self._order = functools.lru_cache(2)(self._epoch)

    def summary(self) -> dict:
        """Describe the data for the run's summary."""
        return {"rows": len(self.rows), "bad_rows": len(self.bad)}

    @functools.cached_property
    def digest(self) -> str:
        """A short hash of all rows."""
        found = hashlib.sha256()
        for index in range(len(self.rows)):
            found.update(json.dumps(files.plain(self.rows[index]), sort_keys=True).encode())
        return found.hexdigest()[:16]

    def take(self, cursor: int, count: int) -> tuple[list[dict], list[list[int]], int]:
        """Return `count` rows from place `cursor` on, their ids, and the place behind them.

        What was the prompt is `prompt` in the rows, whatever the data call it.

        Raises:
          ValueError: no row of a whole pass can be a prompt.
        """
        rows, ids, last = [], [], cursor
        while len(rows) < count:
            epoch, at = divmod(cursor, len(self.rows))
            index = int(self._order(epoch)[at])
            row = self.rows[index]
            prompt = row.get(self._field, row.get("messages"))
            found = self._ids(prompt, index)
            cursor += 1
            row = {**row, "prompt": prompt}
            if found and (not self._demo or self._ids(self._shown(row, index), index)):
                rows.append(row)
                ids.append(found)
                last = cursor
            elif cursor - last > len(self.rows):
                raise ValueError(f"data: no row can be a prompt; the last: {self.bad[-1].message}")
        return rows, ids, cursor

    def shown(self, rows: list[dict]) -> list[list[int]]:
        """Return the ids of what a teacher is shown of rows that were taken: `rollout.demo`."""
        return [self._ids(self._shown(row, 0), 0) for row in rows]

    def _shown(self, row: dict, index: int) -> str:
        try:
            return self._demo.format_map(row)
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"rollout.demo: got {self._demo[:80]!r} for {self.rows.where(index)}; expected "
                f"fields of the row alone, {', '.join(sorted(row))} ({error!r})"
            ) from None

    def _epoch(self, epoch: int) -> np.ndarray:
        return draw.order([len(self.rows)], [1.0], seed=self._seed, epoch=epoch, shuffle=True)

    def _ids(self, prompt, index: int) -> list[int]:
        found = text.prompt_ids(prompt, self._tokenizer, encode=self._encode) if prompt else []
        if 0 < len(found) <= self.max_length:
            return found
        told = f"{len(found)} tokens; expected 1 to {self.max_length}" if prompt else "no prompt"
        self.bad.append(Bad(f"{self.rows.where(index)}: got {told}; left out"))
        return []
