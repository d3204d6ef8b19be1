"""What the arms say of the task, the cheapest test first.

    the right passage helps                information is missing: a passage can bring it
    found passages help                    this index finds enough of it
    answered questions in the prompt help  the task is clear from examples: prompt
    LoRA helps                             training pays
    full fine-tuning beats LoRA            LoRA stops short, of this rank at least
    LoRA with passages beats passages      training helps to read them

A test whose arms are not there is left out; a difference counts where it is resolved.
"""

from collections.abc import Mapping

import numpy as np

from ftjax.decide import significance


def of(names: Mapping[str, str], scores: significance.Scores, pairs: Mapping) -> list[dict]:
    """List the tests that could be made: {"test", "finding"}.

    names: label -> name of the arm. pairs: of `significance.differences`.
    """
    # Of several arms of a name the one that is called by it, else the first, stands for it.
    labels = {name: label for label, name in reversed(names.items())}
    labels |= {name: name for name in labels if names.get(name) == name}
    tests = (
        ("the right passage", "rag_oracle", "zero_shot", "information is missing, it brings it"),
        ("found passages", "rag", "zero_shot", "retrieval brings what is missing"),
        ("another wording of the prompt", "prompt_search", "zero_shot", "wording helps"),
        ("answered questions in the prompt", "few_shot", "zero_shot", "examples help"),
        ("training", "lora", "zero_shot", "training helps"),
        ("training all weights", "full", "lora", "LoRA stops short of it"),
        ("training to read passages", "lora_rag", "rag", "training helps to read them"),
    )
    found = []
    for test, more, less, better in tests:
        if more in labels and less in labels:
            a, b = labels[more], labels[less]
            finding = better if significance.is_worse(pairs, b, a) else "no resolved difference"
            if significance.is_worse(pairs, a, b):
                finding = f"{more} is worse than {less}"
            values = [round(float(np.mean(scores[each])), 3) for each in (b, a)]
            found.append({"test": test, "finding": finding, less: values[0], more: values[1]})
    return found
