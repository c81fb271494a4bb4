"""Fixtures of the ingest tests: a folder of files, and a short way to stage a source."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headway.components.data_validate.contract import Contract
from headway.components.ingest.ingest import IngestResult, ingest
from headway.components.ingest.sources import Source, stage
from headway.components.ingest.split import Split

Stage = Callable[..., pa.Table]
Ingest = Callable[..., IngestResult]


@pytest.fixture
def read(tmp_path: Path) -> Stage:
    """Stage a source given by its keys and give the table."""

    def staged(contract: Contract | None = None, **source: Any) -> pa.Table:
        workspace = tmp_path / f"workspace-{len(list(tmp_path.iterdir()))}"
        workspace.mkdir()
        found = stage(Source.parse(source), contract, base=tmp_path, workspace=workspace)
        table = pq.read_table(found.path)
        assert list(found.columns) == table.column_names
        assert found.rows == table.num_rows
        return table

    return staged


@pytest.fixture
def run(tmp_path: Path) -> Ingest:
    """Ingest a source (a mapping) with a split (a mapping) into tmp_path/out."""

    def ingested(source: dict[str, Any], split: dict[str, Any], contract: Contract | None = None) -> IngestResult:
        out = tmp_path / "out"
        return ingest(
            Source.parse(source),
            Split.parse(split),
            contract,
            train=out / "train.parquet",
            validation=out / "validation.parquet",
            holdout=out / "holdout.parquet",
            base=tmp_path,
        )

    return ingested


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder over HTTP on a free local port."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def http_folder(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address that serves it."""
    folder = tmp_path / "www"
    folder.mkdir()
    with serve(folder) as address:
        yield folder, address
