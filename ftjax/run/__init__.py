"""From a config to the parts of a run, and from a run to its files."""
