"""Optimizers by optax name, schedules and parameter groups."""
