"""A training job on several machines: start it once, follow it, bring back its result or its cause of death.

    created    there was no job of this name
    adopted    an earlier attempt of the step has started it; this one goes on watching
    replaced   the earlier one failed: it is deleted, and made again under the same name and with the same folder, so
               that it goes on from the last checkpoint

SIGTERM and `cancel` send the DELETE before anything else: Kubeflow Pipelines leaves a step a second.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from headway.components.errors import ClusterError, PlatformError, TrainingError
from headway.components.kubernetes.client import Cluster, Document, ExistsError, ForbiddenError
from headway.components.settings import Settings
from headway.components.train_distributed.cluster_job import (
    Engine,
    Order,
    find_step,
    namespace_of,
    order,
    unknown_fields,
)
from headway.components.train_distributed.cluster_spec import ClusterSpec
from headway.components.train_distributed.cluster_watch import Following, Lost, Stopped
from headway.components.train_distributed.job import RESULT, Job, Result
from headway.components.train_distributed.launch import Watch
from headway.components.train_distributed.pytorchjob import PyTorchJobEngine
from headway.components.train_distributed.trainjob import TrainJobEngine

ROLE = "give the step's service account the role of manifests/training: kubectl apply -k manifests/training"
GONE_SECONDS = 300.0
"""How long a deleted job may take to go: its pods save their state meanwhile."""
SHARED_SECONDS = 60.0
"""How long a file that a pod wrote may take to be seen here: NFS clients look once a minute."""
_POLL = 0.5
_READS = {"Pod": ("get", "list", "watch"), "Event": ("list",)}


def launcher(settings: Settings) -> "ClusterLauncher":
    """The launcher of this installation's cluster.

    Raises:
        ConfigError: The training cluster document is wrong.
        PlatformError: There are no credentials for a cluster.
    """
    path = settings.training_cluster
    spec = ClusterSpec.load(path) if path else ClusterSpec()
    with _as_platform_error():
        return ClusterLauncher(Cluster(namespace_of(spec)), spec, settings)


class ClusterLauncher:
    """Runs jobs as TrainJobs or PyTorchJobs.

    Args:
        cluster: The API, in the namespace where jobs run.
        spec: What jobs get there.
        settings: The settings in force.
    """

    def __init__(self, cluster: Cluster, spec: ClusterSpec, settings: Settings) -> None:
        self._cluster, self._spec, self._settings = cluster, spec, settings

    def run(self, job: Job, watch: Watch) -> Result:
        """Run a job to its end; see `Launcher.run`.

        Raises:
            ConfigError: The job cannot run on a cluster: a folder is not shared.
            TrainingError: It failed, hung, passed its deadline, cannot start, or was cancelled.
            PlatformError: The cluster lacks something, forbids something, or is away.
        """
        with _as_platform_error():
            engine = self.engine()
            document, ordered = self._prepare(engine, job)
            left = 0 if engine.restarts_lost else self._spec.restarts
            while True:
                how, uid = self._start(engine, document, job, watch)
                watch.on_log(f"{engine.kind} {self._cluster.namespace}/{ordered.name} {how}")
                try:
                    self._follow(engine, ordered, uid, job, watch)
                    return self._result(job, engine, document, uid)
                except Lost as lost:
                    if not left:
                        raise lost.cause from None
                    left -= 1
                    watch.on_log(
                        f"a machine was lost: {lost.cause.problem}; the job starts again, {left} times at most"
                    )
                    self._delete(engine, ordered.name, uid, watch)

    def render(self, job: Job, engine: Engine) -> Document:
        """The object that a job becomes, as it would be sent."""
        return engine.document(order(job, self._spec, self._settings, find_step(self._cluster, job)))

    def engine(self) -> Engine:
        """What runs jobs here: what is asked for, or what the cluster has.

        Raises:
            PlatformError: The cluster does not have it.
        """
        wanted = self._spec.engine
        if wanted == "auto" and self._spec.elastic is not None:
            wanted = "pytorchjob"
        if wanted in ("auto", "trainjob") and self._cluster.serves(TrainJobEngine.kind):
            return TrainJobEngine.of(self._cluster)
        if wanted in ("auto", "pytorchjob") and self._cluster.serves(PyTorchJobEngine.kind):
            return PyTorchJobEngine()
        kinds = {"trainjob": "TrainJob", "pytorchjob": "PyTorchJob"}
        raise PlatformError(
            f"This cluster does not know the kind {kinds.get(wanted, 'TrainJob, nor PyTorchJob')}",
            expected="Kubeflow Trainer 2.1 or newer, or the Training Operator 1.9",
            fix="install one of them, or set `nodes: 1`: a step runs torchrun itself, with several GPUs too",
        )

    def _prepare(self, engine: Engine, job: Job) -> tuple[Document, Order]:
        """The job's object, once everything that would stop it is ruled out."""
        self._require_rights(engine)
        engine.check(self._cluster, self._spec)
        ordered = order(job, self._spec, self._settings, find_step(self._cluster, job))
        document = engine.document(ordered)
        if unknown := unknown_fields(document, self._cluster.schema(engine.kind)):
            raise PlatformError(
                f"This cluster's {engine.kind} has no {', '.join(unknown)}, and would drop it without a word",
                fix="upgrade Kubeflow Trainer, or leave that out of the training cluster document",
            )
        return document, ordered

    def _require_rights(self, engine: Engine) -> None:
        wanted = [(verb, kind, "") for kind, verbs in {**engine.needs, **_READS}.items() for verb in verbs]
        wanted.append(("get", "Pod", "log"))
        lacking = [
            f"{verb} {kind}{'/' + part if part else ''}"
            for verb, kind, part in wanted
            if not self._cluster.allowed(verb, kind, part=part)
        ]
        if lacking:
            raise PlatformError(
                f"These credentials may not, in the namespace {self._cluster.namespace!r}: {', '.join(lacking)}",
                fix=ROLE,
            )

    def _start(self, engine: Engine, document: Document, job: Job, watch: Watch) -> tuple[str, str]:
        """See to it that the job is there; `created`, `adopted` or `replaced`, and its uid."""
        name, how = document["metadata"]["name"], "created"
        while True:
            found = self._cluster.get(engine.kind, name)
            if found is not None and not self._is_spent(engine, found, job):
                return "adopted", found["metadata"]["uid"]
            if found is not None:
                how = "replaced"
                self._delete(engine, name, found["metadata"]["uid"], watch)
            if watch.cancel.is_set():
                raise TrainingError(f"Training of {job.name!r} was cancelled before it began")
            Path(job.folder).mkdir(parents=True, exist_ok=True)
            (Path(job.folder) / RESULT).unlink(missing_ok=True)
            job.write()
            try:
                return how, self._cluster.create(document)["metadata"]["uid"]
            except ExistsError:
                continue

    def _is_spent(self, engine: Engine, found: Document, job: Job) -> bool:
        """Whether an existing job can give no result any more."""
        outcome = engine.status(found).outcome
        if "deletionTimestamp" in found["metadata"] or outcome == "failed":
            return True
        return outcome == "complete" and not (Path(job.folder) / RESULT).is_file()

    def _delete(self, engine: Engine, name: str, uid: str, watch: Watch) -> None:
        """Delete a job and wait until all of it is gone: its successor has the same name."""
        self._cluster.delete(engine.kind, name, uid=uid)
        give_up = time.monotonic() + GONE_SECONDS
        while (self._cluster.get(engine.kind, name) or {"metadata": {}})["metadata"].get("uid") == uid:
            if time.monotonic() > give_up:
                raise PlatformError(
                    f"{engine.kind} {name} was deleted {GONE_SECONDS:.0f} s ago and is still there",
                    fix=f"see what holds it: kubectl -n {self._cluster.namespace} get pods -l {engine.selector(name)}",
                )
            if watch.cancel.wait(_POLL):
                raise TrainingError(f"Job {name} was cancelled before it began again")

    def _follow(self, engine: Engine, ordered: Order, uid: str, job: Job, watch: Watch) -> None:
        following = Following(self._cluster, engine, ordered, uid, job, watch)
        try:
            following.until_end()
        except Stopped as stopped:
            # Nothing comes before this: a step that was terminated has a second.
            self._cluster.delete(engine.kind, ordered.name, uid=uid)
            following.see_off()
            raise stopped.cause(following) from None
        except (Lost, TrainingError):
            raise
        except BaseException:
            # Also Ctrl-C in a notebook: no job outlives the one who started it.
            with contextlib.suppress(ClusterError):
                self._cluster.delete(engine.kind, ordered.name, uid=uid)
            raise
        finally:
            following.close()
            watch.on_state("ended")

    def _result(self, job: Job, engine: Engine, document: Document, uid: str) -> Result:
        """What rank 0 wrote."""
        path = Path(job.folder) / RESULT
        give_up = time.monotonic() + SHARED_SECONDS
        while not path.is_file() and time.monotonic() < give_up:
            time.sleep(_POLL)
        if not path.is_file():
            raise TrainingError(
                f"Training of {job.name!r} ended well, and its result is not at {path}",
                fix="mount the same shared volume at the same path in this step and in the job "
                "(volumes in the training cluster document)",
            )
        if "ownerReferences" not in document["metadata"]:
            # No Workflow takes it along, and neither engine's finished jobs go by themselves everywhere.
            self._cluster.delete(engine.kind, document["metadata"]["name"], uid=uid)
        return Result.load(path)


@contextlib.contextmanager
def _as_platform_error() -> Iterator[None]:
    """Errors of the Kubernetes API as what they are here; quotas and webhooks speak for themselves."""
    try:
        yield
    except ForbiddenError as error:
        said = error.problem
        passed_on = any(word in said for word in ("exceeded quota", "admission webhook", "denied the request"))
        raise PlatformError(said, fix=None if passed_on else ROLE) from None
    except ClusterError as error:
        raise PlatformError(error.problem, expected=error.expected, fix=error.fix) from None
