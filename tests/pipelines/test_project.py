"""Finding a pipeline by what a person types, and reading its specification."""

from pathlib import Path

import pytest

from headway.components.errors import ConfigError, UnknownNameError
from headway.pipelines.project import resolve, shipped_projects

SPEC = """\
name: toy
source: {uri: data.csv}
training: {estimator: logistic_regression, seed: 3}
"""
CONTRACT = "{name: toy, target: y, columns: {x: {type: number}, y: {type: boolean}}}"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "model.yaml").write_text(SPEC)
    (folder / "contract.yaml").write_text(CONTRACT)
    monkeypatch.chdir(tmp_path)
    return folder


class TestResolve:
    def test_a_shipped_example_by_name(self) -> None:
        assert resolve("flights").name == "flights"
        assert "flights" in shipped_projects()

    @pytest.mark.parametrize("name", ["toy", "./toy", "toy/model.yaml"])
    def test_a_folder_or_its_model_yaml(self, toy: Path, name: str) -> None:
        project = resolve(name)
        assert project.folder == toy
        assert project.pipeline_name == "toy-training"

    def test_a_wrong_name_offers_shipped_and_local_ones(self, toy: Path) -> None:
        with pytest.raises(UnknownNameError, match=r"Unknown pipeline 'tey' - did you mean 'toy'\?"):
            resolve("tey")
        with pytest.raises(UnknownNameError, match="did you mean 'flights'"):
            resolve("fligths")

    def test_a_folder_without_a_specification(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"no model.yaml in this folder"):
            resolve(str(tmp_path))


class TestArguments:
    def test_sections_travel_as_texts_that_read_back_to_the_same(self, toy: Path) -> None:
        project = resolve("toy")
        arguments = project.arguments()
        assert type(project.spec.training).parse(str(arguments["training"])) == project.spec.training
        assert type(project.contract).parse(str(arguments["contract"])) == project.contract

    def test_an_override_changes_one_section_only(self, toy: Path) -> None:
        before, after = resolve("toy").arguments(), resolve("toy", ["training.seed=4"]).arguments()
        assert {name for name in before if before[name] != after[name]} == {"training"}

    def test_numbers_keep_their_type(self, toy: Path) -> None:
        arguments = resolve("toy", ["training.parameters.C=1", "training.parameters.tol=1.0"]).arguments()
        training = type(resolve("toy").spec.training).parse(str(arguments["training"]))
        assert [type(training.parameters[name]) for name in ("C", "tol")] == [int, float]

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("training.sed=4", "training.sed is not a known key - did you mean 'seed'"),
            ("training", "not of the form section.key=value"),
            ("=3", "not of the form section.key=value"),
            ("name.first=x", "name holds a value, not a section"),
            ("training.seed=[", "not valid YAML"),
        ],
    )
    def test_a_wrong_override_is_named(self, toy: Path, override: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
            resolve("toy", [override]).arguments()


class TestPipelineModule:
    def test_without_one_the_training_pipeline_runs(self, toy: Path) -> None:
        assert resolve("toy").pipeline().name == "training"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("pipe = 1", "no attribute `pipeline`"),
            ("def f(:", "pipeline.py, line 1"),
            ("import no_such_module_here", "No module named 'no_such_module_here'"),
        ],
    )
    def test_a_broken_one_says_what_is_wrong(self, toy: Path, text: str, message: str) -> None:
        (toy / "pipeline.py").write_text(text)
        with pytest.raises(ConfigError, match=message):
            resolve("toy").pipeline()


class TestSpecification:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ("name: ../toy", "name: "),
            ("name: Toy", "name: "),
            ("sorce: {}", "sorce is not a known key - did you mean 'source'"),
        ],
    )
    def test_a_wrong_one_names_the_key(self, toy: Path, change: str, message: str) -> None:
        key = change.split(":", maxsplit=1)[0]
        lines = [line for line in SPEC.splitlines() if not line.startswith(f"{key}:")]
        (toy / "model.yaml").write_text("\n".join([change, *lines]))
        with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
            resolve("toy").arguments()
