"""The prompts that a run answers before and after: those of its config, and of held-out rows.

c.samples.prompts = ("The sky is",)
c.samples.evals, c.samples.rows = "held", 3      # three of what this evaluation measures
"""

from collections.abc import Callable, Mapping

import jax

from ftjax.core import config as conf
from ftjax.core import mesh as meshes
from ftjax.data import copies
from ftjax.evals import generate
from ftjax.run import build as setup
from ftjax.run import prompting
from ftjax.sampling import text

BATCH = 16


def _asked(parts: setup.Parts, texts: Mapping[str, copies.Texts], encode: Callable) -> list[str]:
    """Return the prompts to continue: those of the config, and some of an evaluation's rows.

    Raises:
      ValueError: there is no evaluation of that label.
    """
    spec, evals = parts.settings.samples, parts.settings.evals
    if not spec.evals:
        return list(spec.prompts)
    if spec.evals not in evals:
        raise ValueError(
            f"samples.evals: got {spec.evals!r}; expected an evaluation of the config: "
            f"{conf.listed(evals)}; {conf.nearest(spec.evals, evals)}"
        )
    own = texts.get(f"evals.{spec.evals}", copies.Texts())
    asked = (generate.text_of_prompt(own.rows[i]) for i in range(len(own)))
    found = list(dict.fromkeys(each for each in asked if each))
    # A few, of which those that leave no room for an answer are no loss.
    most = parts.model.max_length(parts.abstract["adapters"]) - spec.max_new_tokens
    chosen = (found[i] for i in spread(len(found), spec.rows))
    return [*spec.prompts, *(each for each in chosen if len(encode(each)) <= most)]


def sampler(parts: setup.Parts, texts: Mapping[str, copies.Texts]) -> Callable | None:
    """Return `(params, seed)` -> answers to the prompts, [{"prompt", "text"}]; None of no prompt.

    texts: of the rows of evaluations, by "evals.<label>".
    """
    spec = parts.settings.samples
    if not spec.prompts and not spec.evals:
        return None
    form = prompting.form_of(parts.tokenizer, parts.settings.data)
    encode = prompting.encode_of(parts.tokenizer, form)
    if not (prompts := _asked(parts, texts, encode)):
        return None
    respond = text.make(
        parts.model, parts.tokenizer, max_new_tokens=spec.max_new_tokens,
        temperature=spec.temperature, mesh=parts.mesh, stop_ids=form.stop_ids, encode=encode,
        batch_size=meshes.round_up_to_replicas(BATCH, parts.mesh),
    )  # fmt: skip

    def sample(params, *, seed: int) -> list[dict]:
        # One key for all steps: samples differ by the weights alone.
        texts = respond(params, prompts, jax.random.key(seed))
        return [{"prompt": p, "text": t} for p, t in zip(prompts, texts, strict=True)]

    return sample


def spread(count: int, limit: int | None) -> list[int]:
    """Choose at most `limit` of `count` indices, evenly spread: the same ones every time."""
    if limit is None or limit >= count:
        return list(range(count))
    return [i * count // limit for i in range(limit)]
