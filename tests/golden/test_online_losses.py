"""Losses, gradients and advantages of online methods against reference implementations."""

import functools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.objectives import grpo, nash_md, ppo, rloo, xpo
from ftjax.objectives.losses import advantages
from tests.golden import reference

ONLINE = ("xpo", "nash_md", "gspo_token")  # of the group `legacy`; its others are offline
SURROGATES = {  # how the numbers of a loss are called there
    "clip": dict(low="epsilon_low", high="epsilon_high", delta="delta"),
    "cispo": dict(high="epsilon_high"),
    "sapo": dict(up="sapo_temperature_pos", down="sapo_temperature_neg"),
    "vespo": dict(
        power_up="vespo_k_pos", rate_up="vespo_lambda_pos", power_down="vespo_k_neg",
        rate_down="vespo_lambda_neg",
    ),
    "gmpo": dict(low="epsilon_low", high="epsilon_high"),
}  # fmt: skip


@functools.cache
def group(name):
    """Read the arrays and the entries of a group of losses."""
    folder = reference.folder() / "losses"
    if not (folder / f"{name}.json").is_file():
        return {}, {}
    with np.load(folder / f"{name}.npz") as arrays:
        return dict(arrays), json.loads((folder / f"{name}.json").read_text())["entries"]


def entries(name, wanted=lambda entry: True):
    """List the entries of a group; those that start with _ describe its inputs."""
    return [e for e in group(name)[1] if not e.startswith("_") and wanted(e)]


is_advantage = lambda entry: entry.startswith("adv")
is_loss = lambda entry: not is_advantage(entry)
is_gae = lambda entry: entry.startswith("gae")


def of(name, entry):
    """Return an entry's settings, its inputs and its outputs."""
    arrays, found = group(name)
    reference.need(entry in found, f"losses/{name}/{entry}")
    under = lambda folder: {
        k.removeprefix(f"{folder}/"): v for k, v in arrays.items() if k.startswith(f"{folder}/")
    }
    return found[entry]["settings"], under("in"), under(entry)


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)


def test_no_entry_is_left_out(golden):
    assert golden
    legacy = {e.rsplit("_step", 1)[0].split("_")[0] for e in entries("legacy")}
    known = {"bco", *(e.split("_")[0] for e in ONLINE)}
    assert legacy <= known
    missing = sorted(known - legacy)
    reference.whole(not missing, f"losses/legacy of {', '.join(missing)}")
    assert {e for e in entries("ppo") if not is_gae(e)} - {"helpers"} == {
        e for e in entries("ppo") if "loss" in of("ppo", e)[2]
    }


# -- policies that are tables ----------------------------------------------------------------------


def batch_of(inputs, *, settings, mask):
    """Make a batch whose targets are the tokens of the reference's rows."""
    pad = lambda x: np.pad(np.asarray(x, np.float32), ((0, 0), (1, 0)))
    batch = {"weights": pad(mask), "advantages": inputs["advantages"]}
    if settings.get("old_logps", True):
        batch["old_logps"] = inputs["old_logps"]
    if "ref_logps" in inputs:
        batch["ref_logps"] = inputs["ref_logps"]
    return batch


def check_loss(objective, batch, inputs, wanted, *, divide=1):
    def loss(logps):
        scores = types.SimpleNamespace(logp=logps, entropy=inputs.get("entropies"))
        policy = types.SimpleNamespace(statistics=lambda *_, **__: scores)
        terms = objective(policy, policy, batch, None)["loss"]
        terms = terms if isinstance(terms, tuple) else (terms,)
        return sum(term.value() for term in terms) / divide

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(inputs["policy_logps"]))
    close(value, wanted["loss"])
    close(gradient, wanted["grad_policy_logps"])


@pytest.mark.parametrize("entry", entries("grpo", is_loss))
def test_group_losses(entry, golden):
    settings, inputs, wanted = of("grpo", entry)
    loss = "gmpo" if entry.startswith("gmpo") else settings["loss_type"]
    names = SURROGATES[grpo.VARIANTS[loss].surrogate.__name__]
    objective = grpo.make(
        loss=loss, importance=settings["importance_sampling_level"],
        limit=settings["max_completion_length"], kl_weight=settings["beta"],
        kl_corrected=settings["use_bias_correction_kl"] and loss != "gmpo",
        entropy_weight=settings["entropy_coef"],
        entropy_share=settings["top_entropy_quantile"],
        off_policy_mask_threshold=settings["off_policy_mask_threshold"],
        **{ours: settings[theirs] for ours, theirs in names.items()},
    )  # fmt: skip
    mask = inputs["completion_mask"] * (inputs["tool_mask"] if settings["tool_mask"] else 1)
    batch = batch_of(inputs, settings=settings, mask=mask)
    accumulated = settings["gradient_accumulation_steps"]
    check_loss(objective, batch, inputs, wanted, divide=accumulated)


