"""What a training job gets on a cluster: the part that belongs to the cluster, not to the model.

One document for all jobs of an installation; `training_cluster` in the settings names it.

queue: gpu                              # a Kueue LocalQueue; empty starts jobs at once
volumes: [{name: shared, mount: /shared, claim: headway-shared}]
node_selector: {nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3}
tolerations: [{key: nvidia.com/gpu, operator: Exists}]
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from headway.components.config import Config

RUNTIME = "headway-torch"
"""The ClusterTrainingRuntime of manifests/training."""
Quantity = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?(m|[kKMGTP]i?)?$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]


class Volume(Config):
    """A volume that every pod of a job mounts."""

    document: ClassVar[str] = "volume"

    name: Name
    mount: Annotated[str, StringConstraints(pattern=r"^/.")]
    """Where: the same path as in the step that starts the job, for the folders of a job mean the same everywhere."""
    claim: str = ""
    """A PersistentVolumeClaim; jobs on several machines need one that many nodes may write (ReadWriteMany)."""
    config_map: str = ""
    secret: str = ""
    read_only: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(map(bool, (self.claim, self.config_map, self.secret))) != 1:
            raise ValueError(f"volume {self.name!r} needs exactly one of claim, config_map and secret")
        return self

    @property
    def document_of_volume(self) -> dict[str, Any]:
        """As a pod has it under `volumes`."""
        if self.claim:
            return {"name": self.name, "persistentVolumeClaim": {"claimName": self.claim}}
        if self.config_map:
            return {"name": self.name, "configMap": {"name": self.config_map}}
        return {"name": self.name, "secret": {"secretName": self.secret}}

    @property
    def document_of_mount(self) -> dict[str, Any]:
        """As a container has it under `volumeMounts`."""
        return {"name": self.name, "mountPath": self.mount} | ({"readOnly": True} if self.read_only else {})


class Toleration(Config):
    """A taint that a job's pods tolerate, as Kubernetes has it."""

    document: ClassVar[str] = "toleration"

    key: str = ""
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""


class SecretKey(Config):
    """One key of a Secret or a ConfigMap."""

    document: ClassVar[str] = "key"

    name: Name
    key: str
    optional: bool = False


class Elastic(Config):
    """A number of machines that may change while a job runs; only the Training Operator has it."""

    document: ClassVar[str] = "elastic section"

    least: int = Field(ge=1)
    """Machines below which the job waits."""
    restarts: int = Field(default=10, ge=0)
    """How often the machines may come and go."""


class ClusterSpec(Config):
    """What training jobs get on this cluster."""

    document: ClassVar[str] = "training cluster document"

    engine: Literal["auto", "trainjob", "pytorchjob"] = "auto"
    """`trainjob` (Kubeflow Trainer 2), `pytorchjob` (Training Operator 1.9), or what the cluster has, Trainer first."""
    namespace: str = ""
    """Where jobs run; empty means the namespace of the step's pod, or outside of a cluster `default`."""
    image: str = ""
    """The image of a job's pods: that of the components with torch in it; empty means that of the components."""
    runtime: Name = RUNTIME
    """TrainJob: the ClusterTrainingRuntime, which restarts and schedules the gang (manifests/training)."""
    queue: str = ""
    """Kueue's LocalQueue that jobs wait in; empty starts them at once."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Further labels of a job, such as `kueue.x-k8s.io/priority-class`."""
    service_account: str = ""
    """Whom the pods act as, for a cloud's workload identity; empty means the namespace's default."""
    pull_secrets: list[Name] = Field(default_factory=list)
    """Secrets of the image's registry."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list)
    volumes: list[Volume] = Field(default_factory=list)
    """Shared storage for the job's folder, and the data's and the output's where those are paths."""
    shm: Quantity = "8Gi"
    """Shared memory of a pod, which NCCL and data loading use; it counts against the pod's memory."""
    env: dict[str, str] = Field(default_factory=dict)
    """Further environment, such as `NCCL_SOCKET_IFNAME`."""
    env_from_secrets: dict[str, SecretKey] = Field(default_factory=dict)
    """Environment from keys of Secrets, such as a bucket's credentials."""
    env_from_config_maps: dict[str, SecretKey] = Field(
        default_factory=lambda: {
            "MLFLOW_TRACKING_URI": SecretKey(name="headway", key="MLFLOW_TRACKING_URI", optional=True)
        }
    )
    """Environment from keys of ConfigMaps; by default MLflow's address, as steps have it."""
    gang: bool = False
    """PyTorchJob: all pods start or none, where Volcano or the scheduler plugins are set up. For TrainJob the runtime
    says it, and with a queue Kueue does."""
    elastic: Elastic | None = None
    """PyTorchJob: go on with fewer machines when one is lost."""
    restarts: int = Field(default=3, ge=0)
    """PyTorchJob: how often a job starts again when a machine was lost; for TrainJob the runtime says it."""
    stuck_after: float = Field(default=60.0, gt=0)
    """Seconds after which what no waiting will cure ends a job: an image that cannot be pulled, a quota exceeded."""
    queue_limit: float = Field(default=86_400.0, gt=0)
    """Seconds that a job may wait in a queue and for machines."""
    keep: float = Field(default=86_400.0, ge=0)
    """PyTorchJob: seconds that a finished job stays to be looked at."""
