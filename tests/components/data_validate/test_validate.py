"""The step: three parts checked as one, everything written before it stops."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headway.components.data_validate.contract import Contract
from headway.components.data_validate.profile import Profile, profile_table
from headway.components.data_validate.validate import ValidationResult, validate
from headway.components.errors import ContractViolation, UsageError

PARTS = ("train", "validation", "holdout")


def contract(level: str = "quarantine") -> Contract:
    miles = {"type": "number", "range": {"min": 0, "level": level}}
    return Contract.parse({"name": "trips", "columns": {"id": {"type": "integer"}, "miles": miles}, "key": "id"})


def step(tmp_path: Path, declared: Contract, **tables: dict[str, Any]) -> ValidationResult:
    parts = {}
    for name in PARTS:
        parts[name] = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table(tables.get(name, {"id": pa.array([], pa.int64()), "miles": []})), parts[name])
    return validate(
        declared,
        parts,
        clean={name: tmp_path / "valid" / f"{name}.parquet" for name in PARTS},
        quarantine=tmp_path / "quarantine.parquet",
        profile=tmp_path / "profile.json",
        report=tmp_path / "report.html",
    )


class TestGoodData:
    def test_everything_is_written_and_nothing_copied(self, tmp_path: Path) -> None:
        result = step(tmp_path, contract(), train={"id": [1, 2], "miles": [1.0, 2.5]})
        result.raise_if_blocked()
        assert result.report.verdict == "pass"
        assert (tmp_path / "valid" / "train.parquet").samefile(tmp_path / "train.parquet")
        assert pq.read_metadata(tmp_path / "valid" / "holdout.parquet").num_rows == 0
        assert pq.read_metadata(tmp_path / "quarantine.parquet").num_rows == 0
        assert Profile.from_json((tmp_path / "profile.json").read_text()) == result.profile
        assert result.metrics["rules_broken"] == 0
        # An empty part comes without a useful type, and leaves with the contract's.
        assert [str(kind) for kind in pq.read_schema(tmp_path / "valid" / "holdout.parquet").types] == [
            "int64",
            "double",
        ]

    def test_narrow_types_are_widened(self, tmp_path: Path) -> None:
        narrow = {"id": pa.array([1], pa.int16()), "miles": pa.array([1.5], pa.float32())}
        result = step(tmp_path, contract(), train=narrow)
        assert result.report.parts["train"].changed
        clean = pq.ParquetFile(tmp_path / "valid" / "train.parquet")
        assert [str(kind) for kind in clean.schema_arrow.types] == ["int64", "double"]
        assert clean.metadata.row_group(0).column(0).compression == "ZSTD"


class TestBadData:
    def test_bad_rows_leave_and_the_profile_is_of_the_clean_train_part(self, tmp_path: Path) -> None:
        train, holdout = {"id": [1, 2], "miles": [1.0, -1.0]}, {"id": [3], "miles": [-2.0]}
        result = step(tmp_path, contract(), train=train, holdout=holdout)
        result.raise_if_blocked()
        assert result.report.findings[0].parts == {"train": 1, "holdout": 1}
        assert pq.read_table(tmp_path / "quarantine.parquet")["_part"].to_pylist() == ["train", "holdout"]
        assert result.profile == profile_table(contract(), tmp_path / "valid" / "train.parquet")
        assert result.profile.rows == 1
        assert result.metrics["quarantined_share"] == pytest.approx(2 / 3)

    def test_a_key_repeated_across_parts_blocks_after_all_is_written(self, tmp_path: Path) -> None:
        train, validation = {"id": [1, 2], "miles": [1.0, 1.0]}, {"id": [2, 2], "miles": [1.0, 1.0]}
        result = step(tmp_path, contract(), train=train, validation=validation)
        with pytest.raises(ContractViolation) as caught:
            result.raise_if_blocked()
        assert str(caught.value) == (
            "The data breaks 1 rule of contract 'trips':\n"
            "  key (id): key: 2 of 4 rows (50.0%) repeat an earlier row's (in validation); "
            "expected each value of id once; row 0 of validation has 2\n"
            "Expected: data that meets every rule of level block\n"
            f"Fix: read the report at {tmp_path / 'report.html'}, then correct the data or review the contract"
        )
        assert pq.read_metadata(tmp_path / "valid" / "validation.parquet").num_rows == 2
        assert "Blocked: 4 rows" in (tmp_path / "report.html").read_text()

    def test_a_column_that_is_missing_altogether(self, tmp_path: Path) -> None:
        result = step(tmp_path, contract(), train={"id": [1]}, validation={"id": [2], "miles": [1.0]})
        with pytest.raises(ContractViolation, match="miles: column: the column is missing \\(in train\\)"):
            result.raise_if_blocked()
        assert pq.read_table(tmp_path / "valid" / "train.parquet").to_pylist() == [{"id": 1, "miles": None}]

    def test_no_train_part(self, tmp_path: Path) -> None:
        path = tmp_path / "x"
        with pytest.raises(UsageError, match="No part 'train' among test"):
            validate(contract(), {"test": path}, clean={}, quarantine=path, profile=path, report=path)
