"""Mains: the only readers of configs."""
