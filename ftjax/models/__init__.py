"""Decoder-only transformers, one file per family."""
