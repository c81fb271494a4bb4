"""A cluster that trains: the fake API server, a controller that takes away what is deleted, and hands that move pods.

A test starts the launcher in a thread (`World.launch`) and then plays the cluster: pods start, write, die, are evicted.
"""

import gzip
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from headway.components.kubernetes.client import Cluster
from headway.components.settings import Settings
from headway.components.train_distributed.cluster_spec import ClusterSpec
from headway.components.train_distributed.job import RESULT, Job, Result
from headway.components.train_distributed.launch import Watch
from headway.components.train_distributed.launch_cluster import ClusterLauncher
from tests.components.kubernetes import schemas
from tests.components.kubernetes.fake_kubernetes import TOKEN, FakeKubernetes, Object

NAMESPACE = "team-a"
IMAGE = "registry.example.com/headway-torch@sha256:" + "5" * 64
ENGINES = ("TrainJob", "PyTorchJob")
CONTAINERS = {"TrainJob": "node", "PyTorchJob": "pytorch"}
RECORD = '{"message": {"message": "%s", "extraInfo": {"py_callstack": "...", "timestamp": "%d"}}}'
PATIENCE = 20.0


class OlderTrainer(FakeKubernetes):
    """A cluster with Kubeflow Trainer 2.1, as Kubeflow 1.11 installs it."""

    def schema(self, kind: str) -> dict[str, Any]:
        if kind != "TrainJob":
            return super().schema(kind)
        path = Path(__file__).parent / "crds" / "trainjobs-2.1.0.json.gz"
        definition = json.loads(gzip.decompress(path.read_bytes()))
        found: dict[str, Any] = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        return found

    def problems(self, document: Object) -> list[str]:
        return schemas.problems_by(document, self.schema(document["kind"]))


