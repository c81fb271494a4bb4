"""Register: the registry, signatures and the ledger."""
