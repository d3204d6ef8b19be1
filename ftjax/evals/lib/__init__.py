"""What evaluators are made of: scoring, the bootstrap, and measures that are pure functions."""