class Launched:
    """A launcher at work in a thread."""

    def __init__(self, run: Callable[[Watch], Result]) -> None:
        self.log: list[str] = []
        self.states: list[str] = []
        self.steps: list[int] = []
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.cancel = threading.Event()
        self._watch = Watch(
            on_log=self.log.append,
            on_state=self.states.append,
            on_progress=lambda progress: self.steps.append(progress.step),
            cancel=self.cancel,
        )
        self._thread = threading.Thread(target=self._run, args=(run,), daemon=True)
        self._thread.start()

    def _run(self, run: Callable[[Watch], Result]) -> None:
        try:
            self.result = run(self._watch)
        except BaseException as error:
            self.error = error

    def end(self, seconds: float = PATIENCE) -> Self:
        """Wait until it is done."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), (self.states, self.log)
        return self

    def failed(self, kind: type[BaseException]) -> str:
        """What it raised, as text."""
        self.end()
        assert isinstance(self.error, kind), repr(self.error)
        return str(self.error)


class World:
    """One cluster, one kind of job, one job.

    Args:
        api: The cluster.
        kind: `TrainJob` or `PyTorchJob`.
        job: What is trained.
        spec: What jobs get there.
    """

    def __init__(self, api: FakeKubernetes, kind: str, job: Job, spec: ClusterSpec) -> None:
        self.api, self.kind, self.job, self.spec = api, kind, job, spec
        self.container = CONTAINERS[kind]
        api.absent |= set(ENGINES) - {kind}
        runtime = {"name": "headway-torch"}
        api.put({"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "ClusterTrainingRuntime", "metadata": runtime})
        self.saves = False
        """Whether ranks that are asked to stop save their state."""
        self._made = 0
        self._launched: list[Launched] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._collect, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for launched in self._launched:
            launched.cancel.set()
        for launched in self._launched:
            launched.end(60)
        self._stop.set()
        self._thread.join()

    # ---- the launcher

    @property
    def cluster(self) -> Cluster:
        return Cluster(NAMESPACE, configuration=configuration(self.api))

    @property
    def launcher(self) -> ClusterLauncher:
        return ClusterLauncher(self.cluster, self.spec, Settings(image=IMAGE))

    def launch(self) -> Launched:
        """The launcher at work; it is cancelled at the end of the test."""
        self._launched.append(Launched(lambda watch: self.launcher.run(self.job, watch)))
        return self._launched[-1]

    # ---- what the test sees

    @property
    def jobs(self) -> list[Object]:
        return self.api.all(self.kind)

    @property
    def job_object(self) -> Object:
        """The job, once it is there."""
        until(lambda: self.jobs)
        return self.jobs[0]

    @property
    def name(self) -> str:
        name: str = self.job_object["metadata"]["name"]
        return name

    def pods(self) -> list[Object]:
        return [pod for pod in self.api.all("Pod") if "trains" in pod["metadata"]["annotations"]]

    def requests(self, method: str) -> int:
        """How many requests of a method there were for jobs."""
        return sum(each == method and self.kind.lower() + "s" in path for each, path, _ in self.api.requests)

    # ---- what the cluster does

    def pod(self, node: int, *, attempt: int = 0, status: Object | None = None) -> str:
        """Make a pod that waits; its name."""
        self._made += 1
        name = f"{self.name}-{node}-{self._made}"
        head: Object = {"name": name, "namespace": NAMESPACE, "annotations": {"trains": "yes"}}
        if self.kind == "TrainJob":
            head["labels"] = {
                "jobset.sigs.k8s.io/jobset-name": self.name,
                "jobset.sigs.k8s.io/replicatedjob-name": "node",
                "jobset.sigs.k8s.io/restart-attempt": str(attempt),
                "batch.kubernetes.io/job-completion-index": str(node),
            }
        else:
            head["labels"] = {
                "training.kubeflow.org/job-name": self.name,
                "training.kubeflow.org/operator-name": "pytorchjob-controller",
                "training.kubeflow.org/replica-type": "worker" if node else "master",
                "training.kubeflow.org/replica-index": str(max(0, node - 1)),
            }
        arguments = self.job_arguments(node)
        body = {"containers": [{"name": self.container, "args": arguments}]}
        self.api.put(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": head,
                "spec": body,
                "status": status or {"phase": "Pending"},
            }
        )
        return name

    def job_arguments(self, node: int) -> list[str]:
        spec = self.job_object["spec"]
        if self.kind == "TrainJob":
            found: list[str] = spec["trainer"]["args"]
        else:
            replicas = spec["pytorchReplicaSpecs"]
            replica = replicas["Worker"] if node or "Master" not in replicas else replicas["Master"]
            found = replica["template"]["spec"]["containers"][0]["args"]
        return found

    def start(self, *, attempt: int = 0, nodes: int = 2) -> list[str]:
        """All pods run."""
        names = [self.pod(node, attempt=attempt) for node in range(nodes)]
        for name in names:
            self.run(name)
        return names

    def run(self, name: str) -> None:
        self.api.write(name, "")
        self.set_pod(name, "Running", {"running": {"startedAt": now()}})

    def die(
        self, name: str, message: str = "", *, code: int = 1, reason: str = "Error", at: float | None = None
    ) -> None:
        """A container ends, and leaves a message."""
        self.api.write(name, "", ended=True)
        stamp = datetime.fromtimestamp(at or time.time(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ended = {"exitCode": code, "reason": reason, "finishedAt": stamp} | ({"message": message} if message else {})
        self.set_pod(name, "Failed" if code else "Succeeded", {"terminated": ended})

    def set_pod(self, name: str, phase: str, state: Object | None, **status: Any) -> None:
        statuses = [{"name": self.container, "image": IMAGE, "state": state}] if state else []
        self.api.set_status("Pod", name, NAMESPACE, {"phase": phase, "containerStatuses": statuses, **status})

    def remove(self, *names: str) -> None:
        for name in names:
            self.api.write(name, "", ended=True)
            self.api.remove("Pod", name, NAMESPACE)
            del self.api.logs[name]

    def condition(self, kind: str, status: str = "True", *, reason: str = "", message: str = "") -> None:
        names = {"Complete": "Succeeded"} if self.kind == "PyTorchJob" else {}
        each = {"type": names.get(kind, kind), "status": status, "reason": reason or kind, "message": message}
        each |= {"lastTransitionTime": now()}
        found = self.job_object.get("status", {}).get("conditions", [])
        others = [old for old in found if old["type"] != each["type"]]
        self.api.set_status(self.kind, self.name, NAMESPACE, {"conditions": [*others, each]})

    def complete(self, names: list[str]) -> None:
        """Rank 0 writes its result, and all ends well."""
        write_result(self.job)
        for name in names:
            self.die(name, code=0, reason="Completed")
        self.condition("Complete")

    def warn(self, reason: str, message: str, *, about: str = "", kind: str = "Job", at: str = "") -> None:
        """An event about one of the job's objects."""
        self._made += 1
        self.api.put(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": f"event-{self._made}", "namespace": NAMESPACE},
                "type": "Warning",
                "reason": reason,
                "message": message,
                "lastTimestamp": at or now(),
                "involvedObject": {"kind": kind, "name": about or f"{self.name}-node-0"},
            }
        )

    def _collect(self) -> None:
        """Foreground deletion: the pods go first, after their last words."""
        while not self._stop.wait(0.02):
            for job in self.jobs:
                if "deletionTimestamp" not in job["metadata"]:
                    continue
                for pod in self.pods():
                    if self.saves:
                        self.api.write(pod["metadata"]["name"], "state saved at step 40")
                        time.sleep(0.3)
                    self.remove(pod["metadata"]["name"])
                self.api.remove(self.kind, job["metadata"]["name"], NAMESPACE)


def configuration(api: FakeKubernetes) -> Any:
    from kubernetes import client

    return client.Configuration(host=api.url, api_key={"authorization": f"Bearer {TOKEN}"})


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def until(done: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Wait for something; fails when it does not come."""
    give_up = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.02)


def write_result(job: Job) -> None:
    Path(job.folder).mkdir(parents=True, exist_ok=True)
    result = Result(
        digest="d" * 64,
        formats=["torch"],
        parity=None,
        onnx_note="",
        task="binary",
        classes=2,
        features=3,
        parameters=10,
        rows=100,
        held_back=0,
        processes=8,
        device="cuda",
        precision="bfloat16",
        parallel="ddp",
        epochs=[],
        best_epoch=1,
        steps=40,
        resumed_at=0,
        seconds=1.0,
        weights="w",
        metrics={},
    )
    (Path(job.folder) / RESULT).write_text(result.model_dump_json(), encoding="utf-8")
