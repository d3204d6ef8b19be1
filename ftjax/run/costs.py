"""What a token that a run trains on costs, all passes counted: MFU is of the whole step.

The policy's forward and backward pass; where the objective has a reference, its forward pass (none
where that is cached); in an online run sampling, scoring by the start and the value head, shared by
the passes over a round. Reward models and rivals sampled beside the policy are not counted.
"""

from ftjax.train import flops

TOGETHER = {"preference": 2, "duel": 2}  # rows of an example that a batch counts, by its kind


def of(p) -> flops.Cost:
    """Compute the cost of a plan."""
    own, sequence = p.parts, p.settings.data["max_tokens"]
    forward = lambda model: flops.forward(model, sequence=sequence)
    cost = flops.per_token(own.model, p.state.params, sequence=sequence)
    if own.spec.reference and own.reference.name != "cached":
        cost += forward(own.reference.other[1] if own.reference.other else own.model)
    if p.settings.rollout is not None:
        cost += forward(own.model).times(_passes(p))
    return cost


def _passes(p) -> float:
    """Count the forward passes of a round for each token that is trained on."""
    from ftjax.rl import batches

    r, objective = p.settings.rollout, p.parts.objective
    rows = batches.make(p.settings, objective).count
    rows *= TOGETHER.get(p.parts.spec.data, 1)
    each = 2 + ("value" in p.parts.heads)  # sampling and scoring
    return each * r.prompts * r.samples / (rows * r.epochs)
