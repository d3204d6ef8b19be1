"""Metrics writers, tables, curves, the page and the summary of a run."""
