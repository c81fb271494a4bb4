"""Katib Experiments from the same search space, for those who run Katib; and Katib's answer back as a training section.

Katib hands every value on as text, so a trial casts it by the space; its samplers do not keep to steps that are counted
from `low`, and a value off by less than a step is put on the grid. What Katib cannot say is refused with its name:
conditional parameters, a time budget. Of the pruners it knows the median's; with another one nothing is pruned there,
which costs time and changes no result.

    python -m headway.components.tune.katib --job JOB NAME=VALUE …      runs one trial in a pod
"""

import argparse
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headway.components.config import dump_yaml
from headway.components.errors import ConfigError, PlatformError
from headway.components.evaluate.metrics import metric
from headway.components.images import IMAGE
from headway.components.resources import resources
from headway.components.tune.objective import Job, load_objective
from headway.components.tune.space import Categorical, Dimension, Float, Int, scalar_text
from headway.components.tune.study import GIVE_UP_AFTER

API_VERSION = "kubeflow.org/v1beta1"
_MAX_NAME = 40
_JOB_FOLDER = "/etc/headway/tuning"
_DATA_FOLDER = "/data"
_CONTAINER = "trial"


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What the trials' pods need of the cluster."""

    claim: str
    """PersistentVolumeClaim with the valid parts, read by every trial."""
    train: str = "train.parquet"
    """The valid training part's path inside the claim."""
    validation: str = "validation.parquet"
    """The valid validation part's path inside the claim; read for `evaluation: validation`."""
    namespace: str = "default"
    image: str = IMAGE
    resources: str = "large"
    """Resource preset of a trial's pod."""
    labels: dict[str, str] = field(default_factory=dict)
    """Labels of a trial's pod, such as Kueue's queue."""


def experiment(job: Job, cluster: Cluster) -> list[dict[str, Any]]:
    """A study as Kubernetes documents: a ConfigMap with the job, and the Experiment.

    Args:
        job: What `plan` made; its paths are replaced by the claim's.
        cluster: What the pods need.

    Raises:
        ConfigError: The tuning section says what Katib cannot; names it.
    """
    _refuse(job)
    name = _name(job.study)
    moved = job.model_copy(
        update={
            "train": f"{_DATA_FOLDER}/{cluster.train}",
            "validation": f"{_DATA_FOLDER}/{cluster.validation}" if job.validation else "",
            "storage": "katib",
            "threads": 0,
        }
    )
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": cluster.namespace},
        "data": {"job.json": moved.model_dump_json(indent=2)},
    }
    document = {
        "apiVersion": API_VERSION,
        "kind": "Experiment",
        "metadata": {"name": name, "namespace": cluster.namespace},
        "spec": _spec(job, cluster, name),
    }
    return [config_map, document]


def dump(documents: list[dict[str, Any]]) -> str:
    """Documents as one YAML text, ready for `kubectl apply`."""
    return "---\n".join(dump_yaml(document) for document in documents)


def best_training(document: Mapping[str, Any], job: Job) -> str:
    """The training section of an Experiment's best trial, as YAML text.

    Args:
        document: The Experiment as the API server returns it.
        job: The job that it was rendered from.

    Raises:
        PlatformError: No trial has finished yet.
        ConfigError: The assignments are not of this job's space.
    """
    best = document.get("status", {}).get("currentOptimalTrial", {})
    assignments = best.get("parameterAssignments") or []
    if not assignments:
        name = document.get("metadata", {}).get("name", "")
        raise PlatformError(f"The Experiment {name!r} has no best trial yet", fix="wait until a trial has succeeded")
    names = {_parameter(each): each.name for each in job.spec.search_space}
    texts = {names.get(each["name"], each["name"]): str(each["value"]) for each in assignments}
    return _section(job, texts)[0]


def _refuse(job: Job) -> None:
    spec = job.spec
    conditional = spec.search_space.conditional
    if conditional:
        raise ConfigError(
            f"Katib has no conditional parameters, and {conditional[0]!r} is one",
            fix="take `when` away, or tune with `headway tune` or the tuning pipeline",
        )
    if spec.minutes is not None:
        raise ConfigError("Katib has no time budget, and `minutes` is set", fix="take `minutes` away")