@pytest.mark.parametrize("entry", entries("rloo", is_loss))
def test_leave_one_out_losses(entry, golden):
    settings, inputs, wanted = of("rloo", entry)
    objective = rloo.make(low=settings["epsilon_low"], high=settings["epsilon_high"])
    batch = batch_of(inputs, settings=settings, mask=inputs["completion_mask"])
    check_loss(objective, batch, inputs, wanted)


@pytest.mark.parametrize("entry", entries("legacy", lambda e: e == "gspo_token"))
def test_sequence_ratios_with_token_gradients(entry, golden):
    settings, _, arrays = of("legacy", entry)
    epsilon = settings["epsilon"]
    objective = grpo.make(
        loss=settings["loss_type"], importance=settings["importance_sampling_level"],
        low=epsilon, high=epsilon,
    )  # fmt: skip
    batch = batch_of(arrays, settings=settings, mask=arrays["completion_mask"])
    check_loss(objective, batch, arrays, arrays)


# -- advantages ------------------------------------------------------------------------------------


def rewards_of(entry, inputs):
    suffix = {"adv_nan": "_nan", "adv_zero_std_group": "_flat_group"}.get(entry, "")
    return inputs[f"rewards_per_func{suffix}"]


def experience_of(entry, settings, inputs):
    return advantages.Experience(
        jnp.asarray(rewards_of(entry, inputs)), tuple(settings["reward_weights"]),
        settings["num_generations"], inputs["completion_mask"], inputs["old_logps"],
        inputs["ref_logps"], values_BT=None, kl_scale=1.0,
    )  # fmt: skip


@pytest.mark.parametrize("entry", entries("grpo", is_advantage))
def test_group_advantages(entry, golden):
    settings, inputs, wanted = of("grpo", entry)
    credit = grpo.make_advantages(
        scale=settings["scale_rewards"],
        decoupled=settings["multi_objective_aggregation"] == "normalize_then_sum",
    )  # fmt: skip
    experience = experience_of(entry, settings, inputs)
    close(credit(experience)["advantages"], wanted["advantages"])


@pytest.mark.parametrize("entry", entries("rloo", is_advantage))
def test_leave_one_out_advantages(entry, golden):
    settings, inputs, wanted = of("rloo", entry)
    credit = rloo.make_advantages(
        kl_weight=settings["beta"], clip=settings["reward_clip_range"],
        normalise=settings["normalize_advantages"],
    )  # fmt: skip
    experience = experience_of(entry, settings, inputs)
    close(credit(experience)["advantages"], wanted["advantages"])


# -- PPO -------------------------------------------------------------------------------------------


def masks_of(outputs):
    return ~outputs["padding_mask"], ~outputs["padding_mask_p1"]


@pytest.mark.parametrize("entry", entries("ppo", is_gae))
def test_generalised_advantages(entry, golden):
    settings, inputs, wanted = of("ppo", entry)
    own, one_more = masks_of(wanted)
    T = inputs["logprobs"].shape[1]
    # There the score stands one past the last token, where that is inside the row.
    at = np.minimum(inputs["sequence_lengths"] + 1, T - 1)[:, None]
    scores = np.where(np.arange(T) == at, inputs["scores"][:, None], 0)
    rewards = ppo.token_rewards(
        scores, inputs["logprobs"] * own, inputs["ref_logprobs"] * own,
        kl_weight=settings["kl_coef"], kl=settings["kl_estimator"],
    )  # fmt: skip
    if settings["whiten_rewards"]:
        rewards = advantages.whitened(rewards, one_more, centre=False) * one_more
    close(rewards, wanted["rewards"])
    found, returns = advantages.gae(
        rewards, inputs["values"] * one_more, discount=settings["gamma"], decay=settings["lam"]
    )
    close(returns, wanted["returns"])
    close(advantages.whitened(found, own) * own, wanted["advantages"])


