"""Kubeflow Trainer 2: a TrainJob on a ClusterTrainingRuntime.

The runtime (manifests/training) brings what a TrainJob cannot say: the gang restarts as a whole, no pod restarts alone
inside a dead rendezvous, and the failing rank's exception is kept. Trainer sets PET_NNODES, PET_NODE_RANK and the rest
for torchrun. What a cluster's own schema does not have is not written: Trainer 2.0 and 2.1 have `podTemplateOverrides`
where 2.2 has `runtimePatches`, and no deadline, which the launcher then keeps itself.
"""

from collections.abc import Mapping
from typing import ClassVar

from headway.components.errors import PlatformError
from headway.components.kubernetes.client import Cluster, Document
from headway.components.train_distributed.cluster_job import JobStatus, Order
from headway.components.train_distributed.cluster_spec import ClusterSpec

MANAGER = "headway.dev/launcher"
_ADVICE = "kubectl apply -k manifests/training"


class TrainJobEngine:
    """Jobs as TrainJobs.

    Args:
        fields: The fields that this cluster's TrainJob has under `spec`.

    Raises:
        PlatformError: It has none to give pods their volumes.
    """

    kind: ClassVar[str] = "TrainJob"
    container: ClassVar[str] = "node"
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "TrainJob": ("create", "get", "list", "watch", "delete"),
        "ClusterTrainingRuntime": ("get",),
    }
    restarts_lost = True

    def __init__(self, fields: set[str]) -> None:
        self._fields = fields
        self.ends_late = "activeDeadlineSeconds" in fields
        if not {"runtimePatches", "podTemplateOverrides"} & fields:
            raise PlatformError(
                "This cluster's TrainJob can give pods no volumes", expected="Kubeflow Trainer 2.1 or newer"
            )

    @classmethod
    def of(cls, cluster: Cluster) -> "TrainJobEngine":
        """The engine for a cluster's version of Trainer, by the schema that the cluster publishes."""
        return cls(set(cluster.schema(cls.kind)["properties"]["spec"]["properties"]))

    def check(self, cluster: Cluster, spec: ClusterSpec) -> None:
        """See `Engine.check`."""
        if spec.elastic is not None:
            raise PlatformError(
                "Kubeflow Trainer 2 has no elastic jobs", fix="leave `elastic` out, or set `engine: pytorchjob`"
            )
        if cluster.get("ClusterTrainingRuntime", spec.runtime) is None:
            raise PlatformError(f"The cluster has no ClusterTrainingRuntime {spec.runtime!r}", fix=_ADVICE)

    def document(self, order: Order) -> Document:
        """See `Engine.document`."""
        spec: Document = {
            "runtimeRef": {
                "apiGroup": "trainer.kubeflow.org",
                "kind": "ClusterTrainingRuntime",
                "name": order.cluster.runtime,
            },
            "trainer": {
                "image": order.image,
                "command": order.command,
                "args": order.arguments,
                "numNodes": order.nodes,
                "numProcPerNode": order.processes,
                "resourcesPerNode": order.resources,
                "env": order.env,
            },
        }
        if self.ends_late:
            spec["activeDeadlineSeconds"] = order.deadline
        pod = order.placement | {
            "volumes": order.volumes,
            "containers": [{"name": self.container, "volumeMounts": order.mounts}],
        }
        if "runtimePatches" in self._fields:
            patch = {"name": "node", "template": {"spec": {"template": {"spec": pod}}}}
            changed = {"template": {"spec": {"replicatedJobs": [patch]}}}
            spec["runtimePatches"] = [{"manager": MANAGER, "trainingRuntimeSpec": changed}]
        else:
            spec["podTemplateOverrides"] = [{"targetJobs": [{"name": "node"}], "spec": pod}]
        return {
            "apiVersion": "trainer.kubeflow.org/v1alpha1",
            "kind": self.kind,
            "metadata": order.metadata,
            "spec": spec,
        }

    def status(self, document: Document) -> JobStatus:
        """See `Engine.status`. Conditions are Suspended, Complete and Failed; a job that runs may have none."""
        held = {each["type"]: each for each in document.get("status", {}).get("conditions", [])}
        for name, outcome in (("Complete", "complete"), ("Failed", "failed")):
            if held.get(name, {}).get("status") == "True":
                said = held[name]
                return JobStatus(outcome=outcome, reason=said.get("reason", ""), message=said.get("message", ""))
        suspended = bool(document["spec"].get("suspend")) or held.get("Suspended", {}).get("status") == "True"
        return JobStatus(suspended=suspended, message=held.get("Suspended", {}).get("message", "") if suspended else "")

    def selector(self, name: str) -> str:
        """See `Engine.selector`."""
        return f"jobset.sigs.k8s.io/jobset-name={name},jobset.sigs.k8s.io/replicatedjob-name=node"

    def node(self, pod: Document) -> int:
        """See `Engine.node`."""
        labels = pod["metadata"].get("labels", {})
        return int(labels.get("batch.kubernetes.io/job-completion-index", 0))
