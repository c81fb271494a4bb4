"""Training: from the valid training part to a bundle, with ONNX parity and an MLflow run."""
