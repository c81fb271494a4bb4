"""Streamed Parquet: row groups in, batches out, in memory that does not grow with the table.

A rank decodes the row groups of its lanes (plan.py), shuffles a window of each with one gather, and hands out
contiguous slices. A thread does this ahead of the training loop; Arrow and numpy leave the interpreter free meanwhile.
"""

import contextlib
import os
import queue
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from headway.components.data_validate.contract import Contract
from headway.components.errors import SourceError, TrainingError
from headway.components.train_distributed.plan import Plan, held_back
from headway.components.train_distributed.preprocess import Encoder, Rows, training_columns

if TYPE_CHECKING:
    import pyarrow as pa

_SUFFIXES = (".parquet", ".pq")
_OPEN_FILES = 16
_AHEAD_ROWS, _AHEAD = 65_536, (2, 16)
"""Rows that are ready before they are asked for, in so many batches at least and at most."""
_PRIORITY = 10


@dataclass(frozen=True)
class Unit:
    """One row group."""

    path: str
    group: int
    rows: int


class Table:
    """Parquet files that are read one row group at a time.

    Args:
        address: A file or a folder, as a path or an fsspec address.
        contract: What its columns are; others are not read.

    Raises:
        SourceError: There is no file, one is no Parquet, or a column is missing.
    """

    def __init__(self, address: str, contract: Contract) -> None:
        self._columns, self._optional = training_columns(contract)
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()
        with _explained(address):
            self._storage, paths = _files(address)
            self.units = [unit for path in paths for unit in self._units(path)]

    def read(self, number: int) -> "pa.Table":
        """All rows of one unit, the contract's columns only."""
        import pyarrow as pa

        unit = self.units[number]
        with _explained(unit.path), self._lock:
            file = self._file(unit.path)
            present = set(file.schema_arrow.names)
            # Without threads: the ranks of one machine share its cores.
            table = file.read_row_group(
                unit.group, columns=[name for name in self._columns if name in present], use_threads=False
            )
        for position, field in enumerate(table.schema):
            if pa.types.is_dictionary(field.type):
                table = table.set_column(position, field.name, table.column(position).cast(field.type.value_type))
        for name in self._optional:
            if name not in present:
                table = table.append_column(name, pa.nulls(table.num_rows))
        return table

    def _units(self, path: str) -> list[Unit]:
        file = self._file(path)
        present = set(file.schema_arrow.names)
        lacking = [name for name in self._columns if name not in present and name not in self._optional]
        if lacking:
            raise SourceError(f"{path}: no column {', '.join(map(repr, lacking))}", expected="the contract's columns")
        metadata = file.metadata
        return [Unit(path, group, metadata.row_group(group).num_rows) for group in range(metadata.num_row_groups)]

    def _file(self, path: str) -> Any:
        import pyarrow.parquet as pq

        if path not in self._open:
            while len(self._open) >= _OPEN_FILES:
                self._open.popitem(last=False)[1].close(force=True)
            self._open[path] = pq.ParquetFile(self._storage.open_input_file(path))
        self._open.move_to_end(path)
        return self._open[path]


class Reader:
    """Decoded training rows by unit; the rows of as many units as fit stay in memory.

    Args:
        table: The table.
        encoder: What makes arrays of it.
        seed: The training section's, for the held-back rows.
        share: Share of rows that are held back, 0 to 1.
        cache: Bytes of decoded rows to keep; the last unit always stays.
    """

    def __init__(self, table: Table, encoder: Encoder, *, seed: int, share: float, cache: int) -> None:
        self._table, self._encoder = table, encoder
        self._seed, self._share, self._cache = seed, share, cache
        self._kept: dict[int, Rows] = {}
        self._last: tuple[int, Rows] | None = None
        self._bytes = 0

    def rows(self, unit: int) -> Rows:
        """The training rows of one unit."""
        if unit in self._kept:
            return self._kept[unit]
        if self._last is not None and self._last[0] == unit:
            return self._last[1]
        table = self._table.read(unit)
        if self._share:
            import pyarrow as pa

            table = table.filter(pa.array(~held_back(self._seed, unit, table.num_rows, self._share)))
        found = self._encoder(table)
        # What once fits stays: with another order each epoch, a cache that forgets the oldest would hit less often.
        if self._bytes + found.nbytes <= self._cache:
            self._kept[unit] = found
            self._bytes += found.nbytes
        else:
            self._last = unit, found
        return found


