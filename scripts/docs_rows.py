"""The page of the docs with a row of every form, and what is learned of it: encoded, not claimed.

python -m scripts.docs_rows            prints the page
"""

import json
import os
import pathlib
import sys
import tempfile
from typing import Any, NamedTuple

import numpy as np

PAGE = """# Every form of a row

What becomes of a row, computed by the code that training uses, with the embedded tokenizer and the
template `chatml`. What the model learns stands in ⟦brackets⟧; all else is read and not learned.
[My own data](../data.md) has the keys. `--show_mask 50` makes such a page of your own rows and your
own tokenizer.
"""


class Shown(NamedTuple):
    """A row, and the keys of `data` that it is read with."""

    title: str
    keys: dict[str, Any]
    row: dict


def turns(*pairs: tuple[str, str]) -> list[dict]:
    """Return messages of roles and contents."""
    return [{"role": role, "content": content} for role, content in pairs]


SHORT = (("user", "2+2?"), ("assistant", "4"), ("user", "3+3?"), ("assistant", "6"))
ROWS = (
    Shown("Prompt and response", {"kind": "prompt"}, {"prompt": "2 + 2 =", "response": " 4"}),
    Shown("Other names", {"kind": "prompt", "fields": {"prompt": "{q}\nA:", "response": " {a}"}},
          {"q": "2 + 2?", "a": "4"}),
    Shown("Alpaca", {"kind": "prompt"},
          {"instruction": "Add.", "input": "2 and 2", "output": "4"}),
    Shown("Plain text", {"kind": "text"}, {"text": "Two and two is four."}),
    Shown("All of a prompt too", {"kind": "prompt", "loss": "all"},
          {"prompt": "2 + 2 =", "response": " 4"}),
    Shown("Messages", {"kind": "chat"}, {"messages": turns(*SHORT)}),
    Shown("The last turn alone", {"kind": "chat", "turns": "last"}, {"messages": turns(*SHORT)}),
    Shown("A turn that is not learned", {"kind": "chat"},
          {"messages": [*turns(*SHORT[:1]), {"role": "assistant", "content": "5", "weight": 0},
                        *turns(("user", "No."), ("assistant", "4"))]}),
    Shown("ShareGPT", {"kind": "chat"},
          {"conversations": [{"from": "system", "value": "Be short."},
                             {"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]}),
    Shown("Prompt and response as a chat", {"kind": "chat"}, {"prompt": "2+2?", "response": "4"}),
    Shown("A preference: two answers, each after the prompt", {"kind": "preference"},
          {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}),
)  # fmt: skip


def page() -> str:
    """Return the page."""
    return "\n".join([PAGE, *map(_section, ROWS)])


def _section(shown: Shown) -> str:
    row = json.dumps(shown.row, ensure_ascii=False)
    keys = ", ".join(f"`data.{name}={value!r}`" for name, value in shown.keys.items())
    example = "\n\n".join(text.rstrip() for text in learned(shown))
    return f"## {shown.title}\n\n{keys}\n\n```json\n{row}\n```\n\n```text\n{example}\n```\n"


def learned(shown: Shown) -> list[str]:
    """Return the examples that a row becomes, as text with what is learned in brackets."""
    from ftjax.data import answer_groups, loader, tokenizer_files
    from ftjax.run import bases

    tokenizer = tokenizer_files.load(bases.locate(bases.TINY))
    template = {"chat_template": "chatml"} if shown.keys["kind"] == "chat" else {}
    os.environ.setdefault("FTJAX_CACHE", "")  # one row is not worth keeping
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "rows.jsonl"
        path.write_text(json.dumps(shown.row) + "\n", encoding="utf-8")
        store = loader.make(
            name="jsonl", path=str(path), max_tokens=256, batch_size=1, tokenizer=tokenizer,
            **template, **shown.keys,
        ).data.store  # fmt: skip
        found = [store[i] for i in range(len(store))]
    answers = [
        answer
        for each in found
        for answer in (each.answers if isinstance(each, answer_groups.Group) else [each])
    ]
    return [_marked(*answer, decode=tokenizer.decode) for answer in answers]


def _marked(tokens, weights, *, decode) -> str:
    is_target = np.asarray(weights) > 0
    edges = np.flatnonzero(np.diff(is_target)) + 1
    pieces = np.split(np.arange(len(tokens)), edges)
    texts = [decode(np.asarray(tokens)[piece].tolist()) for piece in pieces]
    return "".join(
        f"⟦{text}⟧" if is_target[piece[0]] else text
        for piece, text in zip(pieces, texts, strict=True)
    )


if __name__ == "__main__":
    sys.stdout.write(page())
