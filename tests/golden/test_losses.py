"""Preference, reward and distillation losses, value by value and gradient by gradient.

Every entry of the reference files is checked, with the settings that stand there: an entry that no
check below knows fails. Objectives get the reference's log-probabilities in place of a model's.
"""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.objectives import bco, cpo, dft, dpo, kto, orpo, reward, sft, simpo
from ftjax.objectives.losses import dpo_losses as pairs
from ftjax.objectives.losses import margin as contrast
from ftjax.objectives.losses import sequence
from ftjax.ops import divergence, loss
from ftjax.train.policy import Statistics, Total
from tests.golden import reference

ONLINE = re.compile("xpo|nash_md|gspo")  # methods of `legacy` that learn from samples
RTOL, ATOL = 2e-5, 2e-6


@functools.cache
def group(name):
    """Read the settings and the arrays of one file."""
    folder = reference.folder() / "losses"
    if not (folder / f"{name}.json").is_file():
        return {}, {}
    with np.load(folder / f"{name}.npz") as file:
        return reference.read(folder / f"{name}.json")["entries"], dict(file)


def entries(*names):
    """List (group, entry) of files, for parametrize."""
    return [(name, entry) for name in names for entry in group(name)[0]]


def outputs(name, entry):
    """Return the settings of an entry, its inputs and its outputs."""
    found, arrays = group(name)
    prefix = f"{entry}/"
    own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    return found[entry]["settings"], arrays, own


def close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=RTOL, atol=ATOL * max(1, np.abs(wanted).max()))


def value(found):
    """Add the terms of an objective's loss."""
    terms = found["loss"]
    return sum(t.value() for t in (terms if isinstance(terms, tuple) else (terms,)))


def batch_of(mask, answers=2, **more):
    """Make a batch of one answer a segment: rows of P answers, chosen ones first in the files."""
    pair = lambda x: jnp.stack(jnp.split(jnp.asarray(x), answers), 1)
    mask = pair(mask)
    ones = jnp.ones(mask.shape, jnp.int32)
    examples = jnp.ones((mask.shape[0], 1))
    arrays = {"tokens": ones, "segments": ones, "weights": mask.astype(jnp.float32)}
    return arrays | {"examples": examples, **more}, pair


def of_targets(grads, mask):
    """Drop the gradients of what is no target: the files' losses add up zeros there, unmasked."""
    return grads * mask[:, 1:]


@dataclasses.dataclass(frozen=True)
class Given:
    """A policy whose log-probabilities [..., T-1] are known."""

    logp: Any

    def logps(self, batch, key=None):
        return self.logp


@dataclasses.dataclass(frozen=True)
class Scored(Given):
    """Log-probabilities with the other statistics that some losses ask for."""

    log_squares: Any = None

    def statistics(self, batch, key=None, *, squares=False):
        del batch, key
        zeros = jnp.zeros_like(self.logp)
        return Statistics(self.logp, zeros, zeros, self.log_squares if squares else None)

    def total(self, loss, batch, weights, key=None):
        zeros = jnp.zeros_like(self.logp)
        return Total((weights * loss(self.logp, zeros, zeros)).sum(), self.logp)


# -- DPO -------------------------------------------------------------------------------------------

DPO_KEYS = {
    "beta", "loss_type", "loss_weights", "discopop_tau", "f_alpha_divergence_coef",
    "f_divergence_type", "label_smoothing", "ld_alpha", "use_weighting",
}  # fmt: skip


def dpo_of(settings):
    """Make the objective that the settings of the reference mean."""
    assert set(settings) == DPO_KEYS
    names = settings["loss_type"]
    weights = dict(zip(names, settings["loss_weights"] or [1.0] * len(names), strict=True))
    more = {"sft": weights.pop("sft", 0.0)}
    if settings["label_smoothing"]:
        more["label_smoothing"] = settings["label_smoothing"]
    if "discopop" in names:
        more["tau"] = settings["discopop_tau"]
    if settings["f_divergence_type"] == "alpha_divergence":
        more["alpha"] = settings["f_alpha_divergence_coef"]
    return dpo.make(
        beta=settings["beta"], loss=tuple(weights), loss_weights=tuple(weights.values()),
        divergence=settings["f_divergence_type"], tail=settings["ld_alpha"],
        wpo=settings["use_weighting"], **more,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "entry"), entries("dpo"))
