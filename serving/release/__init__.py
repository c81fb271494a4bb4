"""Releases: moving traffic from one version to another, and back when the numbers say so."""
