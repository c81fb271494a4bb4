"""The flights example runs the training pipeline as it stands; data, contract and gate are in the YAML files."""

from headway.pipelines.training import training as pipeline

__all__ = ["pipeline"]
