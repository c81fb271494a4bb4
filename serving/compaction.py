"""Merge the payload log's many small files: one for each endpoint, variant and hour.

A server writes a file every two seconds: 43,200 a day, which readers feel. `compact` merges the files of an hour that
is over, and may be called by several processes, at any time, and again after it was killed:

1. The hour's file is written under a hidden name and renamed. From then on readers leave out the small files of that
   hour. A reader that listed the folder a moment before reads the small ones, which are all still there.
2. A minute later, the next call removes the small files that it took in: their names stand in its metadata. A reader
   that still wants one of them is told that it is gone, and lists the folder again.
3. A small file that came later than anybody thought is merged into the hour's file by the next call.
"""

# ruff: noqa: S608 - our own text, and quoted names

import contextlib
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from headway.components.settings import Settings
from headway.components.sql import quote_text, quote_texts
from headway.serving import payloads

SETTLED = timedelta(minutes=10)
"""How long an hour must be over before its files are merged: a writer may be slow to rename its last ones."""
READERS = timedelta(minutes=1)
"""How long small files stay beside the hour's file: longer than it takes to list a folder."""
_SOURCES = "headway.sources"
_ROW_GROUP = 122_880


@dataclass(frozen=True)
class Compacted:
    """What was done."""

    merged: int = 0
    """Hours whose file was written."""
    removed: int = 0
    """Small files that were removed."""


def compact(settings: Settings, *, now: datetime | None = None) -> Compacted:
    """Merge the files of the hours that are over, in all endpoints and variants.

    Args:
        settings: The installation.
        now: The present, by default the clock's.
    """
    now = now or datetime.now(UTC)
    merged = removed = 0
    for target, small in _hours(payloads.folder(settings)).items():
        end = payloads.written(target)
        if end is None or end + SETTLED > now:
            continue
        taken = _taken(target)
        fresh = [path for path in small if path.name not in taken]
        if fresh and (taken or len(fresh) > 1):
            _merge(fresh, target, taken)
            merged += 1
        elif taken and _age(target, now) > READERS:
            removed += _remove(small)
    return Compacted(merged, removed)


def _hours(root: Path) -> dict[Path, list[Path]]:
    """The small files by the hour's file that they belong into."""
    hours: dict[Path, list[Path]] = defaultdict(list)
    for path in sorted(root.glob("*/*/*.parquet")):
        target = payloads.hour_file(path)
        if target is not None and target != path and not path.name.startswith("."):
            hours[target].append(path)
    return hours


def _taken(target: Path) -> frozenset[str]:
    """The names of the small files whose rows are in an hour's file; none while there is no such file."""
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(target).metadata or {}
    except FileNotFoundError:
        return frozenset()
    return frozenset(json.loads(metadata.get(_SOURCES.encode(), b"[]")))


def _merge(fresh: Sequence[Path], target: Path, taken: frozenset[str]) -> None:
    from headway.components.ingest.engine import connect

    sources = [*fresh, *([target] if taken else [])]
    names = json.dumps(sorted(taken | {path.name for path in fresh}))
    hidden = target.with_name(f".{target.name}-{os.getpid()}")
    options = (
        f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_ROW_GROUP}, "
        f"KV_METADATA {{{quote_text(_SOURCES)}: {quote_text(names)}}}"
    )
    with (
        tempfile.TemporaryDirectory(prefix="headway-") as workspace,
        contextlib.closing(connect(Path(workspace), memory=payloads.MEMORY)) as connection,
        payloads.readable(target.parent.parent.name),
    ):
        rows = f"SELECT * FROM read_parquet({quote_texts(map(str, sources))}, hive_partitioning = false) ORDER BY time"
        connection.execute(f"COPY ({rows}) TO {quote_text(str(hidden))} ({options})")
    hidden.rename(target)


def _remove(paths: Sequence[Path]) -> int:
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


def _age(path: Path, now: datetime) -> timedelta:
    return now - datetime.fromtimestamp(path.stat().st_mtime, UTC)
