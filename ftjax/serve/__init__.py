"""An endpoint over the generation queue: requests come and go while it runs."""
