"""Penalties on parameters: `make(**hyper) -> Penalty`, one file each.

    arrays = penalty.prepare(params, model, batch, past)      before the first step; may be empty
    penalty.value(params, arrays)                             float32 scalar

`params` is {"model": ..., "adapters": ...}. A step adds penalties to the mean loss once, whatever
the number of microbatches. What needs the batch of a step is a term of an objective instead.
"""
