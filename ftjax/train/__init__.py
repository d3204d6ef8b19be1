"""State, step, loop, checkpoints and metrics."""
