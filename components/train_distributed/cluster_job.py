"""A training job as a cluster gets it: what every engine writes, whatever the kind of its object."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Protocol

from headway.components.errors import ConfigError
from headway.components.kubernetes.client import Cluster, Document
from headway.components.settings import Settings
from headway.components.train_distributed.cluster_spec import ClusterSpec
from headway.components.train_distributed.job import JOB, Job
from headway.components.train_distributed.launch import MOST_CPU_PROCESSES, rank_environment, trainer_command

RUN_LABEL = "pipeline/runid"
"""What Kubeflow Pipelines puts on the pods of a run, and we on its jobs."""
MANAGED_BY = "app.kubernetes.io/managed-by"
TERMINATION_LOG = "/dev/termination-log"
"""What a container writes there stands in its pod's status: the failing rank's own exception."""
SHM = "shm"
GRACE_SECONDS = 120
"""Seconds that ranks have for their last checkpoint when their pod shall go."""
LONGEST_NAME = 46
"""JobSet's longest pod name, NAME-node-0-999-abcde, must fit into the 63 letters of a host name."""
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_COMMAND = ["python", "-m", "headway.components.train_distributed.ranks"]


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """What a job's own object says about it."""

    outcome: str = ""
    """`complete`, `failed`, or nothing yet."""
    suspended: bool = False
    """Whether somebody holds it back: Kueue, until there is room."""
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Who starts a job."""

    run: str
    """The pipeline run's id; elsewhere a digest of the job's folder."""
    namespace: str
    owner: Document | None = None
    """The Workflow of the step's pod: a job goes with it. Not the pod, which a retry replaces."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """A job, with everything an engine's document is made of."""

    name: str
    """The same for every attempt at the same job in the same run."""
    metadata: Document
    nodes: int
    processes: int
    """On each machine."""
    deadline: int
    """Seconds."""
    image: str
    command: list[str]
    arguments: list[str]
    env: list[Document]
    resources: Document
    cluster: ClusterSpec

    @property
    def volumes(self) -> list[Document]:
        """The pod's volumes, shared memory among them."""
        shm = {"name": SHM, "emptyDir": {"medium": "Memory", "sizeLimit": self.cluster.shm}}
        return [*(volume.document_of_volume for volume in self.cluster.volumes), shm]

    @property
    def mounts(self) -> list[Document]:
        """Where the container has them."""
        return [
            *(volume.document_of_mount for volume in self.cluster.volumes),
            {"name": SHM, "mountPath": "/dev/shm"},  # noqa: S108 - this is what it is
        ]

    @property
    def placement(self) -> Document:
        """The fields of a pod that say where it may run and as whom; those that say nothing are left out."""
        spec = self.cluster
        wanted: Document = {
            "serviceAccountName": spec.service_account,
            "imagePullSecrets": [{"name": name} for name in spec.pull_secrets],
            "nodeSelector": spec.node_selector,
            "tolerations": [
                {key: value for key, value in each.model_dump().items() if value} for each in spec.tolerations
            ],
        }
        return {key: value for key, value in wanted.items() if value}


class Engine(Protocol):
    """What runs training jobs on a cluster."""

    kind: ClassVar[str]
    container: ClassVar[str]
    """The name of the container that trains."""
    needs: ClassVar[Mapping[str, tuple[str, ...]]]
    """Verbs by kind, of the job's own kinds."""
    restarts_lost: bool
    """Whether it starts the gang again by itself when a machine was lost."""
    ends_late: bool
    """Whether it ends a job that passes its deadline."""

    def check(self, cluster: Cluster, spec: ClusterSpec) -> None:
        """Refuse what is not installed.

        Raises:
            PlatformError: What is missing, and how to bring it.
        """

    def document(self, order: Order) -> Document:
        """The object that makes a cluster run the job."""

    def status(self, document: Document) -> JobStatus:
        """What the object says."""

    def selector(self, name: str) -> str:
        """The label selector of a job's pods."""

    def node(self, pod: Document) -> int:
        """A pod's machine, from 0; 0 holds rank 0."""


