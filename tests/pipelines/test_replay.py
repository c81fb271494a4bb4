"""Rows as requests."""

import json
from pathlib import Path

import pandas as pd
import pytest

from headway.components.data_validate.contract import Contract
from headway.components.errors import UnknownNameError, UsageError
from headway.components.settings import Settings
from headway.pipelines.replay import Replayed, Rows, unseen_rows
from tests.pipelines.conftest import CONTRACT


@pytest.fixture
def contract() -> Contract:
    return Contract.parse(CONTRACT)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    frame = pd.DataFrame({"x": [1.5, 2.5, 99.0], "group": ["a", "b", "c"], "y": [True, False, True], "who": [7, 8, 9]})
    frame.to_csv(path, index=False)
    return path


def test_rows_become_requests_with_users_and_labels(data: Path, contract: Contract) -> None:
    rows = Rows(data, contract, users=["who", "group"])
    made = [(row.body, row.user, row.label) for row in rows]
    assert made == [({"x": 1.5, "group": "a"}, "7-a", True), ({"x": 2.5, "group": "b"}, "8-b", False)]
    assert rows.left_out == 1


def test_rows_start_again_where_they_shall(data: Path, contract: Contract) -> None:
    again = Rows(data, contract).forever()
    assert [next(again).body["x"] for _ in range(5)] == [1.5, 2.5, 1.5, 2.5, 1.5]


def test_a_parquet_file_needs_no_suffix(data: Path, contract: Contract, tmp_path: Path) -> None:
    bare = tmp_path / "valid_holdout"
    pd.read_csv(data).to_parquet(bare)
    assert len(list(Rows(bare, contract))) == 2


def test_an_unknown_column_is_named_with_the_near_ones(data: Path, contract: Contract) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'who'"):
        Rows(data, contract, users=["whoo"])


def test_the_newest_runs_unseen_rows_are_found(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    with pytest.raises(UsageError, match="headway run toy"):
        unseen_rows(settings, "toy")
    for number, rows in ((1, 3), (2, 0)):
        folder = tmp_path / "home" / "runs" / f"toy-training-{number}"
        folder.mkdir(parents=True)
        outputs = {}
        for part, count in (("valid_holdout", rows), ("valid_validation", 5)):
            outputs[part] = str(folder / part)
            pd.DataFrame({"x": [0.5] * count}).to_parquet(folder / part)
        told = {"steps": [{"name": "data-validate", "outputs": outputs}]}
        (folder / "run.json").write_text(json.dumps(told))
    assert unseen_rows(settings, "toy").parent.name == "toy-training-2"
    assert unseen_rows(settings, "toy").name == "valid_validation"


def test_quantiles_of_the_latency() -> None:
    found = Replayed("toy", latencies_ms=[float(value) for value in range(1, 101)])
    assert (found.quantile_ms(0.5), found.quantile_ms(0.99), Replayed("toy").quantile_ms(0.5)) == (50.0, 99.0, 0.0)
