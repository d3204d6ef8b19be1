"""What a token that a run trains on costs, all passes counted: MFU is of the whole step.

The policy's forward and backward pass; where the objective has a reference, its forward pass (none
where that is cached). What an online run adds is in `rl.rollout`; reward models and rivals sampled
beside the policy are not counted.
"""

from ftjax.train import flops


def of(p) -> flops.Cost:
    """Compute the cost of a plan."""
    own, sequence = p.parts, p.settings.data["max_tokens"]
    forward = lambda model: flops.forward(model, sequence=sequence)
    cost = flops.per_token(own.model, p.state.params, sequence=sequence)
    if own.spec.reference and own.reference.name != "cached":
        # Unless it is another model: a base or a frozen copy costs what the policy does.
        cost += forward(own.reference.other[1] if own.reference.other else own.model)
    return cost
