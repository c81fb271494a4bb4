"""Files of outcomes: what is read, and what is said of a file that is wrong."""

import decimal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headway.components.errors import ExperimentError, HeadwayError, SourceError, UnknownNameError
from headway.serving.experiment.outcome import Outcome
from headway.serving.experiment.outcome_file import read_outcomes

TEN = datetime(2026, 11, 25, 10, tzinfo=UTC)


def csv(tmp_path: Path, text: str, name: str = "outcomes.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_labels_of_predictions(tmp_path: Path) -> None:
    path = csv(tmp_path, "id,value,time\np1,AA,2026-11-25T10:00:00Z\np2,true,2026-11-25 11:00:00+01:00\np3,007,\n")
    assert list(read_outcomes(path, metric="label")) == [
        Outcome(metric="label", value="AA", prediction="p1", time=TEN),
        Outcome(metric="label", value=True, prediction="p2", time=TEN),
        Outcome(metric="label", value="007", prediction="p3"),
    ]


def test_several_metrics_of_users(tmp_path: Path) -> None:
    path = csv(tmp_path, "user,metric,value,event,time\nann,revenue,12.5,o1,2026-11-25 10:00:00\nbob,purchase,1,,\n")
    assert list(read_outcomes(path)) == [
        Outcome(metric="revenue", value=12.5, user="ann", event="o1", time=TEN),
        Outcome(metric="purchase", value=1, user="bob"),
    ]


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.parquet"
    columns: dict[str, Any] = {
        "prediction_id": ["p1", "p2"],
        "value": pa.array([decimal.Decimal("1.50"), decimal.Decimal("2.00")]),
        "time": pa.array([TEN, None], pa.timestamp("us", tz="UTC")),
    }
    pq.write_table(pa.table(columns), path)
    assert [(found.value, found.time) for found in read_outcomes(path, metric="delay")] == [(1.5, TEN), (2.0, None)]
    pq.write_table(pa.table({"id": [7, 8], "value": [True, False]}), path)
    assert [(found.prediction, found.value) for found in read_outcomes(path, metric="label")] == [
        ("7", True),
        ("8", False),
    ]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("id,value\np1,\n", ExperimentError, "row 1: has no value"),
        ("id,value,time\np1,1,yesterday\n", ExperimentError, "row 1: the time cannot be read"),
        ("id,valu\np1,1\n", UnknownNameError, "did you mean 'value'"),
        ("value\n1\n", SourceError, "has no column prediction or user"),
        ("id\np1\n", SourceError, "has no column value"),
        ("id,prediction,value\np1,p1,1\n", UnknownNameError, "prediction"),
        ("", HeadwayError, "outcomes.csv"),
    ],
)
def test_what_is_wrong(tmp_path: Path, text: str, error: type[HeadwayError], message: str) -> None:
    with pytest.raises(error, match=message):
        list(read_outcomes(csv(tmp_path, text), metric="label"))


def test_a_metric_must_come_from_somewhere(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has no column metric"):
        list(read_outcomes(csv(tmp_path, "id,value\np1,1\n")))


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        list(read_outcomes(tmp_path / "none.csv"))
    with pytest.raises(SourceError, match="unknown kind of file"):
        list(read_outcomes(csv(tmp_path, "", "outcomes.xlsx")))
    with pytest.raises(SourceError, match=r"bad\.parquet"):
        list(read_outcomes(csv(tmp_path, "no parquet", "bad.parquet")))
