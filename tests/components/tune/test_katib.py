"""Katib Experiments: the document as a golden file, the rules that Katib holds it to, and a trial as a pod runs it."""

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from headway.components.errors import ConfigError, PlatformError
from headway.components.tune.katib import Cluster, best_training, dump, experiment, run_trial
from headway.components.tune.objective import Job
from headway.components.tune.search import plan
from headway.components.tune.spec import TuningSpec

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "experiment.yaml"
SPACE = {
    "estimator": {"type": "categorical", "values": ["hist_gradient_boosting", "gradient_boosting"]},
    "parameters.learning_rate": {"type": "float", "low": 0.01, "high": 0.3, "log": True},
    "parameters.max_depth": {"type": "int", "low": 2, "high": 10, "step": 2},
    "class_weight": {"type": "categorical", "values": ["balanced", None]},
}
CLUSTER = Cluster(claim="shops-data", namespace="team-a", labels={"kueue.x-k8s.io/queue-name": "cpu"})


@pytest.fixture
def job(parts: Any, contract: Any) -> Any:
    def make(**more: Any) -> Job:
        spec = TuningSpec.parse({"space": SPACE, "trials": 30, "workers": 4, "pruner": "median", **more})
        train, validation = parts
        return plan("shops", contract, "seed: 7", spec, train=train, validation=validation, data_digest="0" * 64)

    return make


@cache
def schema() -> Any:
    return jsonschema.Draft202012Validator(json.loads((HERE / "schemas" / "experiment.json").read_text()))


def katib_refuses(document: Any) -> list[str]:
    """What Katib's admission webhook (0.19) says no to, beside the schema; an empty list when it takes it."""
    problems = [error.message for error in schema().iter_errors(document)]
    return problems + _wrong_counts(document) + _wrong_parameters(document["spec"]) + _wrong_template(document["spec"])


def _wrong_counts(document: Any) -> list[str]:
    spec, name = document["spec"], document["metadata"]["name"]
    right = {
        f"name {name}": re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) is not None and len(name) <= 40,
        "parallelTrialCount": 0 < spec["parallelTrialCount"] <= spec["maxTrialCount"],
        "maxFailedTrialCount": 0 <= spec["maxFailedTrialCount"] <= spec["maxTrialCount"],
        "objective.type": spec["objective"]["type"] in ("maximize", "minimize"),
    }
    return [what for what, holds in right.items() if not holds]


def _wrong_parameters(spec: Any) -> list[str]:
    problems = []
    for parameter in spec["parameters"]:
        space, kind = parameter["feasibleSpace"], parameter["parameterType"]
        numeric = {"min", "max"} <= space.keys() and "list" not in space
        if kind not in ("int", "double", "categorical", "discrete") or numeric is not (kind in ("int", "double")):
            problems.append(f"feasibleSpace of {parameter['name']}")
        if space.get("distribution", "uniform") not in ("uniform", "logUniform", "normal", "logNormal"):
            problems.append(f"distribution of {parameter['name']}")
    return problems


def _wrong_template(spec: Any) -> list[str]:
    template = spec["trialTemplate"]
    needed = ("primaryContainerName", "successCondition", "failureCondition", "trialParameters", "trialSpec")
    problems = [f"trialTemplate.{key}" for key in needed if not template.get(key)]
    text = json.dumps(template["trialSpec"])
    names = {parameter["name"] for parameter in spec["parameters"]}
    for parameter in template["trialParameters"]:
        place = f"${{trialParameters.{parameter['name']}}}"
        if re.search(r"[{}]", parameter["name"]) or parameter["reference"] not in names or place not in text:
            problems.append(f"trialParameter {parameter['name']}")
        text = text.replace(place, "test-value")
    return problems + re.findall(r"\$\{trialParameters\.[^}]*\}", text)