def _spec(job: Job, cluster: Cluster, name: str) -> dict[str, Any]:
    spec = job.spec
    document: dict[str, Any] = {
        "objective": {
            "type": "maximize" if metric(job.metric).direction == "higher" else "minimize",
            "objectiveMetricName": job.metric,
            # A trial reports on growing shares of the fit; Katib would take the best of them and not the last.
            "metricStrategies": [{"name": job.metric, "value": "latest"}],
        },
        "algorithm": {
            "algorithmName": spec.sampler,
            "algorithmSettings": [{"name": "random_state", "value": str(spec.seed)}],
        },
        "parallelTrialCount": min(spec.workers, spec.trials),
        "maxTrialCount": spec.trials,
        "maxFailedTrialCount": min(GIVE_UP_AFTER, spec.trials),
        "parameters": [_katib_parameter(each) for each in spec.search_space],
        "metricsCollectorSpec": {"collector": {"kind": "StdOut"}},
        "trialTemplate": _template(job, cluster, name),
    }
    if spec.pruner == "median" and spec.rungs > 1:
        document["earlyStopping"] = {
            "algorithmName": "medianstop",
            "algorithmSettings": [
                {"name": "min_trials_required", "value": str(max(1, spec.startup // 2))},
                {"name": "start_step", "value": "1"},
            ],
        }
    return document


def _katib_parameter(dimension: Dimension) -> dict[str, Any]:
    domain = dimension.domain
    if isinstance(domain, Categorical):
        return {
            "name": _parameter(dimension),
            "parameterType": "categorical",
            "feasibleSpace": {"list": [scalar_text(value) for value in domain.values]},
        }
    feasible = {"min": str(domain.low), "max": str(domain.high)}
    feasible["distribution"] = "logUniform" if domain.log else "uniform"
    if domain.step and domain.step != 1:
        feasible["step"] = str(domain.step)
    kind = {Float: "double", Int: "int"}[type(domain)]
    return {"name": _parameter(dimension), "parameterType": kind, "feasibleSpace": feasible}


def _template(job: Job, cluster: Cluster, name: str) -> dict[str, Any]:
    dimensions = list(job.spec.search_space)
    command = ["python", "-m", "headway.components.tune.katib", "--job", f"{_JOB_FOLDER}/job.json"]
    values = [f"{each.name}=${{trialParameters.{_parameter(each)}}}" for each in dimensions]
    size = resources(cluster.resources)
    container = {
        "name": _CONTAINER,
        "image": cluster.image,
        "command": command,
        "args": values,
        "resources": {limit: {"cpu": size.cpu, "memory": size.memory} for limit in ("requests", "limits")},
        "volumeMounts": [
            {"name": "job", "mountPath": _JOB_FOLDER, "readOnly": True},
            {"name": "data", "mountPath": _DATA_FOLDER, "readOnly": True},
        ],
    }
    pod = {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [
            {"name": "job", "configMap": {"name": name}},
            {"name": "data", "persistentVolumeClaim": {"claimName": cluster.claim, "readOnly": True}},
        ],
    }
    # Without the annotation a mesh's side-car keeps the pod, and so the trial, from ending.
    metadata = {"labels": cluster.labels, "annotations": {"sidecar.istio.io/inject": "false"}}
    return {
        "primaryContainerName": _CONTAINER,
        "successCondition": 'status.conditions.#(type=="Complete")#|#(status=="True")#',
        "failureCondition": 'status.conditions.#(type=="Failed")#|#(status=="True")#',
        "trialParameters": [
            {"name": _parameter(each), "description": each.name, "reference": _parameter(each)} for each in dimensions
        ],
        "trialSpec": {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "spec": {"backoffLimit": 0, "template": {"metadata": metadata, "spec": pod}},
        },
    }


def _parameter(dimension: Dimension) -> str:
    """A parameter's name in Katib, whose templates take no dots."""
    return re.sub(r"[^A-Za-z0-9_]", "-", dimension.name.removeprefix("parameters."))


def _name(study: str) -> str:
    """An Experiment's name: at most 40 characters, and the digest at its end kept."""
    model, _, digest = study.rpartition("-")
    return f"{model[: _MAX_NAME - len(digest) - 1].rstrip('-')}-{digest}"


def _section(job: Job, texts: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """The training section of a trial whose values came as texts: as YAML text, and as plain data."""
    kind = load_objective(job.spec.objective)
    base = kind.section.parse(job.training, where="training").model_dump(mode="json", exclude_defaults=True)
    composed = kind.compose(base, job.spec.search_space.cast(texts))
    return kind.section.parse(composed, where="trial").dump(), composed


def run_trial(job: Job, assignments: list[str]) -> float:
    """One trial in this process: prints `metric=value` at each report, as Katib's collector reads it.

    Args:
        job: The study's job.
        assignments: `name=value` texts, as the template fills them in.

    Returns:
        The metric.
    """
    texts = dict(assignment.split("=", 1) for assignment in assignments)
    _, section = _section(job, texts)

    def report(step: int, value: float) -> bool:
        print_metric(job.metric, value)
        return False  # Katib stops a trial by ending its process

    value = load_objective(job.spec.objective)(job)(section, report)
    print_metric(job.metric, value)
    return value


def print_metric(name: str, value: float) -> None:
    """Print a metric as Katib's collector reads it."""
    cost = abs(value) if metric(name).direction == "zero" else value
    sys.stdout.write(f"{name}={cost!r}\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Run one trial in a pod."""
    parser = argparse.ArgumentParser(prog="python -m headway.components.tune.katib", description="One Katib trial.")
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("assignments", nargs="*", metavar="NAME=VALUE")
    given = parser.parse_args(arguments)
    run_trial(Job.load(given.job), given.assignments)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
