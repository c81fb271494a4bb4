"""Tuning: a search over hyperparameters, the same on one machine and on a cluster.

`headway tune` and the `tune` step search with several processes on one machine; the tuning pipeline does the same
study with many pods (`tune_start`, `tune_worker`, `tune_best`); `headway tune --katib` writes it as a Katib Experiment.
All of them end with the training section that has the best values, which the train step takes as it is.

A study survives being killed at any moment and goes on where it was; a failed trial keeps its error and harms no other;
with one worker the same seed gives the same trials, also when the search was interrupted. A trainer of its own kind
takes part with one class, an `Objective` (objective.py).
"""
