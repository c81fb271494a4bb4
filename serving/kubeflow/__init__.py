"""Serving on a cluster: InferenceServices, ServingRuntimes and HTTPRoutes."""
