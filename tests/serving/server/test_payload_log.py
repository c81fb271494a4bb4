"""What the payload log holds, and what happens when the disk cannot keep up."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headway.components.settings import Settings
from headway.serving import payloads
from headway.serving.server.payload_log import PayloadLog
from headway.serving.server.payload_table import Batch, PayloadTable, Row, Source
from headway.serving.server.scoring import Scored

SOURCE = Source(endpoint="flights", namespace="prod", variant="v3", version=3, digest="d" * 64)
NAMES = ["distance", "carrier"]


def scored(*values: float) -> Scored:
    scores = np.array(values)
    return Scored(scores > 0.5, scores, scores)


def entry(id: str = "a", **more: Any) -> Row | Batch:
    given: dict[str, Any] = {
        "user": None,
        "mirrored": False,
        "code": 200,
        "seconds": 0.001,
        "scored": None,
        "kept": None,
    }
    mask = more.pop("mask", ())
    return PayloadTable(SOURCE, NAMES, mask).entry(id=id, **(given | more))


def answered(id: str = "a", **more: Any) -> Row | Batch:
    return entry(id, kept={"distance": 1.0, "carrier": "AA"}, scored=scored(0.7), **more)


@contextmanager
def opened(folder: Path, **options: Any) -> Iterator[PayloadLog]:
    table = PayloadTable(SOURCE, NAMES)
    log = PayloadLog(folder / "flights" / "v3", table, **({"most": 100, "flush_seconds": 0.05} | options))
    try:
        yield log
    finally:
        log.close(30)


def read(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("flights/v3/*.parquet")))


class TestTable:
    def test_a_row_has_all_that_readers_want(self) -> None:
        table = PayloadTable(SOURCE, NAMES).table([answered("x", user="ann", mirrored=True, seconds=0.0125)])
        assert table.schema == payloads.SCHEMA
        row = table.to_pylist()[0]
        moment = row.pop("time")
        assert abs((datetime.now(UTC) - moment).total_seconds()) < 60
        assert row == {
            "id": "x",
            "type": "org.kubeflow.serving.inference.response",
            "source": "headway/flights/v3",
            "inferenceservicename": "flights",
            "namespace": "prod",
            "component": "predictor",
            "endpoint": "v3",
            "version": 3,
            "digest": "d" * 64,
            "user": "ann",
            "mirrored": True,
            "code": 200,
            "latency_ms": 12.5,
            "prediction": "true",
            "score": 0.7,
            "probability": 0.7,
            "features": '{"distance":1.0,"carrier":"AA"}',
        }

    def test_a_batch_is_a_row_each_and_the_order_stays(self) -> None:
        matrix = np.array([[1.0, 2.5], [3.0, 4.0]])
        entries = [
            answered("one"),
            entry("m", kept=matrix, scored=scored(0.1, 0.9)),
            entry("no", code=400),
            entry("c", kept={"distance": [5.0, 6.0], "carrier": ["AA", 'é"\n']}, scored=scored(0.2, 0.3)),
            entry("n", kept=matrix * 10, scored=scored(0.4, 0.5)),
            entry("l", kept=[{"distance": 7.0, "carrier": None}] * 2, scored=scored(0.6, 0.6)),
        ]
        table = PayloadTable(SOURCE, NAMES).table(entries)
        assert table.schema == payloads.SCHEMA
        rows = table.to_pylist()
        assert [row["id"] for row in rows] == ["one", "no", "m-0", "m-1", "c-0", "c-1", "n-0", "n-1", "l-0", "l-1"]
        assert [row["features"] and json.loads(row["features"]) for row in rows] == [
            {"distance": 1.0, "carrier": "AA"},
            None,
            {"distance": 1, "carrier": 2.5},
            {"distance": 3, "carrier": 4},
            {"distance": 5.0, "carrier": "AA"},
            {"distance": 6.0, "carrier": 'é"\n'},
            {"distance": 10, "carrier": 25},
            {"distance": 30, "carrier": 40},
            *[{"distance": 7.0, "carrier": None}] * 2,
        ]
        assert [row["prediction"] for row in rows[:4]] == ["true", None, "false", "true"]
        assert [row["score"] for row in rows[:4]] == [0.7, None, 0.1, 0.9]
        assert [row["code"] for row in rows[:4]] == [200, 400, 200, 200]
        assert all(row["digest"] == "d" * 64 and row["endpoint"] == "v3" for row in rows)

    @pytest.mark.parametrize("value", [0.1, -0.0, 5e-324, 1.7976931348623157e308, 2.0**60, 123456.789, 1e-7, 1e22])
    def test_numbers_of_a_matrix_survive(self, value: float) -> None:
        given = entry(kept=np.array([[value, 1.0]] * 2), scored=scored(0.1, 0.2))
        for text in PayloadTable(SOURCE, NAMES).table([given])["features"].to_pylist():
            assert json.loads(text) == {"distance": value, "carrier": 1}

    def test_masked_fields_are_null_in_every_form(self) -> None:
        table = PayloadTable(SOURCE, NAMES, ["carrier"])
        entries = [
            answered(mask=["carrier"]),
            entry(kept=np.array([[1.0, 2.0]] * 2), scored=scored(0.1, 0.2)),
            entry(kept={"distance": [1.0, 1.0], "carrier": ["AA", "UA"]}, scored=scored(0.1, 0.2)),
        ]
        texts = table.table(entries)["features"].to_pylist()
        assert [json.loads(text) for text in texts] == [{"distance": 1.0, "carrier": None}] * 5

    def test_labels_of_every_kind_are_json(self) -> None:
        for labels, texts in (
            (np.array([1.5, 2.0]), ["1.5", "2.0"]),
            (np.array([3, 4]), ["3", "4"]),
            (np.array([True, False]), ["true", "false"]),
            (np.array(['a "b"', "c, d"], dtype=object), ['"a \\"b\\""', '"c, d"']),
        ):
            for rows in (1, 2):
                kept = {"distance": [1.0] * rows} if rows > 1 else {"distance": 1.0}
                given = entry(kept=kept, scored=Scored(labels[:rows], None, None))
                found = PayloadTable(SOURCE, NAMES).table([given]).to_pylist()
                assert [row["prediction"] for row in found] == texts[:rows]
                assert {(row["score"], row["probability"]) for row in found} == {(None, None)}


class TestWriting:
    def test_rows_reach_the_readers(self, tmp_path: Path) -> None:
        settings = Settings(home=tmp_path)
        with opened(payloads.folder(settings)) as log:
            for number in range(250):
                while log._added - log._taken > 90:
                    time.sleep(0.01)
                log.put(answered(str(number), user=f"u{number % 7}"))
        assert log.rows() == {"written": 250, "dropped": 0}
        rows = payloads.rows(settings, "flights").to_pylist()
        assert sorted(int(row["id"]) for row in rows) == list(range(250))
        assert payloads.users(settings, "flights", datetime(2020, 1, 1, tzinfo=UTC)) == {"v3": 7}

    def test_it_writes_by_time_and_by_size(self, tmp_path: Path) -> None:
        with opened(tmp_path, flush_seconds=0.05) as log:
            log.put(answered())
            wait_for(lambda: log.written == 1)
        with opened(tmp_path / "b", flush_seconds=60, flush_rows=10) as log:
            for number in range(10):
                log.put(answered(str(number)))
            wait_for(lambda: log.written == 10)

    def test_what_does_not_fit_is_dropped_and_counted_at_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        blocked = threading.Event()
        writing = threading.Event()

        table = PayloadTable.table

        def stuck(*arguments: Any) -> pa.Table:
            writing.set()
            blocked.wait(30)
            return table(*arguments)

        monkeypatch.setattr(PayloadTable, "table", stuck)
        with opened(tmp_path, most=10) as log:
            log.put(answered("first"))
            assert writing.wait(30)
            started = time.perf_counter()
            for number in range(25):
                log.put(answered(str(number)))
            assert time.perf_counter() - started < 0.1
            assert log.rows() == {"written": 0, "dropped": 15}
            blocked.set()
        assert log.rows() == {"written": 11, "dropped": 15}
        assert read(tmp_path)["id"].to_pylist() == ["first", *map(str, range(10))]

    def test_after_a_file_it_rests(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        busy = [0.0]

        table = PayloadTable.table

        def slowly(*arguments: Any) -> pa.Table:
            until = time.thread_time() + 0.05
            while time.thread_time() < until:
                pass
            busy[0] += 0.05
            return table(*arguments)

        monkeypatch.setattr(PayloadTable, "table", slowly)
        started = time.perf_counter()
        with opened(tmp_path, most=5, flush_rows=1, share=0.2) as log:
            while time.perf_counter() - started < 2:
                log.put(answered())
                time.sleep(0.001)
            assert busy[0] <= 0.2 * (time.perf_counter() - started) + 0.05
            assert log.written > 0
            assert log.dropped > log.written
            ended = time.perf_counter()
        assert time.perf_counter() - ended < 1  # at the end it does not rest

    def test_a_disk_that_refuses_costs_rows_and_nothing_else(self, tmp_path: Path) -> None:
        with opened(tmp_path) as log:
            for path in (tmp_path / "flights" / "v3", tmp_path / "flights"):
                path.rmdir()
            (tmp_path / "flights").write_text("in the way")
            log.put(answered())
            wait_for(lambda: log.rows()["dropped"] == 1)
            (tmp_path / "flights").unlink()
            (tmp_path / "flights" / "v3").mkdir(parents=True)
            log.put(answered("again"))
            wait_for(lambda: log.written == 1)
        assert read(tmp_path)["id"].to_pylist() == ["again"]

    def test_readers_never_see_a_half_written_file(self, tmp_path: Path) -> None:
        with opened(tmp_path, flush_rows=3) as log:
            for number in range(60):
                log.put(answered(str(number)))
                for path in (tmp_path / "flights" / "v3").glob("*.parquet"):
                    if not path.name.startswith("."):
                        pq.read_table(path)
                time.sleep(0.001)


def wait_for(condition: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
