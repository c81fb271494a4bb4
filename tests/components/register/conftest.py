"""Databases that a ledger may live in."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

POSTGRES = os.environ.get("TEST_POSTGRES_URL")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of each kind; PostgreSQL where TEST_POSTGRES_URL names an empty one."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/ledger.db"
        return
    if not POSTGRES:
        pytest.skip("TEST_POSTGRES_URL is not set")
    from sqlalchemy import create_engine, text

    with create_engine(POSTGRES).begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
    yield POSTGRES
