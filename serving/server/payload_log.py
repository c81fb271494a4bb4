"""Requests and answers to Parquet, in the background.

An answer costs the payload log one append to a queue. A thread of its own takes what has gathered, at most every
`flush_seconds` or as soon as there are `flush_rows`, turns it into columns and writes a file under a hidden name that
it then renames. The queue is bounded: when the disk is slower than the traffic, rows are dropped and counted, and
requests never wait. What a file holds is `headway.serving.payloads.SCHEMA`.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from headway.serving.payloads import EVENT_TYPE, SCHEMA, file_name
from headway.serving.server.rows import Kept
from headway.serving.server.scoring import Scored

if TYPE_CHECKING:
    import pyarrow as pa

FLUSH_ROWS = 5_000
FLUSH_SECONDS = 2.0
SHARE = 0.2
_REPEATING = [
    "type",
    "source",
    "inferenceservicename",
    "namespace",
    "component",
    "endpoint",
    "digest",
    "user",
    "prediction",
]
"""Columns with few values, which Parquet spells by number."""
_LOGGER = logging.getLogger("headway.server")
_MICROSECONDS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Source:
    """Who answers: the same in every row."""

    endpoint: str
    namespace: str
    variant: str
    version: int
    digest: str


class Entry:
    """One answered request."""

    __slots__ = ("code", "count", "id", "kept", "mirrored", "scored", "seconds", "time", "user")

    def __init__(
        self,
        *,
        id: str,
        user: str | None,
        mirrored: bool,
        code: int,
        seconds: float,
        kept: Kept | None = None,
        scored: Scored | None = None,
    ) -> None:
        self.time = time.time()
        self.id = id
        self.user = user
        self.mirrored = mirrored
        self.code = code
        self.seconds = seconds
        """From the request's first byte to the answer."""
        self.kept = kept
        self.scored = scored
        self.count = 1 if scored is None else len(scored)


class PayloadLog:
    """The writer of one server's rows.

    Args:
        folder: The payload log's folder; the endpoint's and the variant's folders are made in it.
        source: Who answers.
        names: The contract's features in order.
        mask: Features that are written as null.
        most: Rows that may wait to be written.
        share: The share of the time that the writer may work, from above 0 to 1.
        flush_rows: As soon as there are so many, they are written.
        flush_seconds: What waits longer is written.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        names: Sequence[str],
        *,
        mask: Iterable[str] = (),
        most: int,
        share: float = SHARE,
        flush_rows: int = FLUSH_ROWS,
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        self.folder = folder / source.endpoint / source.variant
        self.folder.mkdir(parents=True, exist_ok=True)
        self.written = 0
        self.dropped = 0
        self._unwritten = 0
        self._source = source
        self._features = FeatureTexts(names, frozenset(mask))
        self._most = most
        self._share = share
        self._flush_rows = flush_rows
        self._flush_seconds = flush_seconds
        self._queue: deque[Entry] = deque()
        # One thread adds, the other takes: two counters need no lock.
        self._added = 0
        self._taken = 0
        self._files = 0
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="payload-log", daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Take one answered request; it is dropped and counted when too much waits already."""
        waiting = self._added - self._taken + entry.count
        if waiting > self._most:
            self.dropped += entry.count
            return
        self._added += entry.count
        self._queue.append(entry)
        if waiting >= self._flush_rows:
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
        import pyarrow.parquet  # noqa: F401

        while not self._closing.is_set():
            self._wake.wait(self._flush_seconds)
            self._wake.clear()
            while batch := self._take():
                started = time.perf_counter()
                self._write(batch)
                self._closing.wait((time.perf_counter() - started) * (1 / self._share - 1))
        while batch := self._take():
            self._write(batch)

    def _take(self) -> list[Entry]:
        batch: list[Entry] = []
        rows = 0
        while self._queue and rows < self._flush_rows:
            entry = self._queue.popleft()
            batch.append(entry)
            rows += entry.count
        self._taken += rows
        return batch

    def _write(self, batch: list[Entry]) -> None:
        import pyarrow.parquet as pq

        rows = sum(entry.count for entry in batch)
        try:
            table = to_table(batch, self._source, self._features)
            name = file_name(datetime.now(UTC), os.getpid(), self._files)
            hidden = self.folder / f".{name}"
            pq.write_table(table, hidden, compression="zstd", compression_level=1, use_dictionary=_REPEATING)
            hidden.rename(self.folder / name)
        # A full disk or a wrong permission must not end the thread: the next file may go through.
        except Exception:
            self._unwritten += rows
            _LOGGER.exception("payload log: %d rows were not written", rows)
        else:
            self.written += rows
        self._files += 1


