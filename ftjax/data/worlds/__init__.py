"""Seeded generators of the embedded data."""
