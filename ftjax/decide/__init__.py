"""Prompt, retrieve or fine-tune: arms on one task, their costs, and a verdict to check."""
