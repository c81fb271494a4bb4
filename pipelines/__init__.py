"""Pipelines: what components compose into, and the ways to run them."""
