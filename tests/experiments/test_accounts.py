"""What a run says of itself: tokens and padding, the cost of all passes, a lost gradient."""

import json

from configs import common
from ftjax.rl import rollout
from ftjax.run import config as settings
from ftjax.run import costs
from ftjax.run import plan as running
from ftjax.train import flops
from tests.lab import metrics


def test_padding_is_counted_apart(lab, tmp_path):
    plan = running.plan(lab.settings())
    batches = [plan.loader.batch(g) for g in range(3)]
    real = [int((batch["segments"] > 0).sum()) for batch in batches]
    workdir = lab.run("counted", tmp_path)
    rows = [row for row in metrics(workdir) if "tokens" in row]
    assert [row["tokens"] for row in rows] == [sum(real[: n + 1]) for n in range(3)]
    assert [row["padding"] + row["tokens"] for row in rows] == [512, 1024, 1536]
    summary = json.loads((workdir / "summary.json").read_text())
    assert (summary["tokens"], summary["padding"]) == (sum(real), 1536 - sum(real))
    assert summary["gradient_zero_since"] is None


def cost(lab, **changes):
    plan = running.plan(lab.settings(**changes))
    own = flops.per_token(plan.parts.model, plan.state.params, sequence=64)
    return costs.of(plan), own, flops.forward(plan.parts.model, sequence=64)


PAIRS = dict(name="judged", domain="skills", kind="preference", rows=16, max_tokens=64)


def test_a_reference_costs_a_forward_pass_unless_it_is_cached(lab):
    found, own, _ = cost(lab)
    assert found == own
    pairs = dict(objective=dict(name="dpo"), data=PAIRS)
    found, own, forward = cost(lab, **pairs)
    assert found == own + forward
    found, own, _ = cost(lab, **pairs, **{"reference.name": "cached"})
    assert found == own


def test_sampling_and_scoring_cost_forward_passes(lab):
    c = lab.config(objective=dict(name="grpo"), data=lab.raw() | dict(max_tokens=64))
    common.online(c, prompts=4, samples=4, max_new_tokens=4)
    c.rollout.epochs, c.rewards.exact = 2, dict(name="exact")
    plan = running.plan(settings.read(c), load=lambda parts, progress: Stream())
    own = flops.per_token(plan.parts.model, plan.state.params, sequence=64)
    assert rollout.cost(plan) == own + flops.forward(plan.parts.model, sequence=64)  # 2 passes / 2


class Stream:
    """Prompts that nobody takes."""
