"""Where a study is kept: a journal file on one machine, a database where several share it.

A file in place of SQLite: fifty trials of twenty reports cost 1.2 s in the journal and 16 s in SQLite, and two
processes that start together on a new SQLite file fail each other. In a database the tables are made under a lock, in a
schema of their own where the database has schemas: MLflow, too, keeps an `alembic_version`.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from headway.components.errors import ConfigError, PlatformError
from headway.components.settings import Settings
from headway.components.train.tracking import without_credentials

JOURNAL = "journal:"
DATABASE = "database"
SCHEMA = "headway_tuning"
_LOCK_KEY = 0x6865616477  # "headw", for the advisory lock


def shared_address(settings: Settings, folder: Path) -> str:
    """The address of a study's storage: the installation's database where it is a server's, else a journal.

    Args:
        settings: Where the database is.
        folder: Where the journal lies.

    Raises:
        ConfigError: In a pod without a database: a file would be seen by one pod only.
    """
    url = settings.resolved_database_url
    if not url.startswith("sqlite:"):
        return DATABASE
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        raise ConfigError(
            "Trials on a cluster need a database that all of them reach, and none is set",
            fix="set HEADWAY_DATABASE_URL in the Secret `headway`",
        )
    return f"{JOURNAL}{folder / 'journal.log'}"


def open_storage(address: str, settings: Settings) -> BaseStorage:
    """Open a study's storage, and make it where it is new; safe to call from many processes at once.

    Args:
        address: `journal:PATH`, `database`, or an SQLAlchemy URL.
        settings: Where `database` is.

    Raises:
        PlatformError: The database cannot be reached.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would log each trial once more
    if address.startswith(JOURNAL):
        path = Path(address.removeprefix(JOURNAL))
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=_FileLock(path)))
    return _database(settings.resolved_database_url if address == DATABASE else address)


class _FileLock:
    """A lock that the system takes back when its holder dies; whoever gets it cuts off a line that was not finished.

    Optuna's own locks are files: a killed worker leaves one behind, and the others wait half a minute. And a line that
    a killed worker began would join with the next one into text that no reader understands any more.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: int | None = None

    def acquire(self) -> bool:
        """Wait for the lock; always true."""
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(handle, fcntl.LOCK_EX)
        self._held = handle
        self._cut_unfinished(handle)
        return True

    def release(self) -> None:
        """Give it back."""
        if self._held is not None:
            handle, self._held = self._held, None
            os.close(handle)

    @staticmethod
    def _cut_unfinished(handle: int) -> None:
        size = os.fstat(handle).st_size
        if size == 0 or os.pread(handle, 1, size - 1) == b"\n":
            return
        start = max(size - 1_000_000, 0)
        tail = os.pread(handle, size - start, start)
        os.ftruncate(handle, start + tail.rfind(b"\n") + 1)


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Let one process at a time drive a study of this machine.

    Raises:
        PlatformError: Another process is at it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(handle, 32, 0).decode().strip()
            raise PlatformError(
                f"The study in {folder} is being tuned by process {owner}", fix="wait for it, or end it with Ctrl-C"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


def _database(url: str) -> RDBStorage:
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with _making(url):
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True, **_connect_arguments(url)})
    except (SQLAlchemyError, sqlalchemy.exc.NoSuchModuleError, ImportError) as error:
        raise PlatformError(
            f"The database of the study at {without_credentials(url)}: {str(error).splitlines()[0]}",
            expected="a database that answers",
            fix="correct HEADWAY_DATABASE_URL",
        ) from error


def _connect_arguments(url: str) -> dict[str, Any]:
    if not url.startswith("postgresql"):
        return {}
    return {"connect_args": {"options": f"-csearch_path={SCHEMA}"}}


@contextlib.contextmanager
def _making(url: str) -> Iterator[None]:
    """One process at a time makes tables."""
    import sqlalchemy

    if url.startswith("sqlite:"):
        database = sqlalchemy.make_url(url).database
        with Path(f"{database}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        return
    engine = sqlalchemy.create_engine(url)
    statements = {
        "postgresql": ("SELECT pg_advisory_lock(:key)", "SELECT pg_advisory_unlock(:key)"),
        "mysql": ("SELECT GET_LOCK(:key, 60)", "SELECT RELEASE_LOCK(:key)"),
    }.get(engine.dialect.name)
    try:
        with engine.connect() as connection:
            if statements:
                connection.execute(sqlalchemy.text(statements[0]), {"key": _LOCK_KEY})
            if engine.dialect.name == "postgresql":
                connection.execute(sqlalchemy.text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
                connection.commit()
            yield
            if statements:
                connection.execute(sqlalchemy.text(statements[1]), {"key": _LOCK_KEY})
    finally:
        engine.dispose()
