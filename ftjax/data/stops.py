"""Tokens that end what a model says, and whether the data teach them.

    ids(tokenizer, template)                   eos, and the ends that the model's files name
    count(example, stop_ids, decode)           Counter(turns=2, ended=2)

The template names one too: the special token that it prints behind what the assistant says.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

# Ends of turns in common chat templates; those that the vocabulary lacks are left out.
USUAL = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")


def ids(tokenizer, template=None) -> tuple[int, ...]:
    """Return every id that ends an answer.

    They are eos, `eos_token_id` in config.json and generation_config.json beside the tokenizer, the
    usual ends of turns in its vocabulary, and the special token that `template` puts behind what
    the assistant says.
    """
    found = [tokenizer.eos_id, *getattr(tokenizer, "stop_ids", ())]
    found += [tokenizer.token_id(name) for name in USUAL]
    found += [printed(tokenizer, template)] if template is not None else []
    return tuple(dict.fromkeys(each for each in found if each is not None))


def printed(tokenizer, template) -> int | None:
    """Return the special token that a template prints behind an answer, None where it has none."""
    ending = template.ending().lstrip()
    special = tokenizer.special_tokens() if ending else {}
    found = [token for token in special if token and ending.startswith(token)]
    return special[max(found, key=len)] if found else None


def count(example, stop_ids: Sequence[int], decode: Callable) -> Counter:
    """Count the learned `turns` of an example, runs of targets, and those that `ended` in a stop.

    Templates print line ends behind the stop; blanks there do not count.
    """
    learned = np.concatenate([[False], np.asarray(example.weights) > 0, [False]])
    edges = np.flatnonzero(np.diff(learned))
    found = Counter(turns=len(edges) // 2)
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        run = example.tokens[start:end]
        at = np.flatnonzero(np.isin(run, stop_ids))
        rest = run[at[-1] + 1 :].tolist() if len(at) else None
        found["ended"] += rest == [] or (rest is not None and not decode(rest).strip())
    return found


def check(found: Counter) -> None:
    """Raise ValueError when no learned turn ends in a stop token: the model would never stop."""
    if found["turns"] and not found["ended"]:
        raise ValueError(
            f"data.chat_template: got {describe(found)}; expected some, or the model never learns "
            "to stop; put the end of a turn inside {% generation %}, choose a template that prints "
            "one, or accept it with data.allow_no_stop=True"
        )


def describe(found: Counter) -> str:
    """Return the count in words."""
    return f"{found['ended']} of {found['turns']} learned turns end in a stop token"
