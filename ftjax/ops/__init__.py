"""Linear maps, attention, positions, norms and chunked log-probabilities."""
