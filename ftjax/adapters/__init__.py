"""Adapters, one file per method."""
