"""Tuning: a search over hyperparameters, the same on one machine and on a cluster."""