def test_dpo(name, entry):
    settings, arrays, wanted = outputs(name, entry)
    batch, pair = batch_of(arrays["in/completion_mask"])
    objective, base = dpo_of(settings), Given(pair(arrays["in/ref_logps"]))

    def run(logps):
        policy = Scored(pair(logps), pair(arrays["in/log_sum_sq_probs"]))
        found = objective(policy, base, batch, None)
        return value(found), found

    (got, found), grads = jax.value_and_grad(run, has_aux=True)(arrays["in/policy_logps"])
    close(got, wanted["loss"])
    close(grads, of_targets(wanted["grad_policy_logps"], arrays["in/completion_mask"]))
    logged = group(name)[0][entry]["metrics"]
    if settings["ld_alpha"] is None:
        for ours, theirs in {"margin": "margins", "chosen": "chosen"}.items():
            if settings["f_divergence_type"] == "reverse_kl":
                close(found[f"reward/{ours}"].value(), logged[f"rewards/{theirs}"])


def test_every_loss_of_dpo_is_in_the_files(golden):
    used = {name for one in group("dpo")[0].values() for name in one["settings"]["loss_type"]}
    ours = {n for n, f in vars(pairs).items() if callable(f) and f.__module__ == pairs.__name__}
    named = {n for n in ours if not n.startswith("_")} - {"Pairs"}
    assert used - {"sft"} <= named
    missing = sorted(named - used)
    reference.whole(not missing, f"losses/dpo of {', '.join(missing)}")
    reference.need(not named - used, f"entry of DPO's {', '.join(sorted(named - used))}")


# -- single answers --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "entry"), entries("kto"))
def test_kto(name, entry):
    settings, arrays, wanted = outputs(name, entry)
    mask = arrays["in/completion_mask"]
    # The other answer's log-probability is known as a sum: its one target carries it.
    first = np.zeros_like(mask)
    first[:, 1] = 1
    one = lambda total: jnp.pad(jnp.asarray(total)[:, None], ((0, 0), (0, mask.shape[1] - 2)))
    batch, pair = batch_of(np.concatenate([mask, first]), label=wanted["label"][:, None] * 1.0)
    stack = lambda own, total: pair(jnp.concatenate([own, one(total)]))
    base = Split(stack(arrays["in/ref_logps"], arrays["in/kl_ref_logps"]), batch)
    known = {"beta", "desirable_weight", "undesirable_weight", "loss_type"}
    assert set(settings) == known
    objective = kto.make(
        beta=settings["beta"], good_weight=settings["desirable_weight"],
        bad_weight=settings["undesirable_weight"],
        kl={"kto": True, "apo_zero_unpaired": False}[settings["loss_type"]],
    )  # fmt: skip

    def run(logps):
        policy = Split(stack(logps, wanted["kl_policy_logps"]), batch)
        found = objective(policy, base, batch, None)
        return value(found), found["kl"].value()

    (got, kl), grads = jax.value_and_grad(run, has_aux=True)(arrays["in/policy_logps"])
    close(got, wanted["loss"])
    close(kl, group(name)[0][entry]["metrics"]["kl"])
    close(grads, of_targets(wanted["grad_policy_logps"], mask))


@dataclasses.dataclass(frozen=True)
class Split:
    """Log-probabilities [B,P,T-1] for objectives that ask for the answers one after the other."""

    logp: Any
    batch: Any

    def logps(self, batch, key=None):
        same = [np.array_equal(batch["weights"], self.batch["weights"][:, p]) for p in range(2)]
        return self.logp[:, same.index(True)]

    def without_gradient(self):
        return self


