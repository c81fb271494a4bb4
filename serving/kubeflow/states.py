"""How far a variant has come, from what KServe, its pods and its revision say.

`status.observedGeneration` of an InferenceService is its Deployment's, and its `Ready` stays true while another version
rolls out. So a variant counts as ready only when a pod that carries exactly its digest is ready too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from headway.components.kubernetes.client import Cluster, Document
from headway.serving.inference_service import VARIANT_LABEL
from headway.serving.platform import Phase, Variant, VariantState

ABSENT = VariantState(phase=Phase.ABSENT)
_DIGEST = "serving.headway/digest"
_HOPELESS = frozenset({"InvalidImageName", "CrashLoopBackOff"})
"""Why a container waits that waiting does not cure; an image may still be pushed, a ConfigMap still be made."""
_BLOCKED = frozenset({"BlockedByFailedLoad", "InvalidSpec"})


def pods_of(cluster: Cluster, service: str, variant: str) -> list[Document]:
    """The pods that one variant of an InferenceService runs in."""
    labels = {"serving.kserve.io/inferenceservice": service, VARIANT_LABEL: variant}
    return cluster.list("Pod", labels)


def conditions_of(document: Document) -> dict[str, str]:
    """Conditions in words: `PredictorReady: False (MinimumReplicasUnavailable)`."""
    found = document.get("status", {}).get("conditions", [])
    return {each["type"]: each["status"] + _why(each) for each in found}


def is_true(document: Document, condition: str) -> bool:
    """Whether a condition holds."""
    found = document.get("status", {}).get("conditions", [])
    return any(each["type"] == condition and each["status"] == "True" for each in found)


def state(
    service: Document,
    deployed: Variant,
    variant: Variant,
    pods: Sequence[Document],
    *,
    serving: bool,
    revision: Document | None = None,
) -> VariantState:
    """One variant's state.

    Args:
        service: Its InferenceService.
        deployed: The variant of that name that is deployed.
        variant: The variant that is wanted.
        pods: Its pods.
        serving: Whether KServe calls it ready.
        revision: Its revision, in knative mode; it may run in no pod at all and be ready.
    """
    conditions = conditions_of(service)
    if revision:
        conditions |= {f"Revision{name}": said for name, said in conditions_of(revision).items()}
    if deployed.digest != variant.digest:
        reason = f"{variant.name} runs the bundle {deployed.digest[:12]}…, not {variant.digest[:12]}…"
        return VariantState(phase=Phase.FAILED, reason=reason, conditions=conditions)
    answers = revision is not None or any(_answers(pod, variant.digest) for pod in pods)
    if serving and answers:
        return VariantState(phase=Phase.READY, conditions=conditions)
    hopeless, reason = _problem(service, pods, revision)
    phase = Phase.FAILED if hopeless else Phase.STARTING
    return VariantState(phase=phase, reason=reason or "its pods have not started yet", conditions=conditions)


def _answers(pod: Document, digest: str) -> bool:
    head = pod["metadata"]
    carries = head.get("annotations", {}).get(_DIGEST) == digest
    return carries and "deletionTimestamp" not in head and is_true(pod, "Ready")


def _problem(service: Document, pods: Sequence[Document], revision: Document | None) -> tuple[bool, str]:
    """Whether it is hopeless, and the most telling reason: a container's, the model's, then a condition's."""
    for pod in pods:
        for container in _containers(pod):
            waiting = container.get("state", {}).get("waiting")
            if waiting and waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
                last = container.get("lastState", {}).get("terminated", {}).get("message", "")
                text = _joined(container["name"], waiting["reason"], waiting.get("message", ""), last)
                return waiting["reason"] in _HOPELESS, text
    if revision is not None:
        failed = [each for each in _false(revision) if each["type"] == "Ready"]
        return bool(failed), _joined(*(_said(each) for each in failed))
    model = service.get("status", {}).get("modelStatus", {})
    info = model.get("lastFailureInfo", {})
    if info:
        blocked = model.get("transitionStatus") in _BLOCKED
        return blocked, _joined(info.get("reason", ""), info.get("message", ""))
    return False, "; ".join(_said(each) for each in _false(service) if each["type"] != "Ready")


def _containers(pod: Document) -> list[Document]:
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def _false(document: Document) -> list[Document]:
    return [each for each in document.get("status", {}).get("conditions", []) if each["status"] == "False"]


def _said(condition: Mapping[str, Any]) -> str:
    return _joined(condition["type"], condition.get("reason", ""), condition.get("message", ""))


def _why(condition: Mapping[str, Any]) -> str:
    said = _joined(condition.get("reason", ""), condition.get("message", ""))
    return f" ({said})" if said else ""


def _joined(*parts: str) -> str:
    return ": ".join(part.strip() for part in parts if part and part.strip())
