"""Open MLflow, and make the embedded platform's database whole or not at all.

MLflow makes its tables one by one. A process killed in between leaves a file that no later one can open, and two that
start on a new file fail each other. So the tables are made in a file of their own, which then takes the name in one
step: whoever is first wins, and the others open what is there.
"""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SQLITE = "sqlite:///"


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
    import sqlalchemy
    from mlflow.store.db import utils

    engine = sqlalchemy.create_engine(f"{_SQLITE}{path}")
    try:
        utils._safe_initialize_tables(engine)
    finally:
        engine.dispose()
