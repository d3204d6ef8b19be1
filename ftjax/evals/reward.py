"""Rewards of answers that are sampled to held-out prompts: does the policy earn more than it did?

    reward = mean over prompts of the reward of one sampled answer
    kl     = mean of log pi(y|x) - log pi_base(y|x), nats an answer: how far it went for that

The same draws are made each time, so a change between two steps is of the policy. `reward_<label>`
are the parts of a mixed reward, `answer_tokens` the length of an answer, its end included.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ftjax.core.typed import Count
from ftjax.evals import generate
from ftjax.evals.lib import scoring

INPUTS = ("rewards",)  # see `ftjax/run/evaluation.py`


def make(
    *, model, sample: Callable, rewards: Callable, rows: Sequence[Mapping],
    base_of: Callable | None = None, batch_size: Count = 8, chunk: Count = 64, mesh=None,
) -> scoring.Evaluator:  # fmt: skip
    """Make the evaluator of {reward, reward_<label>, kl, answer_tokens}.

    Args:
      model: the handle.
      sample: (params, prompts) -> answers, as `sampling.text.make_sampler` makes.
      rewards: (texts, rows) -> values [n,F], NaN where one says nothing, as `sampling.rewards`
        makes; with `functions` by label and their `weights`.
      rows: with a `prompt` (or `question`), and what the rewards look at.
      base_of: params -> those of the base; None leaves kl out.
      batch_size: answers at a time. chunk: positions of logits at a time.
      mesh: shard the answers over its replicas.

    Raises ValueError when there is no row.
    """
    if not rows:
        raise ValueError("evals.reward: got no row; expected prompts; check its data")
    prompts = [generate.prompt_of(row) for row in rows]
    asked = [{**row, "prompt": prompt} for row, prompt in zip(rows, prompts, strict=True)]
    score = scoring.make_scorer(model, batch_size=batch_size, chunk=chunk, mesh=mesh)

    def per_example(params) -> dict[str, np.ndarray]:
        answers = sample(params, prompts)
        ends = [{**row, "finished": a.finished} for row, a in zip(asked, answers, strict=True)]
        values = rewards([answer.text for answer in answers], ends).values_BF
        named = zip(rewards.functions, values.T, strict=True)
        found = {
            "reward": np.nansum(values * np.float32(rewards.weights), -1),
            "answer_tokens": np.array([len(answer.tokens) for answer in answers]),
        } | {f"reward_{label}": column for label, column in named}
        if base_of is not None:
            examples = [_example(answer) for answer in answers]
            own, other = (score(p, examples)[0] for p in (params, base_of(params)))
            found["kl"] = own - other
        return found

    return scoring.Evaluator(per_example, summary)


def summary(arrays: scoring.Arrays) -> dict[str, float]:
    """Average over prompts; a part of the reward over those of which it says something."""
    means = {name: float(np.nanmean(array)) for name, array in arrays.items()}
    return dict(sorted(means.items()))


def _example(answer) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.int32([*answer.prompt, *answer.tokens])
    return tokens, (np.arange(len(tokens)) >= len(answer.prompt)).astype(np.float32)
