"""The training pipeline is compiled with exactly the optional steps that model.yaml asks for."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from headway.components.errors import UsageError
from headway.pipelines.compile import compile_text, load_spec
from headway.pipelines.lint import errors_in, lint_spec
from headway.pipelines.project import Project
from headway.pipelines.run import planned_steps, run
from headway.pipelines.training import Shape, shaped

NETWORK = {"trainer": "distributed", "epochs": 2, "batch_size": 64, "placement": {"processes": 2}}
SPACE = {"parameters.C": {"type": "float", "low": 0.01, "high": 10, "log": True}}


def compiled(pipeline: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return load_spec(compile_text(pipeline, name="x"))


def changed(project: Path, **sections: Any) -> Project:
    path = project / "model.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **sections}))
    return Project(project)


@pytest.mark.parametrize("shape", [Shape(*flags) for flags in itertools.product([False, True], repeat=4)])
def test_every_shape_compiles_with_its_steps_and_its_parameters(shape: Shape) -> None:
    spec, platform = compiled(shaped(shape))
    assert not errors_in(lint_spec((spec, platform)))
    steps = set(planned_steps(spec))
    assert ("tune" in steps, "optimise" in steps) == (shape.tuned, shape.optimised)
    assert ("train-distributed" in steps, "train" in steps) == (shape.distributed, not shape.distributed)
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert ("tuning" in parameters, "optimisation" in parameters) == (shape.tuned, shape.optimised)


def test_a_job_on_several_machines_gets_what_the_cluster_gives_to_jobs() -> None:
    _, platform = compiled(shaped(Shape(distributed=True, machines=True)))
    step = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train-distributed"]
    assert step["pvcMount"][0]["mountPath"] == "/shared"
    assert {"headway-training", "headway-policy"} == {volume["configMapName"] for volume in step["configMapAsVolume"]}
    _, alone = compiled(shaped(Shape(distributed=True)))
    assert "pvcMount" not in alone["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train-distributed"]


def test_the_specification_says_which(toy: Path) -> None:
    project = changed(toy, training=NETWORK, optimise={"int8": "off"})
    assert {"train-distributed", "optimise"} <= set(planned_steps(compiled(project.pipeline())[0]))
    assert project.arguments()["optimisation"] == "int8: 'off'\n"
    assert "trainer: distributed" in str(project.arguments()["training"])


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"training": {**NETWORK, "epoch": 3}}, "training.epoch is not a known key - did you mean 'epochs'"),
        ({"training": {**NETWORK, "network": "embeding_mlp"}}, "did you mean 'embedding_mlp'"),
        ({"training": {"estimator": "mlp", "seeed": 1}}, "training.seeed is not a known key - did you mean 'seed'"),
        ({"tuning": {"space": {"parameters.CC": {"type": "int", "low": 1, "high": 2}}}}, "CC"),
        ({"optimise": {"int8": "always"}}, "optimise.int8"),
    ],
)
def test_a_wrong_section_is_named(toy: Path, sections: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence.replace(".", r"\.")):
        changed(toy, **sections).arguments()


@pytest.mark.slow
def test_a_searched_and_optimised_model_is_registered(toy: Path) -> None:
    project = changed(toy, tuning={"space": SPACE, "trials": 4, "workers": 1}, optimise={"seconds": 0.05})
    result = run(project).raise_if_failed()
    states = {step.name: step.state for step in result.steps}
    assert states["tune"] == states["optimise"] == "succeeded"
    assert (result.decision, result.version) == ("promote", "1")
    again = run(project).raise_if_failed()
    assert {step.name: step.state for step in again.steps}["tune"] == "cached"


@pytest.mark.slow
def test_a_network_on_two_processes_is_registered_and_predicts(toy: Path) -> None:
    pytest.importorskip("torch")
    result = run(changed(toy, training=NETWORK)).raise_if_failed()
    assert result.version == "1"
    assert result.metrics["roc_auc"] > 0.6
    assert "train-distributed" in result.reports
