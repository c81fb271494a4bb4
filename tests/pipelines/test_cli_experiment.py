"""`headway experiment` and `headway outcomes`: what they print, and with which exit code they end."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from headway.components.settings import Settings
from headway.pipelines.cli import app
from headway.serving.experiment.experiment import Experiments

CREATE = ("create", "checkout", "--variant", "v1=0.5", "--variant", "v2=0.5", "--metric", "purchase")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def experiment(*arguments: str) -> Result:
    return run("experiment", *arguments)


def printed(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def running(home: Path) -> None:
    result = experiment(*CREATE, "--metric", "revenue:numeric", "--start", "--actor", "ann")
    assert result.exit_code == 0, result.output


class TestCreating:
    def test_nothing_yet(self, home: Path) -> None:
        assert experiment("list").output.strip() == "There is no experiment."
        assert printed("experiment", "list") == []

    def test_from_options(self, home: Path) -> None:
        made = printed("experiment", *CREATE, "--metric", "latency:numeric:lower")
        assert (made["name"], made["state"], made["variants"]) == ("checkout", "draft", {"v1": 0.5, "v2": 0.5})
        metrics = Experiments(Settings(home=home / "home")).get("checkout").spec.metrics
        assert [(metric.name, metric.kind, metric.higher_is_better) for metric in metrics] == [
            ("purchase", "conversion", True),
            ("latency", "numeric", False),
        ]

    def test_from_a_file_with_options_over_it(self, home: Path) -> None:
        file = home / "experiment.yaml"
        file.write_text("name: a\nvariants: [v1, v2, v3]\nmetrics: [{name: purchase}]\nmin_users: 50\n")
        made = printed("experiment", "create", "b", "--file", str(file), "--start")
        assert (made["name"], made["state"], list(made["variants"])) == ("b", "running", ["v1", "v2", "v3"])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("create", "x"), "variants is missing"),
            (("create", "x", "--variant", "v1=50", "--variant", "v2=50", "--metric", "m"), "fractions, not percents"),
            (("create", "x", "--variant", "v1=half", "--variant", "v2=0.5", "--metric", "m"), "is not NAME=SHARE"),
            (("create", "x", "--variant", "v1=0.5", "--variant", "v1=0.5", "--metric", "m"), "stands twice"),
            (("create", "x", "--variant", "v1", "--variant", "v2", "--metric", "m:number"), "NAME[:numeric][:lower]"),
            (("create", "--file", "none.yaml"), "none.yaml: no such file"),
            (("show", "x"), "Unknown experiment 'x'"),
        ],
    )
    def test_a_wrong_call(self, home: Path, arguments: tuple[str, ...], message: str) -> None:
        result = experiment(*arguments)
        assert result.exit_code == 2
        assert message in result.output.replace("\n", " ")

    def test_a_name_is_taken_once(self, home: Path) -> None:
        assert experiment(*CREATE).exit_code == 0
        result = experiment(*CREATE)
        assert result.exit_code == 1
        assert "There is an experiment 'checkout' already" in result.output


class TestMoving:
    def test_from_start_to_end(self, home: Path) -> None:
        experiment(*CREATE)
        for move, state in (
            ("start", "running"),
            ("pause", "paused"),
            ("resume", "running"),
            ("complete", "completed"),
        ):
            assert experiment(move, "checkout").output.strip() == f"checkout is {state}"
        result = experiment("stop", "checkout", "--reason", "late")
        assert result.exit_code == 1
        assert "is completed: it cannot stop" in result.output

    def test_a_stop_needs_a_reason(self, running: None) -> None:
        assert experiment("stop", "checkout").exit_code == 2
        assert printed("experiment", "stop", "checkout", "--reason", "broken")["reason"] == "broken"

    def test_moves_are_in_the_ledger(self, running: None) -> None:
        rows = printed("ledger", "show")
        assert [(row["kind"], row["actor"]) for row in rows] == [
            ("experiment_created", "ann"),
            ("experiment_started", "ann"),
        ]


class TestWatching:
    def test_users_and_outcomes(self, running: None) -> None:
        seen = printed("experiment", "assign", "checkout", *(f"u{number}" for number in range(40)))
        assert set(seen.values()) == {"v1", "v2"}
        user = "u1"
        assert printed("experiment", "record", "checkout", user)["new"] == 1
        assert experiment("record", "checkout", user).output.strip() == "recorded: same"
        assert experiment("record", "checkout", user, "12.5", "--event", "o1").output.strip() == "recorded: new"
        found = printed("experiment", "show", "checkout")
        assert sum(found["results"]["split"]["users"].values()) == 40
        output = experiment("show", "checkout").output
        assert "checkout is running. Undecided: fewer than 100 users of v1, v2." in output
        assert "purchase" in experiment("list").output

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (("--variant", "v3"), 1, "no variant 'v3'"),
            (("--metric", "purchas"), 1, "did you mean 'purchase'"),
            (("nan",), 1, "the value is nan"),
            (("--time", "soon"), 2, "is not a time"),
        ],
    )
    def test_what_cannot_be_recorded(self, running: None, arguments: tuple[str, ...], code: int, message: str) -> None:
        result = experiment("record", "checkout", "ann", *arguments)
        assert result.exit_code == code
        assert message in result.output.replace("\n", " ")

    def test_a_wrong_split_is_for_a_person(self, running: None, home: Path) -> None:
        experiments = Experiments(Settings(home=home / "home"))
        only = {f"u{number}": "v1" for number in range(60)}
        experiments.store.expose("checkout", only, experiments.now())
        result = experiment("show", "checkout")
        assert result.exit_code == 3
        assert "not split as asked" in result.output

    def test_a_report(self, running: None, home: Path) -> None:
        path = home / "report.html"
        found = printed("experiment", "report", "checkout", "--out", str(path))
        assert found == {"path": str(path), "headline": "No data: nobody has seen a variant yet.", "winner": None}
        assert "nobody has seen a variant yet" in path.read_text(encoding="utf-8")


class TestOutcomes:
    def test_labels_of_an_endpoint(self, home: Path) -> None:
        assert run("outcomes", "show").output.strip() == "No outcome is recorded."
        file = home / "labels.csv"
        file.write_text("prediction,value\np1,AA\np2,B6\n")
        assert run("outcomes", "import", "flights", str(file), "--metric", "label").output.strip() == "2 new outcomes"
        again = printed("outcomes", "import", "flights", str(file), "--metric", "label")
        assert again == {"scope": "flights", "new": 0, "same": 2, "corrected": 0, "outdated": 0}
        (row,) = printed("outcomes", "show", "flights")
        assert (row["metric"], row["unit"], row["outcomes"]) == ("label", "prediction", 2)
        assert "label" in run("outcomes", "show").output

    def test_outcomes_of_an_experiment_are_checked_against_it(self, running: None, home: Path) -> None:
        file = home / "outcomes.csv"
        file.write_text("user,metric,value\nann,purchase,1\nbob,purchas,1\n")
        result = run("outcomes", "import", "experiment/checkout", str(file))
        assert result.exit_code == 1
        assert "no metric 'purchas'" in result.output
        file.write_text("user,metric,value\nann,purchase,1\nbob,revenue,3.5\n")
        assert printed("outcomes", "import", "experiment/checkout", str(file))["new"] == 2

    def test_what_is_wrong(self, home: Path) -> None:
        assert run("outcomes", "import", "flights", str(home / "none.csv")).exit_code == 1
        assert run("outcomes", "import", "experiment/none", str(home / "none.csv")).exit_code == 2
        file = home / "outcomes.csv"
        file.write_text("id,value\np1,1\n")
        assert run("outcomes", "import", "a b", str(file), "--metric", "label").exit_code == 2
