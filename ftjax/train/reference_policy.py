"""The reference of preference losses and the teacher of distillation: `(policy, batch) -> policy`.

    adapters_off   the policy's own base: nothing is stored, and nothing trains it
    frozen         params["reference"] = {"model", "adapters"}: where the run started
    cached         log-probabilities that came with the batch, computed once before training

What they get holds parameters without gradient, and they compute without dropout.
"""

import dataclasses

from ftjax.train.policy import Cached, Policy


def adapters_off(policy: Policy, batch) -> Policy:
    """Take the base: the same weights, adapters off."""
    del batch
    return policy.without_adapters()


def frozen(policy: Policy, batch) -> Policy:
    """Take the weights under params["reference"], which never train."""
    del batch
    # All of the params: an adapter that trains must not be added to the old weights.
    return dataclasses.replace(policy, params=policy.params["reference"])


def cached(policy: Policy, batch) -> Cached:
    """Take batch["reference"] [..., T]: log p of every token as a target."""
    del policy, batch
    return Cached()


def other(model):
    """Make the reference that is another model with the weights of params["reference"]."""
    return lambda policy, batch: dataclasses.replace(frozen(policy, batch), model=model)
