r"""Rows that say which answer people preferred: the kinds that preference losses learn from.

    preference   {"prompt", "chosen", "rejected"}      strings, or messages
    unpaired     {"prompt", "completion", "label"}     label: true = good
    ranking      {"prompt", "answers"}                 the best first

Without a prompt, `chosen` and `rejected` are whole conversations: what they share from the start is
the prompt. So the transcripts of HH-RLHF serve as they are: "\n\nHuman: ...\n\nAssistant: ...".
"""

TURN = "\n\nAssistant:"


def preference(row) -> dict:
    """Check a pair; the answers must differ. A `margin` is what the better one is better by."""
    chosen, rejected = row.value("chosen"), row.value("rejected")
    if _has(row, "prompt"):
        prompt, answers = _prompt(row), [chosen, rejected]
    else:
        prompt, answers = _shared(row, chosen, rejected)
    answers = _answers(row, prompt, answers, ("chosen", "rejected"))
    margin = row.checked_number(row.value("margin"), "margin") if _has(row, "margin") else 0.0
    return _example(row, prompt, answers) | {"margin": margin}


def unpaired(row) -> dict:
    """Check a single answer and its label."""
    prompt, label = _prompt(row), row.value("label")
    if not (isinstance(label, bool) or label in (0, 1)):
        fix = "write true for a good answer and false for a bad one"
        raise row.error("label", repr(label), expected="a bool", fix=fix, reason="bad label")
    answers = _answers(row, prompt, [row.value("completion")], ("completion",))
    return _example(row, prompt, answers) | {"label": bool(label)}


def ranking(row) -> dict:
    """Check a ranking of two answers at least, all different."""
    prompt, answers = _prompt(row), row.value("answers")
    if not isinstance(answers, list) or len(answers) < 2:
        fix = "write the answers from best to worst, or delete the row"
        raise row.error(
            "answers", repr(answers)[:60], expected="a list of two at least", fix=fix,
            reason="missing answers",
        )  # fmt: skip
    names = [f"answers[{n}]" for n in range(len(answers))]
    return _example(row, prompt, _answers(row, prompt, answers, names))


def _has(row, field: str) -> bool:
    return field in row.fields or field in row.raw


def _example(row, prompt, answers) -> dict:
    prompt, beside = row.with_system(prompt) if isinstance(prompt, list) else (prompt, {})
    return {"prompt": prompt, "answers": answers, "weight": row.weight(), **beside}


def _prompt(row):
    prompt = row.value("prompt")
    if isinstance(prompt, list):
        return row.messages(prompt, "prompt")
    return row.checked_text(prompt, "prompt")


def _answers(row, prompt, answers, fields) -> list:
    """Check the answers: of the prompt's own kind, with something in them, and all different."""
    checked = [_answer(row, prompt, *pair) for pair in zip(answers, fields, strict=True)]
    for n, answer in enumerate(checked):
        if answer in checked[:n]:
            first = fields[checked.index(answer)]
            fix = "nothing says which is better: delete the row"
            raise row.error(
                fields[n], f"the same as {first}", expected="another answer", fix=fix,
                reason="equal answers",
            )  # fmt: skip
    return checked


def _answer(row, prompt, answer, field):
    if isinstance(prompt, str):
        return row.checked_text(answer, field)
    if not isinstance(answer, list):
        answer = [{"role": "assistant", "content": row.checked_text(answer, field)}]
    return row.answered(row.messages(answer, field), field)


def _shared(row, chosen, rejected):
    """Split two whole conversations into the prompt that they share and the answers."""
    if isinstance(chosen, list) or isinstance(rejected, list):
        chosen, rejected = row.messages(chosen, "chosen"), row.messages(rejected, "rejected")
        shared = _common(chosen[:-1], rejected[:-1])
    else:
        chosen, rejected = (
            row.checked_text(chosen, "chosen"),
            row.checked_text(rejected, "rejected"),
        )
        shared = _last_turn(chosen, rejected)
    if not shared:
        fix = f"give the prompt a field of its own, or end it with {TURN!r} in both"
        raise row.error(
            "prompt", "no field and no common beginning", expected="a prompt", fix=fix,
            reason="empty prompt",
        )  # fmt: skip
    return chosen[:shared], [chosen[shared:], rejected[shared:]]


def _last_turn(chosen: str, rejected: str) -> int:
    """Return where the assistant's last turn begins that both texts share the way to."""
    at = chosen.rfind(TURN, 0, _common(chosen, rejected))
    return 0 if at < 0 else at + len(TURN)


def _common(first, second) -> int:
    """Count the items that two sequences share from the start."""
    pairs = zip(first, second, strict=False)
    differing = (n for n, (a, b) in enumerate(pairs) if a != b)
    return next(differing, min(len(first), len(second)))
