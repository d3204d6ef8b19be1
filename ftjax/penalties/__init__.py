"""Penalties on parameters: `make(**hyper) -> penalty(params) -> float32 scalar`, one file each.

`params` is {"model": ..., "adapters": ...}. A step adds penalties to the mean loss once, whatever
the number of microbatches. What needs a batch is a term of an objective instead.
"""
