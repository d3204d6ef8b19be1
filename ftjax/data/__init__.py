"""Sources, tokenizers, chat templates, packing and the loader."""
