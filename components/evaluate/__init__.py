"""Evaluate: metrics with intervals, slices, the champion, and the gate."""
