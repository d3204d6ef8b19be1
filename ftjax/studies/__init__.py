"""Studies of many runs: what a config lists, the stages of each cell, and what came out."""
