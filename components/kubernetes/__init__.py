"""The Kubernetes API as steps and serving need it: apply, read, watch, wait."""
