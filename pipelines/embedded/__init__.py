"""The embedded engine: a compiled pipeline on this machine, by kfp.local with warm workers and a content cache."""
