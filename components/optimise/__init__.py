"""Optimise: make a model's files fast without changing its answers."""
