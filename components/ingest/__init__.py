"""Ingest: from any source to Parquet parts with a content digest."""
