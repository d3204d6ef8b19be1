"""Searches of a space of settings, a module each: `search=dict(name=...)` of `Searched`.

`make(**options)` returns `propose(space, count, trials) -> list of settings`, all of them from the
first on, at most `count`. LEARNS: whether it looks at trials, and so proposes them in rounds.
"""
