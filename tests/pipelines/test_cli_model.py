"""`headway model`: what it prints, and with which exit code it ends."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from headway.components.bundle import bundle_digest
from headway.components.register.registry import Registry
from headway.components.settings import Settings
from headway.pipelines.cli import app

BundleMaker = Callable[..., Path]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["model", *arguments])


def printed(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def registry(installation: Settings, make_bundle: BundleMaker) -> Registry:
    """Two versions of flights; the first is champion."""
    registry = Registry(installation)
    for seed in range(2):
        verdict = {"decision": "promote", "bundle_digest": bundle_digest(make_bundle(seed))}
        registry.register("flights", make_bundle(seed), verdict=verdict, actor="ann")
    return registry


class TestLooking:
    def test_nothing_yet(self, installation: Settings) -> None:
        assert run("list").output.strip() == "No model is registered."
        assert printed("list") == []

    def test_all_models(self, registry: Registry) -> None:
        assert printed("list") == [
            {"name": "flights", "versions": 2, "champion": "1", "challenger": "2", "previous": ""}
        ]
        assert "flights" in run("list").output

    def test_all_versions(self, registry: Registry) -> None:
        rows = printed("show", "flights")
        assert [(row["version"], row["semver"], row["aliases"]) for row in rows] == [
            (1, "1.0.0", ["champion"]),
            (2, "1.0.1", ["challenger"]),
        ]
        assert "1.0.1" in run("show", "flights").output

    def test_one_version_with_its_card(self, registry: Registry) -> None:
        assert printed("show", "flights", "challenger")["card"].startswith("# flights 1.0.1")
        output = run("show", "flights", "1.0.0").output
        assert "Version 1 (champion)" in output
        assert "logistic_regression" in output

    def test_an_unknown_one(self, registry: Registry) -> None:
        result = run("show", "flight")
        assert result.exit_code == 2
        assert "Unknown model 'flight' - did you mean 'flights'?" in result.stderr


class TestMoving:
    def test_promote_and_roll_back(self, registry: Registry) -> None:
        result = run("promote", "flights", "2", "--expect", "1", "--reason", "better", "--actor", "ben")
        assert (result.exit_code, result.output) == (0, "flights 2 (1.0.1) is the champion.\n")
        row = registry.ledger.rows()[-1]
        assert (row.kind, row.actor, row.body["reason"]) == ("promoted", "ben", "better")
        assert printed("rollback", "flights", "--reason", "worse")["version"] == 1
        assert registry.ledger.rows()[-1].actor

    def test_a_conflict(self, registry: Registry) -> None:
        result = run("promote", "flights", "2", "--expect", "none", "--reason", "better")
        assert result.exit_code == 1
        assert "the champion is version 1; nothing was changed" in result.stderr

    @pytest.mark.parametrize("arguments", [["--reason", "x"], ["--expect", "1"], ["--expect", "-1", "--reason", "x"]])
    def test_the_call_is_wrong(self, registry: Registry, arguments: list[str]) -> None:
        assert run("promote", "flights", "2", *arguments).exit_code == 2

    def test_nothing_to_go_back_to(self, registry: Registry) -> None:
        result = run("rollback", "flights", "--reason", "worse")
        assert result.exit_code == 1
        assert "no previous champion" in result.stderr


class TestUsing:
    def test_verify(self, registry: Registry) -> None:
        assert printed("verify", "flights")["signer"] == "embedded"
        assert run("verify", "flights").output.startswith("flights 1 (1.0.0) is trusted: signed by embedded")

    def test_verify_of_changed_files(self, registry: Registry) -> None:
        place = Path(registry.storage_uri(registry.champion("flights")).removeprefix("file://"))
        (place / "model.skops").write_bytes(b"")
        result = run("verify", "flights", "1")
        assert result.exit_code == 1
        assert "model.skops was changed" in result.stderr

    def test_download(self, registry: Registry, tmp_path: Path) -> None:
        found = printed("download", "flights", "2", str(tmp_path / "down"))
        assert bundle_digest(Path(found["path"])) == found["digest"]

    def test_predict(self, registry: Registry, tmp_path: Path) -> None:
        data = tmp_path / "rows.csv"
        data.write_text("distance,carrier\n100,UA\n4900,AA\n")
        rows = printed("predict", "flights@1", "--data", str(data))
        assert [row["prediction"] for row in rows] == [False, True]
        assert all(abs(sum(row["probabilities"]) - 1) < 1e-6 for row in rows)
        assert "prediction" in run("predict", "flights", "--data", str(data)).output

    def test_predict_without_a_column(self, registry: Registry, tmp_path: Path) -> None:
        data = tmp_path / "rows.csv"
        data.write_text("distance\n100\n")
        result = run("predict", "flights", "--data", str(data))
        assert result.exit_code == 1
        assert "Column 'carrier' is missing" in result.stderr
