"""Installations on each kind of database, a clock, and a payload log to join with."""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from headway.components.settings import Settings
from headway.serving import payloads

POSTGRES = os.environ.get("TEST_POSTGRES_URL")


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 25, 10, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def forward(self, **delta: float) -> datetime:
        """Let time pass."""
        self.time += timedelta(**delta)
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """An installation on each database; PostgreSQL where TEST_POSTGRES_URL names an empty one."""
    if request.param == "sqlite":
        yield Settings(home=tmp_path / "home")
        return
    if not POSTGRES:
        pytest.skip("TEST_POSTGRES_URL is not set")
    from sqlalchemy import create_engine, text

    with create_engine(POSTGRES).begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
    yield Settings(home=tmp_path / "home", database_url=SecretStr(POSTGRES))


Log = Callable[..., None]


@pytest.fixture
def log(settings: Settings, clock: Clock) -> Log:
    """Add rows to the payload log of `flights`: `log([{"id": …, "endpoint": "v1", …}, …])`, as of now."""
    numbers = iter(range(100_000))

    def write(rows: list[dict[str, Any]]) -> None:
        now = clock()
        known = {"time": now, "endpoint": "v1", "mirrored": False, "code": 200}
        whole = [{**dict.fromkeys(payloads.SCHEMA.names), **known, **row} for row in rows]
        for variant in sorted({row["endpoint"] for row in whole}):
            folder = payloads.folder(settings) / "flights" / variant
            folder.mkdir(parents=True, exist_ok=True)
            mine = [row for row in whole if row["endpoint"] == variant]
            latest = max(row["time"] for row in mine)
            path = folder / payloads.file_name(latest, 1, next(numbers))
            pq.write_table(pa.Table.from_pylist(mine, schema=payloads.SCHEMA), path)

    return write
