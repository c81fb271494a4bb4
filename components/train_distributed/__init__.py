"""Distributed training: one torch script as one process, as several under torchrun, or as a job on a cluster."""
