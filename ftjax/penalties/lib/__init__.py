"""What penalties share; no penalty itself."""