@pytest.mark.parametrize("entry", [e for _, e in entries("legacy") if not ONLINE.match(e)])
def test_bco(entry):
    settings, arrays, wanted = outputs("legacy", entry)
    shared = {k.removeprefix("bco_in/"): v for k, v in arrays.items() if k.startswith("bco_in/")}
    good = jnp.repeat(jnp.array([1.0, 0.0]), len(shared["policy_chosen"]))
    assert set(settings) == {"beta", "step", "policy_chosen_shift", "policy_rejected_shift"}

    def rewards(chosen, rejected):
        ratio = [chosen - shared["ref_chosen"], rejected - shared["ref_rejected"]]
        return settings["beta"] * jnp.concatenate(ratio)

    def run(chosen, rejected):
        losses = bco.losses(rewards(chosen, rejected), good, wanted["delta"])
        return losses.mean(), losses

    given = [
        shared[f"policy_{which}"] + np.float32(settings[f"policy_{which}_shift"])
        for which in ("chosen", "rejected")
    ]
    grads, losses = jax.grad(run, argnums=(0, 1), has_aux=True)(*given)
    close(losses, wanted["losses"])
    close(grads[0], wanted["grad_chosen"])
    close(grads[1], wanted["grad_rejected"])
    if settings["step"] == 0:  # the mean over all steps so far is the batch's own
        close(rewards(*given).mean(), wanted["delta"])


# -- pairs without a reference ---------------------------------------------------------------------


def of_pair(kind, settings):
    """Return the loss [n] of (chosen, rejected) log-probabilities that the settings mean."""
    beta = settings["beta"]
    if kind == "orpo":
        assert set(settings) <= {"beta", "note"}
        ratio = orpo.log_odds_ratio
        return lambda chosen, rejected: -beta * jax.nn.log_sigmoid(ratio(chosen, rejected))
    known = {"alpha", "beta", "label_smoothing", "logps_scale", "loss_type", "simpo_gamma"}
    assert set(settings) == known
    name = {"sigmoid": "sigmoid", "simpo": "sigmoid", "hinge": "hinge", "ipo": "squared"}
    found = vars(contrast)[name[settings["loss_type"]]]
    options = {"label_smoothing": settings["label_smoothing"]} if "sig" in found.__name__ else {}
    gamma = settings["simpo_gamma"] / beta if settings["loss_type"] == "simpo" else 0.0
    bend = functools.partial(simpo.value, alpha=settings["alpha"])
    return lambda w, r: found(bend(w) - bend(r) - gamma, beta=beta, **options)


@pytest.mark.parametrize(
    "entry", [e for _, e in entries("cpo_orpo") if not e.startswith(("full_", "batch_"))]
)
def test_pairs_without_a_reference(entry):
    settings, arrays, wanted = outputs("cpo_orpo", entry)
    kind, scale = entry.split("_")[0], settings.get("logps_scale", 1.0)
    call = of_pair(kind, settings)
    given = [arrays["in/chosen_logps"] * scale, arrays["in/rejected_logps"] * scale]
    grads = jax.grad(lambda *logps: call(*logps).mean(), argnums=(0, 1))(*given)
    close(call(*given), wanted["losses"] * (-1 if kind == "orpo" else 1))
    close(grads[0], wanted["grad_chosen_logps"])
    close(grads[1], wanted["grad_rejected_logps"])


def whole(settings, entry):
    """Make the objective of an entry that starts from logits."""
    if "loss_type" not in settings:
        assert entry == "full_orpo"
        assert set(settings) == {"beta"}
        return orpo.make(beta=settings["beta"])
    common = dict(
        beta=settings["beta"], nll=settings["cpo_alpha"],
        label_smoothing=settings["label_smoothing"],
    )  # fmt: skip
    if settings["loss_type"] == "simpo":
        return simpo.make(gamma=settings["simpo_gamma"], alpha=settings["alpha"], **common)
    assert not settings["alpha"]
    return cpo.make(loss=settings["loss_type"], **common)


def logps_of(logits, tokens):
    return jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), tokens[:, 1:, None], 2)[..., 0]


@pytest.mark.parametrize("entry", [e for _, e in entries("cpo_orpo") if e.startswith("full_")])
def test_from_logits(entry):
    settings, arrays, wanted = outputs("cpo_orpo", entry)
    labels, tokens = arrays["full/labels"], arrays["full/input_ids"]
    batch, pair = batch_of(labels != -100)
    batch |= {"segments": pair(arrays["full/attention_mask"])}
    objective = whole(settings, entry)

    def run(logits):
        return value(objective(Given(pair(logps_of(logits, tokens))), None, batch, None))

    got, grads = jax.value_and_grad(run)(arrays["full/logits"])
    close(got, wanted["loss"])
    close(grads, wanted["grad_logits"])


