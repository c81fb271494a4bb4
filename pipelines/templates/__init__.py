"""The files that `headway new` writes."""
