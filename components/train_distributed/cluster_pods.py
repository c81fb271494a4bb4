"""What a job's pods say: how far they are, what holds them up, and which of them died first and of what."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from headway.components.kubernetes.client import Document
from headway.components.kubernetes.follow import moment
from headway.components.train_distributed.causes import parse_cause

LATE = 60.0
"""Seconds by which the end of a culprit may follow its peers': torchrun first ends the other ranks of its machine."""
_PEER = re.compile(
    r"closed by peer|reset by peer|Connection refused|Timed out waiting|Broken pipe|RendezvousConnectionError"
    r"|DistStoreError|remote process exited|NCCL communicator was aborted|ncclRemoteError|ProcessGroup\w* .*timeout",
    re.IGNORECASE,
)
"""What a rank says when another one has died."""
_UNPULLABLE = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_UNSTARTABLE = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_LOST = frozenset({"Evicted", "Preempting", "NodeLost", "NodeShutdown", "Terminated", "Shutdown", "NodeAffinity"})
_KILLED, _TERMINATED = 137, 143


@dataclass(frozen=True, kw_only=True)
class Death:
    """A container that ended without success, or a pod that was taken away."""

    pod: str
    node: int
    at: str
    """When, as the API writes it, to the second."""
    exit_code: int
    reason: str
    message: str
    """What it left in the termination log, or why its pod went."""
    attempt: int = 0
    """How often the gang had started again before."""

    @property
    def cause(self) -> tuple[str, str | None, str | None]:
        """The problem, what was expected, and what to do."""
        said = _exception(self.message)
        if said:
            return parse_cause(said)
        killed = {"OOMKilled": "it used more memory than it was given (OOMKilled)"}
        last = next(iter(self.message.strip().splitlines()[-1:]), "")
        why = killed.get(self.reason) or ": ".join(part for part in (self.reason, last) if part)
        fix = "raise placement.memory, or lower batch_size or cache" if self.reason == "OOMKilled" else None
        return f"pod {self.pod} ended with exit code {self.exit_code}: {why}", None, fix

    @property
    def is_consequence(self) -> bool:
        """Whether it only tells that another one died first, or that somebody ended it."""
        return bool(_PEER.search(_exception(self.message) or self.message)) or (
            self.exit_code == _TERMINATED and not self.is_lost
        )

    @property
    def is_lost(self) -> bool:
        """Whether the machine went, and not the program: worth another start."""
        killed = self.exit_code == _KILLED and self.reason != "OOMKilled" and not _exception(self.message)
        return self.reason in _LOST or killed

    @property
    def seconds(self) -> float:
        """When, in seconds: of the exception where the rank noted it, which is before torchrun ended."""
        noted = re.search(r'"timestamp": "?(\d+)', self.message)
        return float(noted[1]) if noted else moment(self.at)[0].timestamp()


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What keeps a pod from running."""

    key: str
    """Which trouble it is: the same while its wording changes."""
    text: str
    hopeless: bool
    """Whether waiting will not help."""


def deaths(pod: Document, node: int, container: str) -> list[Death]:
    """Deaths in one pod, the present container's and the one's before."""
    head, status = pod["metadata"], pod.get("status", {})
    attempt = int(head.get("labels", {}).get("jobset.sigs.k8s.io/restart-attempt", 0))
    found = []
    state = _container(pod, container)
    taken = _taken(pod)
    for ended in (state.get(key, {}).get("terminated") for key in ("lastState", "state")):
        if not ended or not ended.get("exitCode"):
            continue
        message = ended.get("message", "")
        reason = taken[0] if taken and not _exception(message) else ended.get("reason", "Error")
        found.append(
            Death(
                pod=head["name"],
                node=node,
                at=ended["finishedAt"],
                exit_code=ended["exitCode"],
                reason=reason,
                message=message or (taken[1] if taken else ""),
                attempt=attempt,
            )
        )
    if not found and taken and status.get("phase") == "Failed":
        at = taken[2] or status.get("startTime") or head["creationTimestamp"]
        found.append(
            Death(
                pod=head["name"],
                node=node,
                at=at,
                exit_code=_KILLED,
                reason=taken[0],
                message=taken[1],
                attempt=attempt,
            )
        )
    return found


def first(found: Iterable[Death]) -> Death | None:
    """The death that caused the others.

    Of the last start of the gang, the earliest one; of those within a minute of it, one that speaks of itself goes
    before one that says that a peer has gone: Kubernetes counts in whole seconds, and torchrun takes its time to end.
    """
    known = list(found)
    if not known:
        return None
    last = max(death.attempt for death in known)
    known = sorted((death for death in known if death.attempt == last), key=lambda death: (death.seconds, death.node))
    near = [death for death in known if death.seconds - known[0].seconds <= LATE]
    return min(near, key=lambda death: (death.is_consequence, death.seconds, death.node))


def running(pods: Iterable[Document], container: str) -> int:
    """Pods whose container runs, or has ended well."""
    count = 0
    for pod in pods:
        state = _container(pod, container).get("state", {})
        ended_well = state.get("terminated", {}).get("exitCode") == 0
        count += ("running" in state and "deletionTimestamp" not in pod["metadata"]) or ended_well
    return count


def has_started(pod: Document, container: str) -> bool:
    """Whether there is a log."""
    return bool({"running", "terminated"} & set(_container(pod, container).get("state", {})))


def has_ended(pod: Document, container: str) -> bool:
    """Whether nothing will be added to its log."""
    return "terminated" in _container(pod, container).get("state", {})


def troubles(pods: Iterable[Document]) -> list[Trouble]:
    """What pods wait for."""
    found = []
    for pod in pods:
        name, status = pod["metadata"]["name"], pod.get("status", {})
        for each in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
            waiting = each.get("state", {}).get("waiting", {})
            said = f"{waiting.get('reason')}: {waiting.get('message', '')}".rstrip(": ")
            if waiting.get("reason") in _UNPULLABLE:
                image = each.get("image", "")
                text = f"pod {name} cannot pull its image {image}: {said}"
                found.append(Trouble(key=f"image {image}", text=text, hopeless=True))
            elif waiting.get("reason") in _UNSTARTABLE:
                found.append(Trouble(key=f"start {name}", text=f"pod {name} cannot start: {said}", hopeless=True))
        for condition in status.get("conditions", []):
            if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
                text = f"no machine can take pod {name}: {condition.get('message', '')}"
                found.append(Trouble(key="schedule", text=text, hopeless=False))
    return found


def told(events: Iterable[Document], since: str) -> list[Trouble]:
    """What warnings say about a job's objects: quotas, webhooks, volumes, Kueue.

    Args:
        events: Warnings about them.
        since: When the job was created; older ones are about another job of the same name.
    """
    newest: dict[str, tuple[tuple[datetime, str], Document]] = {}
    for event in events:
        stamp = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"]
        about = f"{event.get('reason')} {event.get('involvedObject', {}).get('kind')}"
        if moment(stamp) < moment(since) or event.get("reason") == "FailedScheduling":
            continue  # the pod's own condition says the latter, and takes it back
        if about not in newest or moment(stamp) >= newest[about][0]:
            newest[about] = (moment(stamp), event)
    found = []
    for about, (_, event) in newest.items():
        message = event.get("message", "")
        refused = event.get("reason") in ("FailedCreate", "FailedCreatePod", "TrainJobResourcesCreationFailed")
        found.append(Trouble(key=about, text=f"{event.get('reason')}: {message}", hopeless=refused))
    return found


def _container(pod: Document, name: str) -> Mapping[str, Document]:
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return next((each for each in statuses if each["name"] == name), {})


def _taken(pod: Document) -> tuple[str, str, str] | None:
    """Why a pod was taken away, as (reason, message, time), when it was."""
    status = pod.get("status", {})
    for condition in status.get("conditions", []):
        if condition["type"] == "DisruptionTarget" and condition.get("status") == "True":
            # Its reasons are many: preempted, evicted by a taint, drained. All mean that the pod had to go.
            said = f"{condition.get('reason', '')}: {condition.get('message', '')}"
            return "Evicted", said, condition.get("lastTransitionTime", "")
    if status.get("phase") == "Failed" and status.get("reason"):
        return status["reason"], status.get("message", ""), ""
    return None


def _exception(message: str) -> str:
    """The exception in what torchrun's `@record` wrote, as `Type: text`; nothing when it is something else.

    Example:
        >>> _exception('{"message": {"message": "ValueError: bad shard", "extraInfo": {}}}')
        'ValueError: bad shard'
    """
    try:
        document = json.loads(message)
    except ValueError:
        return _end_of_record(message)
    inner = document.get("message", "") if isinstance(document, dict) else ""
    return str(inner.get("message", "") if isinstance(inner, dict) else inner)


def _end_of_record(message: str) -> str:
    r"""The exception in a record whose beginning is lost: Kubernetes keeps the last 4,096 bytes.

    Example:
        >>> _end_of_record('line 3, in main\\n    f()\\nValueError: bad shard\\n", "timestamp": "17"}}}')
        'ValueError: bad shard'
    """
    found = re.search(r'(.*)", "timestamp": "?\d+"?\}\}\}\s*$', message, re.DOTALL)
    if not found:
        return ""
    lines = [line for line in found[1].replace('\\"', '"').split("\\n") if line and not line.startswith(" ")]
    return lines[-1] if lines else ""