class _Lane:
    """One lane's rows in the epoch's order, taken from front to back."""

    def __init__(self, plan: Plan, reader: Reader, epoch: int, lane: int) -> None:
        self._plan, self._reader, self._epoch, self._lane = plan, reader, epoch, lane
        self._windows = enumerate(plan.windows(epoch, lane))
        self._rows: Rows | None = None
        self._start = self._stop = 0

    def take(self, start: int, stop: int) -> list[Rows]:
        """Rows by their position in the lane; windows that lie before are passed over unread."""
        found = []
        while start < stop:
            rows = self._window_at(start)
            upto = min(stop, self._stop)
            found.append(rows.take(slice(start - self._start, upto - self._start)))
            start = upto
        return found

    def _window_at(self, wanted: int) -> Rows:
        while self._rows is None or self._stop <= wanted:
            self._rows = None  # the old window makes room before the new one comes
            number, segments = next(self._windows)
            size = sum(map(len, segments))
            self._start, self._stop = self._stop, self._stop + size
            if self._stop > wanted:
                parts = [self._reader.rows(part.unit).take(slice(part.start, part.stop)) for part in segments]
                self._rows = Rows.concat(parts).take(self._plan.order(self._epoch, self._lane, number, size))
        return self._rows


def batches(
    plan: Plan, reader: Reader, *, epoch: int, rank: int, ranks: int, first: int = 0
) -> Iterator[tuple[int, Rows]]:
    """One rank's rows of each step of an epoch, as (rows of the whole step, rows of this rank).

    Args:
        plan: Which rows a step takes.
        reader: Where they come from.
        epoch: Counts from 0.
        rank: This process.
        ranks: How many there are.
        first: The step to begin with.
    """
    lanes: dict[int, _Lane] = {}
    for step in range(first, plan.steps):
        parts = []
        for piece in plan.pieces(step, rank, ranks):
            if piece.lane not in lanes:
                lanes[piece.lane] = _Lane(plan, reader, epoch, piece.lane)
            parts += lanes[piece.lane].take(piece.start, piece.stop)
        if not parts:
            raise TrainingError(f"A step has {plan.size(step)} rows for {ranks} processes", fix="use fewer processes")
        yield plan.size(step), Rows.concat(parts)


class Ahead:
    """Runs an iterator in a thread, a few items ahead; counts how long the caller waited.

    Args:
        items: What to run; an error in it is raised where the item was asked for.
        prepare: Done to each item in the thread.
        rows: Of an item; small ones are made further ahead.
    """

    def __init__(self, items: Iterator[Any], prepare: Callable[[Any], Any], *, rows: int = 1) -> None:
        self.waited = 0.0
        """Seconds that the caller has waited so far."""
        self._queue: queue.Queue[Any] = queue.Queue(min(max(_AHEAD_ROWS // rows, _AHEAD[0]), _AHEAD[1]))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(items, prepare), name="batches", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Any]:
        while True:
            started = time.perf_counter()
            item, error = self._queue.get()
            self.waited += time.perf_counter() - started
            if error is not None:
                raise error
            if item is None:
                return
            yield item

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self._thread.join(timeout=10)

    def _run(self, items: Iterator[Any], prepare: Callable[[Any], Any]) -> None:
        _give_way()
        try:
            for item in items:
                self._put((prepare(item), None))
                if self._stop.is_set():
                    return
            self._put((None, None))
        # It is raised in the thread that asked for the item.
        except BaseException as error:
            self._put((None, error))

    def _put(self, entry: Any) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(entry, timeout=0.2)
                return


def _give_way() -> None:
    """Let this thread work where the training loop waits: reading comes in bursts, and other ranks wait for each."""
    if sys.platform == "linux":  # elsewhere a priority is of the whole process
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _PRIORITY)


def _files(address: str) -> tuple[Any, list[str]]:
    """The storage and the Parquet files of an address, by name."""
    from pyarrow import fs

    if "://" in address:
        import fsspec

        inner, path = fsspec.core.url_to_fs(address)
        storage: Any = fs.PyFileSystem(fs.FSSpecHandler(inner))
    else:
        storage, path = fs.LocalFileSystem(), address
    info = storage.get_file_info(path)
    if info.type == fs.FileType.File:
        return storage, [path]
    if info.type == fs.FileType.NotFound:
        raise SourceError(f"{address}: no such file", expected="the training part as Parquet")
    found = storage.get_file_info(fs.FileSelector(path, recursive=True))
    paths = sorted(entry.path for entry in found if PurePosixPath(entry.path).suffix in _SUFFIXES)
    if not paths:
        raise SourceError(f"{address}: no Parquet file in it", expected=f"files that end in {' or '.join(_SUFFIXES)}")
    return storage, paths


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{name}: cannot be read as Parquet: {error}") from error
