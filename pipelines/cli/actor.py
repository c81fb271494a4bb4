"""Who does it, for the ledger."""


def user() -> str:
    """The name of the user who runs this command."""
    import getpass

    return getpass.getuser()
