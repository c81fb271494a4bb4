"""The embedded engine: a compiled pipeline on this machine, through kfp.local, with warm workers and a content cache."""
