"""Several adapters at once: per row of a batch, stacked (O-LoRA), merged."""
