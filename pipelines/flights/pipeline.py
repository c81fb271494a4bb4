"""The flights example runs Headway's training pipeline as it stands; its data, contract and gate are in the YAML files."""

from headway.pipelines.training import training as pipeline

__all__ = ["pipeline"]