def test_golden(job: Any) -> None:
    documents = experiment(job(), CLUSTER)
    own = {"train": "/data/train.parquet", "validation": "/data/validation.parquet", "storage": "katib", "threads": 0}
    inner = json.loads(documents[0]["data"].pop("job.json"))
    assert Job.parse(inner) == job().model_copy(update=own)
    assert list(yaml.safe_load_all(dump(documents))) == list(yaml.safe_load_all(GOLDEN.read_text()))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"sampler": "random", "pruner": "none"},
        {"trials": 1, "workers": 9},
        {"metric": "log_loss", "evaluation": "validation"},
    ],
)
def test_katib_takes_it(job: Any, more: Any) -> None:
    config_map, document = experiment(job(**more), CLUSTER)
    assert katib_refuses(document) == []
    group, version = document["apiVersion"].split("/")
    crd = yaml.safe_load((HERE / "schemas" / "experiments.yaml").read_text())["spec"]
    assert (crd["group"], crd["versions"][0]["name"], crd["names"]["kind"]) == (group, version, document["kind"])
    volumes = document["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]["volumes"]
    assert volumes[0]["configMap"]["name"] == config_map["metadata"]["name"]


def test_the_check_of_this_test_can_fail(job: Any) -> None:
    _, document = experiment(job(), CLUSTER)
    document["spec"]["parameters"][1]["feasibleSpace"]["mim"] = "1"
    document["spec"]["trialTemplate"]["trialParameters"][0]["reference"] = "no"
    assert len(katib_refuses(document)) == 2


@pytest.mark.parametrize(
    ("pruner", "stops"), [("median", True), ("percentile", False), ("halving", False), ("none", False)]
)
def test_only_the_median_prunes_there(job: Any, pruner: str, stops: bool) -> None:
    _, document = experiment(job(pruner=pruner), CLUSTER)
    assert ("earlyStopping" in document["spec"]) is stops


def test_long_names_keep_their_digest(parts: Any, contract: Any) -> None:
    spec = TuningSpec.parse({"space": SPACE})
    planned = plan("a-very-long-name-of-a-model-" * 3 + "x", contract, "{}", spec, train=parts[0])
    _, document = experiment(planned, CLUSTER)
    assert katib_refuses(document) == []
    assert document["metadata"]["name"].endswith(planned.study[-9:])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {
                "space": {
                    **SPACE,
                    "parameters.max_iter": {
                        "type": "int",
                        "low": 5,
                        "high": 9,
                        "when": {"estimator": "hist_gradient_boosting"},
                    },
                }
            },
            "Katib has no conditional parameters, and 'parameters.max_iter' is one",
        ),
        ({"minutes": 5}, "no time budget"),
    ],
)
def test_what_katib_cannot_say_is_refused_by_name(job: Any, more: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        experiment(job(**more), CLUSTER)


def test_a_trial_prints_what_the_collector_reads(job: Any, capsys: Any) -> None:
    texts = [
        "estimator=hist_gradient_boosting",
        "parameters.learning_rate=0.1",
        "parameters.max_depth=5",
        "class_weight=null",
    ]
    value = run_trial(job(), texts)
    # Katib's own filter, and "latest" takes the last of them.
    found = re.findall(r"([\w|-]+)\s*=\s*([+-]?\d*(?:\.\d+)?(?:[Ee][+-]?\d+)?)", capsys.readouterr().out)
    assert [name for name, _ in found] == ["roc_auc"] * 2
    assert float(found[-1][1]) == value


def test_a_trial_as_its_pod_runs_it(job: Any, tmp_path: Path) -> None:
    """The rendered command and arguments, with the places filled in as Katib does, on the job from the ConfigMap."""
    config_map, document = experiment(job(), CLUSTER)
    inner = json.loads(config_map["data"]["job.json"])
    (tmp_path / "job.json").write_text(json.dumps({**inner, "train": job().train, "threads": 1}))
    container = document["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]["containers"][0]
    given = {"estimator": "gradient_boosting", "learning_rate": "0.1", "max_depth": "2", "class_weight": "balanced"}
    arguments = [re.sub(r"\$\{trialParameters\.([^}]*)\}", lambda m: given[m[1]], text) for text in container["args"]]
    command = [sys.executable, *container["command"][1:-1], str(tmp_path / "job.json"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"(roc_auc=0\.\d+\n){2}", done.stdout)
    broken = subprocess.run(
        [*command[:-1], "class_weight=balancd"], capture_output=True, text=True, check=False, timeout=120
    )
    assert broken.returncode == 1
    assert "did you mean 'balanced'" in broken.stderr


def test_the_best_trial_comes_back_typed(job: Any) -> None:
    assignments = [
        {"name": "estimator", "value": "gradient_boosting"},
        {"name": "learning_rate", "value": "0.05"},
        {"name": "max_depth", "value": "4"},
        {"name": "class_weight", "value": "null"},
    ]
    document = {"metadata": {"name": "e"}, "status": {"currentOptimalTrial": {"parameterAssignments": assignments}}}
    assert yaml.safe_load(best_training(document, job())) == {
        "estimator": "gradient_boosting",
        "parameters": {"learning_rate": 0.05, "max_depth": 4},
        "seed": 7,
    }
    with pytest.raises(PlatformError, match="'e' has no best trial yet"):
        best_training({"metadata": {"name": "e"}, "status": {}}, job())
    assignments[2]["name"] = "depth"
    with pytest.raises(ConfigError, match="'depth' is no parameter of the search"):
        best_training(document, job())
