"""Adapters in PEFT's files, in and out: one module per method that PEFT has."""
