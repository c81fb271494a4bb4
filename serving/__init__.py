"""Serving: the model server, the platforms it runs on, and the releases that move traffic between versions."""
