"""Serving on one machine: supervised server processes behind Envoy, with no Docker and no Kubernetes."""
