"""Open MLflow, and make the embedded platform's database whole or not at all.

MLflow makes its tables one by one. A process killed in between leaves a file that no later one can open, and two that
start on a new file fail each other. So the tables are made in a file of their own, which then takes the name in one
step: whoever is first wins, and the others open what is there.

MLflow's fifty migrations take three seconds on an empty file, in every first run and every test. Their result is kept
beside this module for the locked version (`python -m headway.components.mlflow_store` writes it anew, a test compares
it); another version's database is made by its own migrations.
"""

import contextlib
import os
import sqlite3
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SQLITE = "sqlite:///"
_TABLES = Path(__file__).with_name("mlflow_tables.sql")
_MARK = "-- MLflow "


def open_client(uri: str) -> "MlflowClient":
    """An MLflow client for tracking and registry at one address.

    Args:
        uri: An http(s) address, or `sqlite:///` and an absolute path.
    """
    from mlflow import MlflowClient

    make_database(uri)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def make_database(uri: str) -> None:
    """Make MLflow's SQLite file if the address is one and nobody has made it; safe to call from many processes."""
    if not uri.startswith(_SQLITE):
        return
    path = Path(uri.removeprefix(_SQLITE))
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=path.parent) as folder:
        scratch = Path(folder) / path.name
        _make_tables(scratch)
        try:
            os.link(scratch, path)
        except FileExistsError:
            return  # another process was first; its file is as good


def _make_tables(path: Path) -> None:
    statements = _TABLES.read_text(encoding="utf-8")
    if not statements.startswith(f"{_MARK}{metadata.version('mlflow')}\n"):
        migrate(path)
        return
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(statements)


def migrate(path: Path) -> None:
    """Make the tables by MLflow's own migrations, in a new file."""
    import sqlalchemy
    from mlflow.store.db import utils

    engine = sqlalchemy.create_engine(f"{_SQLITE}{path}")
    try:
        utils._safe_initialize_tables(engine)
    finally:
        engine.dispose()


def statements_of(path: Path) -> str:
    """A database as the SQL that makes it, marked with MLflow's version."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return "\n".join([f"{_MARK}{metadata.version('mlflow')}", *connection.iterdump()]) + "\n"


def main() -> None:
    """Write the tables of the installed MLflow beside this module."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlflow.db"
        migrate(path)
        _TABLES.write_text(statements_of(path), encoding="utf-8")
    sys.stdout.write(f"wrote {_TABLES.name}\n")


if __name__ == "__main__":
    main()
