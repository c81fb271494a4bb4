"""Training Operator 1.9: a PyTorchJob, for the clusters that still have it, and the only one that is elastic.

The operator sets MASTER_ADDR, MASTER_PORT and RANK, a machine's number; torchrun is told them by its own arguments, so
that no version of the operator matters. It restarts no gang: the launcher starts a job again that lost a machine.
"""

from collections.abc import Mapping
from typing import ClassVar

from headway.components.kubernetes.client import Cluster, Document
from headway.components.train_distributed.cluster_job import GRACE_SECONDS, TERMINATION_LOG, JobStatus, Order
from headway.components.train_distributed.cluster_spec import ClusterSpec

_LABEL = "training.kubeflow.org/"
_SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


class PyTorchJobEngine:
    """Jobs as PyTorchJobs."""

    kind: ClassVar[str] = "PyTorchJob"
    container: ClassVar[str] = "pytorch"
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {"PyTorchJob": ("create", "get", "list", "watch", "delete")}
    restarts_lost = False
    ends_late = True

    def check(self, cluster: Cluster, spec: ClusterSpec) -> None:
        """See `Engine.check`: nothing is needed beside the operator."""

    def document(self, order: Order) -> Document:
        """See `Engine.document`."""
        spec = order.cluster
        policy: Document = {
            # Finished pods stay for their logs, running ones do not outlive their job.
            "cleanPodPolicy": "Running",
            "ttlSecondsAfterFinished": round(spec.keep),
            "activeDeadlineSeconds": order.deadline,
            "backoffLimit": 0,
        }
        if spec.gang:
            policy["schedulingPolicy"] = {"minAvailable": spec.elastic.least if spec.elastic else order.nodes}
        body: Document = {"runPolicy": policy, "nprocPerNode": str(order.processes)}
        if spec.elastic:
            # Pods come and go: the operator restarts them in their place, the rendezvous takes them in again.
            body["elasticPolicy"] = {
                "rdzvBackend": "c10d",
                "minReplicas": spec.elastic.least,
                "maxReplicas": order.nodes,
                "maxRestarts": spec.elastic.restarts,
            }
            policy["backoffLimit"] = spec.elastic.restarts
            body["pytorchReplicaSpecs"] = {"Worker": self._replica(order, order.nodes, [], "OnFailure")}
        else:
            where = [
                *("--nnodes", str(order.nodes), "--node-rank", "$(RANK)"),
                *("--master-addr", "$(MASTER_ADDR)", "--master-port", "$(MASTER_PORT)"),
            ]
            body["pytorchReplicaSpecs"] = {"Master": self._replica(order, 1, where, "Never")}
            if order.nodes > 1:
                body["pytorchReplicaSpecs"]["Worker"] = self._replica(order, order.nodes - 1, where, "Never")
        return {"apiVersion": "kubeflow.org/v1", "kind": self.kind, "metadata": order.metadata, "spec": body}

    def _replica(self, order: Order, replicas: int, where: list[str], restart: str) -> Document:
        container: Document = {
            "name": self.container,
            "image": order.image,
            "command": order.command,
            "args": [*where, "--nproc-per-node", str(order.processes), *order.arguments],
            "env": order.env,
            "resources": order.resources,
            "volumeMounts": order.mounts,
            "terminationMessagePath": TERMINATION_LOG,
            # A rank that was killed leaves no exception; the log's last lines say more than nothing.
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "securityContext": _SECURITY,
        }
        pod = order.placement | {
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "fsGroup": 10001},
            "volumes": order.volumes,
            "containers": [container],
        }
        # Without a mesh's sidecar, which would neither let gloo through nor end with the job.
        template = {"metadata": {"annotations": {"sidecar.istio.io/inject": "false"}}, "spec": pod}
        return {"replicas": replicas, "restartPolicy": restart, "template": template}

    def status(self, document: Document) -> JobStatus:
        """See `Engine.status`."""
        held = {each["type"]: each for each in document.get("status", {}).get("conditions", [])}
        for name, outcome in (("Succeeded", "complete"), ("Failed", "failed")):
            if held.get(name, {}).get("status") == "True":
                said = held[name]
                return JobStatus(outcome=outcome, reason=said.get("reason", ""), message=said.get("message", ""))
        suspended = bool(document["spec"].get("runPolicy", {}).get("suspend"))
        return JobStatus(suspended=suspended, message=held.get("Suspended", {}).get("message", "") if suspended else "")

    def selector(self, name: str) -> str:
        """See `Engine.selector`."""
        return f"{_LABEL}job-name={name},{_LABEL}operator-name=pytorchjob-controller"

    def node(self, pod: Document) -> int:
        """See `Engine.node`: the master comes first, where there is one."""
        labels = pod["metadata"].get("labels", {})
        index = int(labels.get(f"{_LABEL}replica-index", 0))
        has_master = labels.get(f"{_LABEL}replica-type") == "master" or "--master-addr" in _arguments(pod)
        return index + 1 if has_master and labels.get(f"{_LABEL}replica-type") == "worker" else index


def _arguments(pod: Document) -> list[str]:
    return [argument for each in pod.get("spec", {}).get("containers", []) for argument in each.get("args", [])]
