"""`headway new` on tables that differ, and `headway run` on what it wrote."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from headway.components.data_validate.contract import Contract
from headway.components.errors import UsageError
from headway.pipelines.cli import app
from headway.pipelines.new import new_project
from headway.pipelines.run import run

ROWS = 400


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HEADWAY_HOME", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def regression(random: np.random.Generator) -> pd.DataFrame:
    area = random.uniform(20, 200, ROWS)
    rooms = random.integers(1, 8, ROWS)
    return pd.DataFrame(
        {"area": area, "rooms": rooms, "price": area * 3000 + rooms * 9000 + random.normal(0, 9000, ROWS)}
    )


def multiclass(random: np.random.Generator) -> pd.DataFrame:
    kind = random.choice(["setosa", "versicolor", "virginica"], ROWS)
    shift = {"setosa": 0.0, "versicolor": 2.0, "virginica": 4.0}
    return pd.DataFrame(
        {"length": [shift[k] + random.normal() for k in kind], "width": random.normal(size=ROWS), "kind": kind}
    )


def dates(random: np.random.Generator) -> pd.DataFrame:
    when = pd.date_range("2024-01-01", periods=ROWS, freq="7h")
    load = 50 + 20 * np.sin(when.hour / 24 * 2 * np.pi) + random.normal(0, 2, ROWS)
    return pd.DataFrame({"when": when, "temperature": random.normal(10, 5, ROWS), "load": load})


def texts(random: np.random.Generator) -> pd.DataFrame:
    city = [f"city {random.integers(0, 150)}" for _ in range(ROWS)]
    score = np.array([int(name.split()[1]) for name in city]) / 150
    return pd.DataFrame(
        {
            "city": city,
            "note": [f"note {i} {random.random()}" for i in range(ROWS)],
            "bought": np.where(random.random(ROWS) < score, "yes", "no"),
        }
    )


def missing(random: np.random.Generator) -> pd.DataFrame:
    table = pd.DataFrame({name: random.normal(size=ROWS) for name in "abcd"})
    target = table["a"] + table["b"] > 0
    return table.mask(random.random((ROWS, 4)) < 0.4).assign(empty=np.nan, label=target.astype(int))


def boolean(random: np.random.Generator) -> pd.DataFrame:
    age = random.integers(18, 90, ROWS)
    return pd.DataFrame({"age": age, "member": random.random(ROWS) < 0.5, "churned": random.random(ROWS) < age / 100})


def odd_names(random: np.random.Generator) -> pd.DataFrame:
    height = random.normal(175, 10, ROWS)
    return pd.DataFrame(
        {
            "größe in cm": height,
            'the "quoted" one': random.normal(size=ROWS),
            "select": random.choice(["ja", "nein"], ROWS),
            "größer als 175?": height > 175 + random.normal(0, 3, ROWS),
        }
    )


TABLES = {
    "regression": (regression, "price", None, "regression"),
    "multiclass": (multiclass, "kind", None, "multiclass"),
    "dates": (dates, "load", "when", "regression"),
    "texts": (texts, "bought", None, "binary"),
    "missing": (missing, "label", None, "binary"),
    "boolean": (boolean, "churned", None, "binary"),
    "odd-names": (odd_names, "größer als 175?", None, "binary"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_a_new_project_runs_from_the_file_to_the_registry(name: str) -> None:
    make, target, time, task = TABLES[name]
    data = Path(f"{name}.csv")
    make(np.random.default_rng(7)).to_csv(data, index=False)
    options = ["--time", time] if time else []
    told = CliRunner().invoke(app, ["new", name, "--data", str(data), "--target", target, *options])
    assert told.exit_code == 0, told.output
    assert f"predicts {target} ({task})" in " ".join(told.output.split())
    assert Contract.load(Path(name) / "contract.yaml").target == target
    quick = ["training.parameters.max_iter=20", "evaluation.bootstrap.resamples=100"]
    result = run(name, set=quick).raise_if_failed()
    assert result.decision == "promote", [step.error for step in result.steps]
    assert result.version == "1"


def test_a_parquet_file_with_dates_in_its_own_type() -> None:
    dates(np.random.default_rng(0)).to_parquet("load.parquet")
    project = new_project("load", data=Path("load.parquet"), target="load", time="when")
    assert (project.task, project.rows) == ("regression", ROWS)
    assert Contract.load(project.folder / "contract.yaml").time == "when"


def test_nothing_is_left_behind_when_it_fails(tmp_path: Path) -> None:
    boolean(np.random.default_rng(0)).to_csv("data.csv", index=False)
    dates(np.random.default_rng(0)).to_parquet("load.parquet")
    with pytest.raises(UsageError, match="timestamp"):
        new_project("load", data=Path("load.parquet"), target="when")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.csv", "load.parquet"]


def test_a_data_file_in_another_folder_is_found_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    boolean(np.random.default_rng(0)).to_csv("far/data.csv", index=False)
    (tmp_path / "projects").mkdir()
    project = new_project("churn", data=Path("far/data.csv"), target="churned", parent=Path("projects"))
    assert f'uri: "{tmp_path}/far/data.csv"' in (project.folder / "model.yaml").read_text()
