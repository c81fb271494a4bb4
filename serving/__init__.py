"""Serving: what answers requests. The release work fills it; today it is the package's place in the layers."""
