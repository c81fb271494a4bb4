"""The worked example: its compiled pipeline, its contract, and what the leakage checks say of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headway.components.ingest.leakage import suspicious_features
from headway.components.ingest.sources import read_table, stage
from headway.pipelines.compile import compile_text, load_spec
from headway.pipelines.lint import lint_source, lint_spec
from headway.pipelines.project import Project, resolve

COMPONENTS = sorted((Path(__file__).resolve().parents[2] / "components").glob("*/component.py"))
LATE_KNOWLEDGE = ["departure_delay", "departure_time", "arrival_time", "arrival_delay", "air_time"]


@pytest.fixture(scope="module")
def flights() -> Project:
    return resolve("flights")


@pytest.fixture(scope="module")
def table(flights: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flights")
    return stage(flights.spec.source, flights.contract, base=flights.folder, workspace=folder).path


def compiled(project: Project) -> str:
    return compile_text(project.pipeline(), name=project.pipeline_name, parameters=project.arguments())


class TestTheCompiledPipeline:
    def test_is_the_one_that_is_checked_in(self, flights: Project) -> None:
        spec, platform = load_spec(compiled(flights))
        golden, golden_platform = load_spec(flights.compiled)
        spec.pop("sdkVersion"), golden.pop("sdkVersion")
        assert spec == golden
        assert platform == golden_platform

    def test_recompiles_to_the_same_bytes_in_another_process(self, flights: Project) -> None:
        code = (
            "import sys; from headway.pipelines.project import compiled_with_arguments as c; "
            "sys.stdout.write(c('flights')[0])"
        )
        other = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": "7"}, capture_output=True, check=True
        )
        assert other.stdout.decode() == compiled(flights)

    def test_has_nothing_to_lint(self, flights: Project) -> None:
        assert lint_spec(flights.compiled) == []

    @pytest.mark.parametrize("path", COMPONENTS, ids=lambda path: path.parent.name)
    def test_is_made_of_components_that_have_nothing_to_lint(self, path: Path) -> None:
        assert lint_source(path) == []

    def test_gives_every_step_resources_and_only_registration_the_signing_key(self, flights: Project) -> None:
        spec, platform = load_spec(flights.compiled)
        executors = spec["deploymentSpec"]["executors"]
        assert all("resources" in executor["container"] for executor in executors.values())
        kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        assert [name for name, options in kubernetes.items() if "secretAsVolume" in options] == ["exec-register"]


class TestTheData:
    def test_every_flight_is_there_once(self, table: Path) -> None:
        assert read_table(table, None).shape == (336_776, 29)

    def test_nothing_known_only_afterwards_is_a_feature(self, flights: Project) -> None:
        assert flights.contract.known_after == LATE_KNOWLEDGE
        assert set(LATE_KNOWLEDGE).isdisjoint(flights.contract.features)

    def test_the_leakage_checks_catch_what_is_known_only_afterwards(self, flights: Project, table: Path) -> None:
        wanted = [*flights.contract.features, *LATE_KNOWLEDGE]
        found = suspicious_features(table, flights.contract, wanted)
        assert {finding.name for finding in found if finding.kind == "declared"} == set(LATE_KNOWLEDGE)
        strong = {finding.name: finding.level for finding in found if finding.kind == "strength"}
        assert strong == {"departure_delay": "warn", "arrival_delay": "block"}

    def test_nothing_that_is_a_feature_is_suspicious(self, flights: Project, table: Path) -> None:
        assert suspicious_features(table, flights.contract) == []
