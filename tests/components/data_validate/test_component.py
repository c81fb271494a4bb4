"""The KFP face, called on artifacts made by hand."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kfp import dsl

from headway.components.data_validate.component import data_validate
from headway.components.data_validate.profile import Profile
from headway.components.errors import ConfigError, ContractViolation
from headway.components.ingest.digest import file_digest

CONTRACT = """
name: trips
columns:
  miles: {type: number, range: {min: 0, level: LEVEL}}
"""
OUTPUTS = ("valid_train", "valid_validation", "valid_holdout", "quarantine")


def artifacts(tmp_path: Path, miles: list[float]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, values in {"train": miles, "validation": [1.0], "holdout": []}.items():
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"miles": pa.array(values, pa.float64())}), path)
        made[name] = dsl.Dataset(uri=str(path), metadata={"digest": f"digest of {name}"})
    made |= {name: dsl.Dataset(uri=str(tmp_path / "out" / f"{name}.parquet")) for name in OUTPUTS}
    made["profile"] = dsl.Artifact(uri=str(tmp_path / "out" / "profile.json"))
    made["metrics"] = dsl.Metrics(uri=str(tmp_path / "out" / "metrics.json"))
    made["summary"] = dsl.Markdown(uri=str(tmp_path / "out" / "summary.md"))
    made["report"] = dsl.HTML(uri=str(tmp_path / "out" / "report.html"))
    return made


def test_a_part_that_passes_keeps_its_digest_and_a_changed_one_gets_its_own(tmp_path: Path) -> None:
    made = artifacts(tmp_path, [1.0, -2.0, 3.0])
    data_validate.python_func(contract=CONTRACT.replace("LEVEL", "quarantine"), **made)
    assert made["valid_validation"].metadata == {"rows": 1, "columns": 1, "digest": "digest of validation"}
    assert made["valid_holdout"].metadata["rows"] == 0
    digest = file_digest(made["valid_train"].path).hex
    assert made["valid_train"].metadata == {"rows": 2, "columns": 1, "digest": digest}
    assert made["quarantine"].metadata["rows"] == 1
    assert made["metrics"].metadata["quarantined_rows"] == 1
    assert Profile.from_json(Path(made["profile"].path).read_text()).rows == 2
    summary = Path(made["summary"].path).read_text()
    assert summary.startswith("## Passed with 1 of 4 rows of 'trips' quarantined, because of range of miles\n")
    assert "| quarantine | miles | range | 1 | 25.00% | at least 0 |" in summary
    assert Path(made["report"].path).read_text().startswith("<!doctype html>")


def test_a_blocking_finding_stops_the_step_with_its_outputs_in_place(tmp_path: Path) -> None:
    made = artifacts(tmp_path, [1.0, -2.0])
    with pytest.raises(ContractViolation, match="miles: range: 1 of 3 rows"):
        data_validate.python_func(contract=CONTRACT.replace("LEVEL", "block"), **made)
    assert made["valid_train"].metadata["rows"] == 2
    assert all(Path(made[name].path).is_file() for name in (*OUTPUTS, "profile", "metrics", "summary", "report"))


def test_a_contract_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="contract: columns"):
        data_validate.python_func(contract="name: x", **artifacts(tmp_path, [1.0]))
