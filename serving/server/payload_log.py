"""Requests and answers to Parquet, in the background.

An answer costs the payload log one append to a queue. A thread of its own takes what has gathered, at most every
`flush_seconds` or as soon as there are `flush_rows`, makes a table of it and writes a file under a hidden name, which
it then renames.

Two bounds keep the log from ever slowing an answer. The queue holds so many rows and no more: when the disk is slower
than the traffic, rows are dropped and counted. And after each file the thread rests in proportion to the work that the
file was, so that it takes at most a share of one core: on a server that is busy with large batches, it is the log that
gives way.
"""

import logging
import os
import threading
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path

from headway.serving.payloads import file_name
from headway.serving.server.payload_table import Batch, PayloadTable, Row

FLUSH_ROWS = 5_000
FLUSH_SECONDS = 2.0
SHARE = 0.05
_REPEATING = [
    *("type", "source", "inferenceservicename", "namespace", "component", "endpoint", "digest", "user", "prediction")
]
"""Columns with few values, which Parquet spells by number."""
_LOGGER = logging.getLogger("headway.server")


class PayloadLog:
    """The writer of one server's rows.

    Args:
        folder: The folder for its files, made if it does not exist.
        table: Makes tables of what is logged.
        most: Rows that may wait to be written.
        share: The share of the time that the writer may work, from above 0 to 1.
        flush_rows: As soon as there are so many, they are written.
        flush_seconds: What waits longer is written.
    """

    def __init__(
        self,
        folder: Path,
        table: PayloadTable,
        *,
        most: int,
        share: float = SHARE,
        flush_rows: int = FLUSH_ROWS,
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.table = table
        self.written = 0
        self.dropped = 0
        self._unwritten = 0
        self._most = most
        self._share = share
        self._flush_rows = flush_rows
        self._flush_seconds = flush_seconds
        self._queue: deque[Row | Batch] = deque()
        # One thread adds, the other takes: two counters need no lock.
        self._added = 0
        self._taken = 0
        self._files = 0
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="payload-log", daemon=True)
        self._thread.start()

    def has_room(self, count: int) -> bool:
        """Whether so many rows may come; if not, they count as dropped, and need not be made."""
        if self._added - self._taken + count <= self._most:
            return True
        self.dropped += count
        return False

    def put(self, entry: Row | Batch) -> None:
        """Take one answered request; it is dropped and counted when too much waits already."""
        count = _rows(entry)
        if not self.has_room(count):
            return
        self._added += count
        self._queue.append(entry)
        if self._added - self._taken >= self._flush_rows and not self._wake.is_set():
            self._wake.set()

    def rows(self) -> dict[str, int]:
        """Rows by what became of them."""
        return {"written": self.written, "dropped": self.dropped + self._unwritten}

    def close(self, timeout: float | None = None) -> None:
        """Write what waits, and end the thread.

        Args:
            timeout: Seconds to wait for it at most.
        """
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        import pyarrow.compute
        import pyarrow.json
        import pyarrow.parquet  # noqa: F401 - slow to load, so not while requests come

        while not self._closing.is_set():
            self._wake.wait(self._flush_seconds)
            self._wake.clear()
            while batch := self._take():
                started = time.thread_time()  # of a wait for the interpreter's lock nothing is taken from anybody
                self._write(batch)
                self._closing.wait((time.thread_time() - started) * (1 / self._share - 1))
        while batch := self._take():
            self._write(batch)

    def _take(self) -> list[Row | Batch]:
        taken: list[Row | Batch] = []
        rows = 0
        while self._queue and rows < self._flush_rows:
            entry = self._queue.popleft()
            taken.append(entry)
            rows += _rows(entry)
        self._taken += rows
        return taken

    def _write(self, entries: list[Row | Batch]) -> None:
        import pyarrow.parquet as pq

        rows = sum(map(_rows, entries))
        try:
            name = file_name(datetime.now(UTC), os.getpid(), self._files)
            hidden = self.folder / f".{name}"
            pq.write_table(
                self.table.table(entries), hidden, compression="zstd", compression_level=1, use_dictionary=_REPEATING
            )
            hidden.rename(self.folder / name)
        # A full disk or a wrong permission must not end the thread: the next file may go through.
        except Exception:
            self._unwritten += rows
            _LOGGER.exception("payload log: %d rows were not written", rows)
        else:
            self.written += rows
        self._files += 1


def _rows(entry: Row | Batch) -> int:
    return len(entry.scored) if isinstance(entry, Batch) else 1