@pytest.mark.parametrize("entry", [e for _, e in entries("cpo_orpo") if e.startswith("batch_")])
def test_log_probabilities_of_answers(entry):
    settings, arrays, wanted = outputs("cpo_orpo", entry)
    batch, pair = batch_of(arrays["full/labels"] != -100)
    found = sequence.answers(pair(logps_of(arrays["full/logits"], arrays["full/input_ids"])), batch)
    got = found.mean_logp if settings["average_log_prob"] else found.logp
    close(jnp.concatenate([got[:, 0, 0], got[:, 1, 0]]), wanted["logps"])


# -- reward models, distillation, fine-tuning ------------------------------------------------------


@pytest.mark.parametrize(("name", "entry"), entries("reward"))
def test_reward(name, entry):
    settings, arrays, wanted = outputs(name, entry)
    assert set(settings) == {"center_rewards_coefficient", "margin"}
    margin = arrays["in/margin"] if settings["margin"] else 0.0
    centre = settings["center_rewards_coefficient"] or 0.0

    def run(scores):
        chosen, rejected = jnp.split(scores[:, 0], 2)
        return reward.losses(chosen, rejected, margin, centre=centre).mean()

    got, grads = jax.value_and_grad(run)(arrays["in/scores"])
    close(got, wanted["loss"])
    close(grads, wanted["grad_scores"])


@pytest.mark.parametrize("entry", [e for _, e in entries("kd_sft")])
def test_distillation_and_fine_tuning(entry):
    settings, arrays, wanted = outputs("kd_sft", entry)
    check = CHECKS[entry.split("_")[0] if entry.startswith("jsd_") else entry.split("_items")[0]]
    check(settings, arrays["in/student_logits"], arrays, wanted)


def check_jsd(settings, logits, arrays, wanted):
    assert settings.pop("reduction") == "batchmean"
    kept = jnp.float32(arrays["in/labels"] != -100)
    run = lambda x: (divergence.jsd(x, arrays["in/teacher_logits"], **settings) * kept).sum()
    got, grads = jax.value_and_grad(lambda x: run(x) / kept.sum())(logits)
    close(got, wanted["loss"])
    close(grads, wanted["grad_student_logits"])


def check_sft(make, settings, logits, arrays, wanted):
    assert set(settings) == {"loss_type", "num_items_in_batch"}
    labels = arrays["in/labels"]
    batch = {"weights": jnp.float32(labels != -100), "tokens": np.maximum(labels, 0)}

    def run(logits):
        policy = Scored(logps_of(logits, batch["tokens"]))
        mean = make()(policy, None, batch, None)["loss"]
        return mean.total / (settings["num_items_in_batch"] or mean.weight)

    got, grads = jax.value_and_grad(run)(logits)
    close(got, wanted["loss"])
    close(grads, wanted["grad_logits"])


def check_token_logps(settings, logits, arrays, wanted):
    assert not settings
    V, targets = logits.shape[-1], np.maximum(arrays["in/labels"], 0)
    close(loss.logps(logits, jnp.eye(V), targets, chunk=3)[0], wanted["logps"])


def check_entropy(settings, logits, arrays, wanted):
    assert not settings
    close(divergence.entropy(logits), wanted["entropy"])


CHECKS = {
    "jsd": check_jsd,
    "sft_nll": functools.partial(check_sft, sft.make),
    "sft_dft": functools.partial(check_sft, dft.make),
    "token_logps": check_token_logps,
    "entropy": check_entropy,
}


@pytest.mark.parametrize("name", ["dpo", "kto", "cpo_orpo", "reward", "kd_sft", "legacy"])
def test_there_are_losses(golden, name):
    found = (golden / "losses" / f"{name}.json").is_file() and group(name)[0]
    reference.whole(found, f"losses/{name}")
