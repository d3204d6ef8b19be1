"""Forgetting penalties, one file each."""
