"""Hugging Face directories: configs and weights, in and out."""
