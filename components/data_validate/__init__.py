"""Data validation: the contract, its checks, the profile and the report."""
