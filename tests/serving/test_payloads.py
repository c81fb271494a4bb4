"""The payload log is read by time, whole, in order, and stays readable while files are merged and pruned."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from headway.components.errors import MeasurementError, RefusedNameError, UnknownNameError
from headway.components.settings import Settings
from headway.serving import payloads
from headway.serving.compaction import Compacted, compact

START = datetime(2026, 11, 25, 10, tzinfo=UTC)
Write = Callable[..., Path]


def minute(number: float) -> datetime:
    return START + timedelta(minutes=number)


def row(number: float, **values: Any) -> dict[str, Any]:
    known = {"id": f"r{number}", "time": minute(number), "endpoint": "v1", "mirrored": False, "code": 200}
    return {**dict.fromkeys(payloads.SCHEMA.names), **known, **values}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def write(settings: Settings) -> Write:
    """Write rows as a server does: `write([row, …], at=moment)`."""
    numbers = iter(range(10_000))

    def write(
        rows: list[dict[str, Any]], *, at: datetime, endpoint: str = "flights", variant: str = "v1", name: str = ""
    ) -> Path:
        folder = payloads.folder(settings) / endpoint / variant
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / (name or payloads.file_name(at, 1, next(numbers)))
        pq.write_table(pa.Table.from_pylist(rows, schema=payloads.SCHEMA), path)
        return path

    return write


def ids(settings: Settings, **bounds: Any) -> list[str]:
    return sorted(payloads.rows(settings, "flights", columns=["id"], **bounds)["id"].to_pylist())


class TestRows:
    def test_no_log_is_an_empty_table(self, settings: Settings) -> None:
        found = payloads.rows(settings, "flights")
        assert found.schema == payloads.SCHEMA
        assert found.num_rows == 0
        assert payloads.users(settings, "flights", START) == {}
        assert list(payloads.stream(settings, "flights")) == []

    def test_what_was_written_comes_back(self, settings: Settings, write: Write) -> None:
        rows = [row(1, user="ann", prediction='"AA"', score=0.5, features="{}"), row(2, prediction=None)]
        write(rows, at=minute(3))
        assert payloads.rows(settings, "flights").sort_by("id").to_pylist() == rows

    def test_bounds_are_half_open(self, settings: Settings, write: Write) -> None:
        write([row(number) for number in range(5)], at=minute(5))
        assert ids(settings, since=minute(1), until=minute(3)) == ["r1", "r2"]
        assert ids(settings, since=minute(1).replace(tzinfo=None), until=minute(3)) == ["r1", "r2"]

    def test_columns_come_in_the_order_asked_for(self, settings: Settings, write: Write) -> None:
        write([row(1)], at=minute(1))
        found = payloads.rows(settings, "flights", columns=["time", "id"])
        assert found.schema == pa.schema([payloads.SCHEMA.field("time"), payloads.SCHEMA.field("id")])

    def test_endpoints_are_apart(self, settings: Settings, write: Write) -> None:
        write([row(1)], at=minute(1))
        write([row(2)], at=minute(1), endpoint="taxis")
        write([row(3)], at=minute(1), variant="v2")
        assert ids(settings) == ["r1", "r3"]

    def test_old_files_are_not_opened(self, settings: Settings, write: Write) -> None:
        write([row(1)], at=minute(1)).write_bytes(b"damaged")
        write([row(30)], at=minute(30))
        assert ids(settings, since=minute(20)) == ["r30"]

    def test_a_file_of_a_foreign_name_is_never_left_out(self, settings: Settings, write: Write) -> None:
        write([row(30)], at=minute(0), name="imported.parquet")
        assert ids(settings, since=minute(20)) == ["r30"]

    def test_hidden_files_are_not_read(self, settings: Settings, write: Write) -> None:
        write([row(1)], at=minute(1), name=".half.parquet").write_bytes(b"half a file")
        assert ids(settings) == []

    def test_a_damaged_file_is_named(self, settings: Settings, write: Write) -> None:
        path = write([row(1)], at=minute(1))
        path.write_bytes(b"PAR1 damaged")
        with pytest.raises(MeasurementError, match=rf"payload log of 'flights' cannot be read[\s\S]*{path.name}"):
            payloads.rows(settings, "flights")

    @pytest.mark.parametrize("endpoint", ["../other", "a/b", "", "Flights", "x" * 40])
    def test_names_stay_inside_the_folder(self, settings: Settings, endpoint: str) -> None:
        with pytest.raises(RefusedNameError, match="Refused name"):
            payloads.rows(settings, endpoint)

    def test_an_unknown_column_offers_the_near_one(self, settings: Settings) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'latency_ms'"):
            payloads.rows(settings, "flights", columns=["latency"])


class TestUsers:
    def test_distinct_users_by_variant(self, settings: Settings, write: Write) -> None:
        write([row(1, user="ann"), row(2, user="ann"), row(3, user="bob"), row(4, user=None)], at=minute(5))
        write([row(5, user="eve", endpoint="v2")], at=minute(6), variant="v2")
        assert payloads.users(settings, "flights", START) == {"v1": 2, "v2": 1}

    def test_copies_and_what_was_before_do_not_count(self, settings: Settings, write: Write) -> None:
        write([row(1, user="ann"), row(9, user="bob"), row(9, user="eve", mirrored=True)], at=minute(10))
        assert payloads.users(settings, "flights", minute(5)) == {"v1": 1}


class TestStream:
    def test_rows_come_in_the_order_of_their_time(self, settings: Settings, write: Write) -> None:
        for start in (40, 0, 20):
            write([row(start + step, mirrored=step == 3) for step in (4, 1, 3)], at=minute(start + 5))
        found = [found["id"] for found in payloads.stream(settings, "flights", columns=["id"])]
        assert found == ["r1", "r4", "r21", "r24", "r41", "r44"]

    def test_a_stream_that_is_left_early_leaves_nothing(self, settings: Settings, write: Write, tmp_path: Path) -> None:
        write([row(number) for number in range(5)], at=minute(5))
        stream = payloads.stream(settings, "flights")
        assert next(stream)["id"] == "r0"
        stream.close()  # type: ignore[attr-defined]


class TestRetention:
    def test_old_files_go(self, settings: Settings, write: Write) -> None:
        old = write([row(0)], at=minute(0))
        young = write([row(50)], at=minute(50))
        size = old.stat().st_size
        assert payloads.prune(settings, timedelta(minutes=30), now=minute(60)) == payloads.Pruned(1, size)
        assert not old.exists()
        assert young.exists()

    def test_what_a_dead_writer_left_goes_and_what_a_living_one_writes_stays(
        self, settings: Settings, write: Write
    ) -> None:
        path = write([row(0)], at=minute(0), name=".20261125T100000.000000Z-1-1.parquet")
        assert payloads.prune(settings, timedelta(days=30)).files == 0
        assert payloads.prune(settings, timedelta(days=30), now=datetime.now(UTC) + timedelta(hours=2)).files == 1
        assert not path.exists()

    def test_no_log(self, settings: Settings) -> None:
        assert payloads.prune(settings, timedelta(0)) == payloads.Pruned(0, 0)


class TestCompaction:
    LATER = minute(80)

    def fill(self, write: Write) -> list[Path]:
        return [write([row(number), row(number + 0.5)], at=minute(number + 1)) for number in range(10)]

    def test_an_hour_becomes_one_file_with_the_same_rows(self, settings: Settings, write: Write) -> None:
        small = self.fill(write)
        before = payloads.rows(settings, "flights").sort_by("id")
        assert compact(settings, now=self.LATER) == Compacted(merged=1)
        assert payloads.files(settings, "flights") == [small[0].with_name("20261125T10-hour.parquet")]
        assert payloads.rows(settings, "flights").sort_by("id").equals(before)
        assert all(path.exists() for path in small), "a reader may still want them"

    def test_the_small_files_go_later(self, settings: Settings, write: Write) -> None:
        small = self.fill(write)
        compact(settings, now=self.LATER)
        assert compact(settings, now=self.LATER) == Compacted()
        assert compact(settings, now=datetime.now(UTC) + timedelta(days=1)) == Compacted(removed=10)
        assert not any(path.exists() for path in small)
        assert len(ids(settings)) == 20

    def test_an_hour_that_is_not_over_stays_as_it_is(self, settings: Settings, write: Write) -> None:
        self.fill(write)
        assert compact(settings, now=minute(65)) == Compacted()

    def test_a_straggler_is_merged_too_and_never_twice(self, settings: Settings, write: Write) -> None:
        self.fill(write)
        compact(settings, now=self.LATER)
        write([row(59)], at=minute(59))
        assert compact(settings, now=self.LATER) == Compacted(merged=1)
        assert len(ids(settings)) == len(set(ids(settings))) == 21
        assert compact(settings, now=datetime.now(UTC) + timedelta(days=1)) == Compacted(removed=11)
        assert len(ids(settings)) == 21

    def test_one_file_needs_no_merging(self, settings: Settings, write: Write) -> None:
        write([row(0)], at=minute(0))
        assert compact(settings, now=self.LATER) == Compacted()

    def test_variants_and_hours_stay_apart(self, settings: Settings, write: Write) -> None:
        for variant in ("v1", "v2"):
            for number in (0, 1, 60, 61):
                write([row(number, endpoint=variant)], at=minute(number), variant=variant)
        assert compact(settings, now=minute(200)) == Compacted(merged=4)
        assert len(payloads.files(settings, "flights", since=minute(70))) == 2
        assert len(ids(settings, since=minute(60))) == 4

    def test_merged_files_are_pruned_by_their_hour(self, settings: Settings, write: Write) -> None:
        self.fill(write)
        compact(settings, now=self.LATER)
        assert payloads.prune(settings, timedelta(hours=1), now=minute(119)).files == 10
        assert len(ids(settings)) == 20
        assert payloads.prune(settings, timedelta(hours=1), now=minute(121)).files == 1

    def test_readers_see_every_row_once_at_any_time(self, settings: Settings, write: Write) -> None:
        self.fill(write)
        wrong: list[int] = []
        over = threading.Event()

        def read() -> None:
            while not over.is_set():
                if (found := len(ids(settings))) != 20:
                    wrong.append(found)

        reader = threading.Thread(target=read)
        reader.start()
        compact(settings, now=self.LATER)
        ids(settings)
        compact(settings, now=datetime.now(UTC) + timedelta(days=1))
        ids(settings)
        over.set()
        reader.join()
        assert wrong == []


class TestWriterNames:
    @given(st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1)), st.integers(1, 10**7))
    @budget(max_examples=50)
    def test_a_name_gives_its_time_back_and_sorts_by_it(self, moment: datetime, number: int) -> None:
        moment = moment.replace(tzinfo=UTC)
        name = payloads.file_name(moment, number, number)
        assert payloads.written(Path(name)) == moment
        assert name < payloads.file_name(moment + timedelta(microseconds=1), 1, 1)
        hour = payloads.hour_file(Path(name))
        assert hour is not None
        assert timedelta(0) < (payloads.written(hour) or moment) - moment <= timedelta(hours=1)