def to_table(entries: Sequence[Entry], source: Source, features: "FeatureTexts") -> "pa.Table":
    """Answered requests as a table with the log's columns."""
    import pyarrow as pa

    counts = np.array([entry.count for entry in entries])
    rows = int(counts.sum())

    def each(values: Iterable[Any], kind: Any) -> pa.Array:
        """One value a request, repeated for its rows."""
        once = pa.array(values, kind)
        return once if rows == len(entries) else once.take(pa.array(np.repeat(np.arange(len(entries)), counts)))

    moments = np.array([entry.time for entry in entries]) * _MICROSECONDS
    columns: dict[str, pa.Array] = {
        "id": pa.array([id for entry in entries for id in _ids(entry)], pa.string()),
        "time": each(moments.astype(np.int64), pa.timestamp("us", tz="UTC")),
        "user": each([entry.user for entry in entries], pa.string()),
        "mirrored": each([entry.mirrored for entry in entries], pa.bool_()),
        "code": each([entry.code for entry in entries], pa.int32()),
        "latency_ms": each([entry.seconds * 1_000 for entry in entries], pa.float64()),
        "prediction": pa.array([text for entry in entries for text in _predictions(entry)], pa.string()),
        "score": pa.array(_values(entries, "score"), pa.float64()),
        "probability": pa.array(_values(entries, "probability"), pa.float64()),
        "features": features.of(entries),
    }
    constant = {
        "type": EVENT_TYPE,
        "source": f"headway/{source.endpoint}/{source.variant}",
        "inferenceservicename": source.endpoint,
        "namespace": source.namespace,
        "component": "predictor",
        "endpoint": source.variant,
        "version": source.version,
        "digest": source.digest,
    }
    for name, value in constant.items():
        columns[name] = pa.repeat(pa.scalar(value, SCHEMA.field(name).type), rows)
    return pa.Table.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


class FeatureTexts:
    """Checked features as JSON objects, one a row.

    Args:
        names: The contract's features in order.
        mask: Those that become null.
    """

    def __init__(self, names: Sequence[str], mask: frozenset[str]) -> None:
        self._names = list(names)
        self._mask = dict.fromkeys(mask)
        keys = [orjson.dumps(name).decode() for name in names]
        self._before = [("{" if place == 0 else ",") + key + ":" for place, key in enumerate(keys)]

    def of(self, entries: Sequence[Entry]) -> "pa.Array":
        """The texts of all rows of all requests, in order; null for a request without checked features."""
        import pyarrow as pa

        texts: list[str | None] = []
        matrices: list[NDArray[np.float64]] = []
        places: list[NDArray[np.int64]] = []
        in_matrices = 0
        for entry in entries:
            kept = entry.kept
            if isinstance(kept, np.ndarray):
                # Matrices are written together at the end, so their rows count from there: ~0, ~1, …
                places.append(~np.arange(in_matrices, in_matrices + len(kept)))
                matrices.append(kept)
                in_matrices += len(kept)
                continue
            start = len(texts)
            texts += self._texts(kept, entry.count)
            places.append(np.arange(start, len(texts)))
        order = np.concatenate(places) if places else np.empty(0, np.int64)
        written = pa.array(texts, pa.string())
        if not matrices:
            return written
        written = pa.concat_arrays([written, self._matrix_texts(np.concatenate(matrices))])
        return written.take(pa.array(np.where(order < 0, len(texts) + ~order, order)))

    def _texts(self, kept: Any, count: int) -> list[str | None]:
        if kept is None:
            return [None] * count
        if isinstance(kept, list):
            records = kept
        elif count == 1:
            records = [kept]
        else:
            names = list(kept)
            records = [dict(zip(names, row, strict=True)) for row in zip(*kept.values(), strict=True)]
        return [orjson.dumps(record | self._mask if self._mask else record).decode() for record in records]

    def _matrix_texts(self, matrix: NDArray[np.float64]) -> "pa.Array":
        """Each row as a JSON object, made by Arrow without the interpreter's lock: many times as fast."""
        import pyarrow as pa
        import pyarrow.compute as pc

        parts: list[Any] = []
        for place, name in enumerate(self._names):
            parts.append(pa.scalar(self._before[place]))
            masked = name in self._mask
            parts.append(pa.scalar("null") if masked else pc.cast(pa.array(matrix[:, place]), pa.string()))
        return pc.binary_join_element_wise(*parts, pa.scalar("}"), pa.scalar(""))


def _ids(entry: Entry) -> list[str]:
    return [entry.id] if entry.count == 1 else [f"{entry.id}-{row}" for row in range(entry.count)]


def _predictions(entry: Entry) -> list[str | None]:
    if entry.scored is None:
        return [None]
    return [orjson.dumps(label).decode() for label in entry.scored.labels.tolist()]


def _values(entries: Sequence[Entry], name: str) -> list[float | None]:
    found: list[float | None] = []
    for entry in entries:
        values = None if entry.scored is None else getattr(entry.scored, name)
        found += [None] * entry.count if values is None else values.tolist()
    return found