@pytest.mark.parametrize("entry", entries("ppo", lambda e: e.startswith("loss")))
def test_clipped_policy_and_value_losses(entry, golden):
    settings, inputs, wanted = of("ppo", entry)
    given = of("ppo", settings["advantages_from"])[2]
    own, one_more = masks_of(given)

    def loss(logps, values):
        policy = ppo.clipped_losses(
            (logps - inputs["logprobs"]) * own, given["advantages"], clip=settings["cliprange"]
        )
        value = ppo.value_losses(
            values, inputs["values"], given["returns"], clip=settings["cliprange_value"]
        )
        parts = advantages.masked_mean(policy, own), advantages.masked_mean(value, one_more)
        return parts[0] + settings["vf_coef"] * parts[1], parts

    run = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (value, (policy, critic)), grads = run(inputs["new_logprobs"], inputs["new_values"])
    close(value, wanted["loss"])
    close(policy, wanted["pg_loss"])
    close(critic, wanted["vf_loss"])
    close(grads[0], wanted["grad_new_logprobs"])
    close(grads[1], wanted["grad_new_values"])


def test_masked_statistics(golden):
    _, inputs, wanted = of("ppo", "helpers")
    x, mask = wanted.get("x", inputs.get("x")), wanted.get("mask", inputs.get("mask"))
    close(advantages.masked_mean(x, mask), wanted["masked_mean"])
    close(advantages.masked_variance(x, mask), wanted["masked_var"])
    close(advantages.whitened(x, mask), wanted["masked_whiten"])
    close(advantages.whitened(x, mask, centre=False), wanted["masked_whiten_keep_mean"])


# -- online preferences ----------------------------------------------------------------------------


def duels(probability_B):
    """Make the inputs, and the batch of them whose two answers are rows of six targets each."""
    arrays, _ = group("legacy")
    p = {k.removeprefix("online/"): v for k, v in arrays.items() if k.startswith("online/")}
    ones = np.ones((len(probability_B), 2, 7), np.int32)
    batch = {"weights": ones, "segments": ones, "examples": np.ones((len(ones), 1), np.float32)}
    return p, batch | {"probability": np.float32(probability_B)[:, None]}


def table(logps):
    return types.SimpleNamespace(logps=lambda batch, key=None: logps)


def total(found):
    terms = found["loss"] if isinstance(found["loss"], tuple) else (found["loss"],)
    return sum(term.value() for term in terms)


@pytest.mark.parametrize("entry", entries("legacy", lambda e: e.startswith("xpo")))
def test_exploratory_preference_optimisation(entry, golden):
    settings, _, wanted = of("legacy", entry)
    wins = group("legacy")[0]["online/chosen_mask"]
    p, batch = duels(np.where(wins, 0.9, 0.2))
    names = {"sigmoid": "sigmoid", "ipo": "squared"}
    objective = xpo.make(
        alpha=settings["alpha"], beta=settings["beta"], loss=names[settings["loss_type"]]
    )
    base = table(np.stack([p["ref_logps_model_data"], p["ref_logps_ref_data"]], 1))

    def loss(own, other):
        found = objective(table(jnp.stack([own, other], 1)), base, batch, None)
        return total(found), found

    run = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (value, found), grads = run(p["model_logps_model_data"], p["model_logps_ref_data"])
    close(value, wanted["loss"])
    close(found["loss/pairs"].value(), wanted["dpo_losses"].mean())
    close(settings["alpha"] * found["logp/other"].value(), wanted["xpo_losses"].mean())
    close(grads[0], wanted["grad_model_data"])
    close(grads[1], wanted["grad_ref_data"])


@pytest.mark.parametrize("entry", entries("legacy", lambda e: e.startswith("nash")))
def test_nash_mirror_descent(entry, golden):
    settings, _, wanted = of("legacy", entry)
    p, batch = duels(group("legacy")[0]["online/probability"])
    objective, base = nash_md.make(beta=settings["beta"]), table(p["ref_logps_model_data"])
    loss = lambda own: total(objective(table(own), base, batch, None))
    value, gradient = jax.value_and_grad(loss)(p["model_logps_model_data"])
    close(value, wanted["loss"])
    close(gradient, wanted["grad_model_data"])
