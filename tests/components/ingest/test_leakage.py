"""Leakage: what is caught, what is let pass, and what the messages say."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headway.components.data_validate.contract import Contract
from headway.components.errors import LeakageError, UnknownNameError
from headway.components.ingest.leakage import (
    Finding,
    LeakageSettings,
    declared_findings,
    feature_strength,
    raise_for,
    strength_findings,
    suspicious_features,
)

ROWS = 4_000
RNG = np.random.default_rng(3)
DELAY = RNG.normal(0, 30, ROWS)
LATE = DELAY >= 15


def column(values: Any) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values)])


def contract(target: str, **columns: str) -> Contract:
    kinds = {name: {"type": kind} for name, kind in columns.items()}
    return Contract.parse({"name": "c", "target": target, "columns": kinds})


class TestStrength:
    @pytest.mark.parametrize(
        ("feature", "low", "high"),
        [
            (DELAY, 0.999, 1.0),
            (DELAY + RNG.normal(0, 20, ROWS), 0.85, 0.97),
            (RNG.normal(size=ROWS), 0.4, 0.6),
            (np.where(LATE, np.nan, 1.0), 0.999, 1.0),  # only whether it is missing tells
            (np.where(LATE, "arrived late", "arrived"), 0.999, 1.0),
            (LATE, 0.999, 1.0),
            ([f"id-{i}" for i in range(ROWS)], 0.5, 0.5),
            (np.arange(ROWS), 0.4, 0.6),
            ([f"tail {i}" for i in RNG.integers(0, 800, ROWS)], 0.4, 0.6),
            (np.zeros(ROWS), 0.5, 0.5),
        ],
    )
    def test_classes(self, feature: Any, low: float, high: float) -> None:
        strength = feature_strength(column(feature), column(LATE))
        assert strength is not None
        assert strength.metric == "AUC"
        assert low <= strength.value <= high
        assert strength.low <= strength.value

    @pytest.mark.parametrize(
        ("feature", "low", "high"),
        [
            (DELAY * 60 + 7, 0.999, 1.0),
            (np.abs(DELAY), -0.2, 0.6),
            (RNG.normal(size=ROWS), -0.2, 0.1),
            ([f"id-{i}" for i in range(ROWS)], -0.1, 0.1),
            ([str(round(value)) for value in DELAY / 10], 0.9, 1.0),
        ],
    )
    def test_quantities(self, feature: Any, low: float, high: float) -> None:
        strength = feature_strength(column(feature), column(DELAY))
        assert strength is not None
        assert strength.metric == "R²"
        assert low <= strength.value <= high

    def test_a_copy_of_a_target_with_long_tails(self) -> None:
        price = np.exp(RNG.normal(0, 2, ROWS))
        strength = feature_strength(column(price * 1.19), column(price))
        assert strength is not None
        assert strength.low > 0.999

    def test_several_classes_count_by_the_worst(self) -> None:
        kind = RNG.integers(0, 3, ROWS)
        full = feature_strength(column(kind), column([f"k{i}" for i in kind]))
        partial = feature_strength(column(kind == 0), column([f"k{i}" for i in kind]))
        assert full is not None
        assert full.value == 1.0
        assert partial is not None
        assert partial.value < 0.8

    def test_times(self) -> None:
        times = pa.chunked_array([pa.array((DELAY * 60e6).astype("int64")).cast(pa.timestamp("us"))])
        strength = feature_strength(times, column(LATE))
        assert strength is not None
        assert strength.value > 0.99

    def test_too_few_rows_say_nothing(self) -> None:
        assert feature_strength(column([1.0] * 8 + [2.0] * 8), column([True] * 8 + [False] * 8)) is None
        assert feature_strength(column([1.0] * 100), column([True] * 100)) is None
        assert feature_strength(column(list(range(8))), column([0.5 * i for i in range(8)])) is None

    def test_small_tables_are_given_the_benefit_of_the_doubt(self, tmp_path: Path) -> None:
        """One measurement of the iris tells the species apart almost, and is no leak."""
        from sklearn.datasets import load_iris

        iris = load_iris()
        names = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
        table = pa.table(
            {**dict(zip(names, iris.data.T, strict=True)), "species": [str(label) for label in iris.target]}
        )
        pq.write_table(table, tmp_path / "iris.parquet")
        found = strength_findings(
            tmp_path / "iris.parquet",
            contract("species", **dict.fromkeys(names, "number"), species="string"),
            names,
            LeakageSettings(),
        )
        assert [finding for finding in found if finding.level == "block"] == []


class TestFindings:
    @pytest.fixture
    def train(self, tmp_path: Path) -> Path:
        noisy = DELAY + np.random.default_rng(5).normal(0, 14, ROWS)
        table = pa.table({"delay": DELAY, "noisy": noisy, "distance": RNG.normal(size=ROWS), "late": LATE})
        pq.write_table(table, tmp_path / "train.parquet", row_group_size=700)
        return tmp_path / "train.parquet"

    flights = contract("late", delay="number", noisy="number", distance="number", late="boolean")

    def test_two_levels(self, train: Path) -> None:
        found = suspicious_features(train, self.flights)
        assert [(finding.name, finding.kind, finding.level) for finding in found] == [
            ("delay", "strength", "block"),
            ("noisy", "strength", "warn"),
        ]
        assert found[0].value == 1.0
        assert found[0].threshold == 0.98
        assert found[1].threshold == 0.85
        assert "'delay' alone predicts 'late' with AUC 1.000 (at least 1.000; blocks from 0.98)" in found[0].message

    def test_settings(self, train: Path) -> None:
        only_warn = suspicious_features(train, self.flights, settings=LeakageSettings(strength="warn"))
        assert [finding.level for finding in only_warn] == ["warn", "warn"]
        assert suspicious_features(train, self.flights, settings=LeakageSettings(strength="off")) == []
        strict = suspicious_features(train, self.flights, settings=LeakageSettings(warn=0.7, block=0.8))
        assert [finding.level for finding in strict] == ["block", "block"]
        assert suspicious_features(train, self.flights, settings=LeakageSettings(sample=500))[0].name == "delay"

    def test_declared(self) -> None:
        document = {
            "name": "flights",
            "target": "late",
            "columns": {
                "distance": {"type": "number"},
                "air_time": {"type": "number", "known": "outcome"},
                "late": {"type": "boolean"},
            },
        }
        flights = Contract.parse(document)
        assert declared_findings(flights, list(flights.features)) == []
        found = declared_findings(flights, ["distance", "air_time", "late"])
        assert [finding.name for finding in found] == ["air_time", "late"]
        assert "'air_time' is known only with the outcome, as contract 'flights' declares" in found[0].message
        assert "'late' is the target itself" in found[1].message
        with pytest.raises(UnknownNameError, match=r"Unknown column 'air_tme' - did you mean 'air_time'"):
            declared_findings(flights, ["air_tme"])

    def test_all_findings_are_named_at_once(self) -> None:
        findings = [
            Finding("a", "strength", "block", 1.0, 0.98, "a is strong"),
            Finding("b", "strength", "warn", 0.9, 0.85, "b is odd"),
            Finding("k", "overlap", "block", 3.0, 1.0, "k overlaps"),
        ]
        with pytest.raises(LeakageError, match="Leakage in a, k") as caught:
            raise_for(findings)
        assert "- a is strong\n- k overlaps\n- (a warning) b is odd" in str(caught.value)
        raise_for([findings[1]])


class TestInIngest:
    def people(self, tmp_path: Path, **extra: Any) -> dict[str, Any]:
        columns = {"person": [i // 2 for i in range(200)], "t": list(range(200)), "x": RNG.normal(size=200), **extra}
        pq.write_table(pa.table(columns), tmp_path / "people.parquet")
        return {"uri": "people.parquet"}

    def keyed(self, key: Any) -> Contract:
        kinds = {"person": "integer", "t": "integer", "x": "number"}
        return Contract.parse({"name": "c", "key": key, "columns": {n: {"type": k} for n, k in kinds.items()}})

    def test_a_key_on_both_sides_blocks_and_leaves_nothing_behind(self, tmp_path: Path, run: Any) -> None:
        source = self.people(tmp_path, t=[int(i % 7 == 0) for i in range(200)])
        split = {"method": "stratified", "column": "t"}
        with pytest.raises(LeakageError, match=r"\d+ values of the key \(person\) lie in more than one part"):
            run(source, split, self.keyed("person"))
        assert list((tmp_path / "out").iterdir()) == []
        warned = run(source, split | {"leakage": {"overlap": "warn"}}, self.keyed("person"))
        assert [(finding.kind, finding.level) for finding in warned.findings] == [("overlap", "warn")]
        assert run(source, split | {"leakage": {"overlap": "off"}}, self.keyed("person")).findings == ()

    def test_random_and_group_splits_keep_a_key_together(self, tmp_path: Path, run: Any) -> None:
        source = self.people(tmp_path)
        assert run(source, {}, self.keyed("person")).findings == ()
        assert run(source, {"method": "group", "column": "person"}, self.keyed(["person", "t"])).findings == ()

    def test_equal_rows_without_a_key_are_a_warning(self, tmp_path: Path, run: Any) -> None:
        pq.write_table(pa.table({"a": [i % 5 for i in range(100)]}), tmp_path / "a.parquet")
        result = run({"uri": "a.parquet"}, {"validation": 0.5})
        assert [(finding.name, finding.level, finding.value) for finding in result.findings] == [
            ("features", "warn", 5.0)
        ]

    def test_a_strong_feature_blocks(self, tmp_path: Path, run: Any) -> None:
        table = pa.table({"id": list(range(ROWS)), "delay": DELAY, "late": LATE})
        pq.write_table(table, tmp_path / "f.parquet")
        flights = contract("late", id="integer", delay="number", late="boolean")
        with pytest.raises(LeakageError, match="Leakage in delay"):
            run({"uri": "f.parquet"}, {}, flights)
        assert run({"uri": "f.parquet"}, {"leakage": {"strength": "warn"}}, flights).findings[0].name == "delay"