def order(job: Job, spec: ClusterSpec, settings: Settings, step: Step) -> Order:
    """What a job needs on a cluster.

    Args:
        job: The job.
        spec: What jobs get on this cluster.
        settings: The settings in force.
        step: Who starts it.

    Raises:
        ConfigError: A folder is not shared, or the number of GPUs is not said.
    """
    _require_shared(job, spec)
    placement = job.training.placement
    gpu, processes = placement.accelerator == "gpu", placement.processes
    cores = _cores(placement.cpu)
    if gpu and not processes:
        raise ConfigError(
            "Nobody can look how many GPUs the machines of a cluster have",
            expected="placement.processes: the GPUs of each machine",
        )
    processes = processes or min(cores, MOST_CPU_PROCESSES)
    amounts = {"cpu": placement.cpu, "memory": placement.memory}
    amounts |= {placement.gpu_type: str(processes)} if gpu else {}
    fields: dict[str, Any] = {
        "nodes": placement.nodes,
        "processes": processes,
        "deadline": max(1, round(placement.deadline)),
        "image": spec.image or settings.image,
        "command": _COMMAND,
        "arguments": [*trainer_command(), str(PurePosixPath(job.folder) / JOB)],
        "env": _environment(placement.threads or max(1, cores // processes), spec, gpu=gpu),
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "cluster": spec,
    }
    # The MLflow run is not part of it: every attempt opens its own. Whatever else changes makes another job.
    same = [
        step.run,
        job.fingerprint,
        job.data,
        job.output,
        {**fields, "cluster": spec.model_dump(mode="json")},
    ]
    digest = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()
    name = _name(job.name, step.run, digest)
    return Order(name=name, metadata=_metadata(name, job, spec, step), **fields)


def unknown_fields(document: Any, schema: Document, where: str = "") -> list[str]:
    """Fields that an object has and its schema does not: an API server drops them without a word.

    Args:
        document: The object, or a part of it.
        schema: Its OpenAPI schema.
        where: Its path, for the answer.

    Example:
        >>> schema = {"properties": {"spec": {"properties": {"suspend": {"type": "boolean"}}}}}
        >>> unknown_fields({"spec": {"suspend": True, "activeDeadlineSeconds": 5}}, schema)
        ['spec.activeDeadlineSeconds']
    """
    if isinstance(document, list):
        items = schema.get("items", {})
        return [found for item in document for found in unknown_fields(item, items, where)]
    if not isinstance(document, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    if where == "metadata":
        return []  # every object has it, and it is described elsewhere
    known, more = schema.get("properties", {}), schema.get("additionalProperties")
    found = []
    for key, value in document.items():
        path = f"{where}.{key}" if where else key
        if key in known:
            found += unknown_fields(value, known[key], path)
        elif isinstance(more, dict):
            found += unknown_fields(value, more, path)
        elif not more:
            found.append(path)
    return list(dict.fromkeys(found))


def find_step(cluster: Cluster, job: Job) -> Step:
    """Who starts a job: the step whose pod this is, or somebody outside of the cluster."""
    pod = os.environ.get("KFP_POD_NAME") or os.environ.get("POD_NAME")
    inside = os.environ.get("KUBERNETES_SERVICE_HOST")
    pod = pod or (os.environ.get("HOSTNAME") if inside else None)
    found = cluster.get("Pod", pod) if pod else None
    run = "folder-" + hashlib.sha256(job.folder.encode()).hexdigest()[:16]
    if found is None:
        return Step(run=run, namespace=cluster.namespace)
    head = found["metadata"]
    workflow = next((each for each in head.get("ownerReferences", []) if each["kind"] == "Workflow"), None)
    # The Workflow's own controller flag stands for its pods: a second controller of a job would be refused.
    owner = {key: workflow[key] for key in ("apiVersion", "kind", "name", "uid")} if workflow else None
    return Step(run=head.get("labels", {}).get(RUN_LABEL) or run, namespace=cluster.namespace, owner=owner)


def namespace_of(spec: ClusterSpec) -> str:
    """Where jobs run."""
    named = spec.namespace or os.environ.get("POD_NAMESPACE") or os.environ.get("NAMESPACE")
    if named:
        return named
    return _NAMESPACE_FILE.read_text(encoding="utf-8").strip() if _NAMESPACE_FILE.is_file() else "default"


def _require_shared(job: Job, spec: ClusterSpec) -> None:
    places = {"folder": job.folder, "data": job.data, "output": job.output}
    shared = [PurePosixPath(volume.mount) for volume in spec.volumes if volume.claim]
    for name, place in places.items():
        if "://" in place and name != "folder":
            continue
        if not any(PurePosixPath(place).is_relative_to(mount) for mount in shared):
            mounts = ", ".join(map(str, shared)) or "there is none"
            raise ConfigError(
                f"The job's {name} {place} is on this machine alone; the job's pods would not find it",
                expected=f"a path on a shared volume ({mounts})" + ("" if name == "folder" else ", or s3://…"),
                fix="put it there, or add the volume to the training cluster document (`training_cluster`)",
            )


def _metadata(name: str, job: Job, spec: ClusterSpec, step: Step) -> Document:
    labels = {MANAGED_BY: "headway", RUN_LABEL: step.run, **spec.labels}
    labels |= {"kueue.x-k8s.io/queue-name": spec.queue} if spec.queue else {}
    annotations = {
        "training.headway/model": job.name,
        "training.headway/folder": job.folder,
        "training.headway/output": job.output,
    }
    owned = {"ownerReferences": [step.owner]} if step.owner else {}
    return {"name": name, "namespace": step.namespace, "labels": labels, "annotations": annotations, **owned}


def _name(model: str, run: str, digest: str) -> str:
    tail = f"{_plain(run)[:12]}-{digest[:8]}".strip("-")
    head = _plain(model)[: LONGEST_NAME - len(tail) - 3].strip("-")
    # A name begins with a letter.
    return "-".join(part for part in ("t", head, tail) if part)


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _environment(threads: int, spec: ClusterSpec, *, gpu: bool) -> list[Document]:
    plain = rank_environment(threads) | {"TORCHELASTIC_ERROR_FILE": TERMINATION_LOG}
    plain |= {"NCCL_DEBUG": "WARN"} if gpu else {}
    plain |= spec.env
    found: list[Document] = [{"name": name, "value": value} for name, value in plain.items()]
    for kind, keys in (("secretKeyRef", spec.env_from_secrets), ("configMapKeyRef", spec.env_from_config_maps)):
        for name, key in keys.items():
            source = {"name": key.name, "key": key.key} | ({"optional": True} if key.optional else {})
            found.append({"name": name, "valueFrom": {kind: source}})
    return found


def _cores(cpu: str) -> int:
    """Whole cores of a quantity such as `32` or `1500m`, at least one.

    Example:
        >>> _cores("32"), _cores("1500m"), _cores("500m"), _cores("2.5")
        (32, 1, 1, 2)
    """
    try:
        amount = float(cpu[:-1]) / 1000 if cpu.endswith("m") else float(cpu)
    except ValueError:
        raise ConfigError(
            f"placement.cpu: got {cpu!r}", expected="cores as Kubernetes writes them: 2 or 500m"
        ) from None
    return max(1, int(amount))
