"""What evaluators are made of: scoring, the bootstrap, retention."""
