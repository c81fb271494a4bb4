"""Follow a job on a cluster until it ends, or until it has to be ended."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from headway.components.errors import ClusterError, TrainingError
from headway.components.kubernetes.client import Cluster, Document, DroppedError
from headway.components.kubernetes.follow import changes
from headway.components.train_distributed.cluster_job import Engine, JobStatus, Order
from headway.components.train_distributed.cluster_logs import LogFollower
from headway.components.train_distributed.cluster_pods import (
    Death,
    Trouble,
    deaths,
    first,
    running,
    told,
    troubles,
)
from headway.components.train_distributed.job import Heartbeat, Job, Progress
from headway.components.train_distributed.launch import GRACE, TAIL, Watch

POLL = 0.2
EVENT_SECONDS = 5.0
"""Seconds between two looks at the events about a job that does not run."""
MARGIN = 60.0
"""Seconds that a cluster which keeps the deadline itself has before the launcher does it."""
LAST_WORDS = 5.0
"""Seconds that a failed job's pods have to show what they died of, and rank 0's log to be read."""


class Stopped(Exception):  # noqa: N818 - it is the launcher that stops the job
    """The job has to be ended; `why` says so to the user.

    Args:
        why: The reason.
        fix: What to do about it.
    """

    def __init__(self, why: str, fix: str = "run it again: it goes on from there") -> None:
        super().__init__(why)
        self.why, self.fix = why, fix

    def cause(self, following: "Following") -> TrainingError:
        """The error for the user, once the job has been seen off."""
        saved = "; its state is saved" if following.saved else ""
        return TrainingError(
            f"Training of {following.job.name!r} ended early: {self.why}{saved}",
            fix=self.fix,
        )


class Lost(Exception):  # noqa: N818 - a machine was lost, nothing is wrong with the program
    """The job failed because a machine went.

    Args:
        cause: The error for the user, when it shall not start again.
    """

    def __init__(self, cause: TrainingError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Following:
    """One job, seen through its own object, its pods, its events and rank 0's log.

    Args:
        cluster: The API.
        engine: What runs the job.
        order: The job as it was ordered.
        uid: Its object's uid; one with the same name and another uid is another attempt's.
        job: The job.
        watch: Who wants to know.
    """

    def __init__(self, cluster: Cluster, engine: Engine, order: Order, uid: str, job: Job, watch: Watch) -> None:
        self._uid = uid
        self.job, self.saved = job, False
        self._cluster, self._engine, self._order, self._watch = cluster, engine, order, watch
        self._stop = threading.Event()
        self._object: Document | None = None
        self._seen = False
        """Whether the job's object has been looked for."""
        self._pods: dict[str, Document] = {}
        self._deaths: dict[tuple[str, str], Death] = {}
        """By pod and time: a pod that is replaced takes its status along."""
        self._problem: Exception | None = None
        """What ended one of the threads."""
        self._state, self._since = "", time.monotonic()
        self._clock = _Clock()
        self._patience = _Patience(order.cluster.stuck_after, watch.on_log)
        self._pulse = _PulseOfRanks(job)
        self._events: list[Trouble] = []
        only = {"fieldSelector": f"metadata.name={order.name}"}
        self._thread(lambda: self._follow(engine.kind, only, self._see_object))
        self._thread(lambda: self._follow("Pod", {"labelSelector": engine.selector(order.name)}, self._see_pods))
        self._thread(self._ask_for_events)
        self._log = LogFollower(cluster, engine.container, self._first_pods, self._heard)

    def until_end(self) -> None:
        """Return when the job is complete.

        Raises:
            Stopped: It has to be ended.
            Lost: It failed because a machine went.
            TrainingError: It failed.
        """
        while True:
            if self._problem is not None:
                raise self._problem
            if self._seen:
                status = self._status()
                if status.outcome == "complete":
                    self._log.finish(LAST_WORDS)
                    return
                if status.outcome == "failed":
                    self._fail(status)
                self._look(status)
            if self._watch.cancel.wait(POLL):
                raise Stopped("it was cancelled")

    def see_off(self) -> None:
        """Wait a while until a deleted job is gone; its ranks save their state meanwhile."""
        give_up = time.monotonic() + GRACE
        while (self._object is not None or not self._seen) and time.monotonic() < give_up and self._problem is None:
            time.sleep(POLL)
        self._log.finish(LAST_WORDS)

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        self._log.finish(0.0)

    # ---- what the threads see

    def _thread(self, run: Callable[[], None]) -> None:
        threading.Thread(target=run, name="watch of a job", daemon=True).start()

    def _follow(self, kind: str, query: dict[str, str], see: Callable[[dict[str, Document]], None]) -> None:
        try:
            for found in changes(self._cluster, kind, query, self._stop):
                see(found)
        # It is raised where the caller waits: a thread that is gone would leave it waiting for ever.
        except Exception as error:
            self._problem = error

    def _see_object(self, found: dict[str, Document]) -> None:
        self._object, self._seen = found.get(self._uid), True

    def _see_pods(self, found: dict[str, Document]) -> None:
        self._pods = found
        for uid, pod in found.items():
            for death in deaths(pod, self._engine.node(pod), self._engine.container):
                self._deaths[uid, death.at] = death

    def _ask_for_events(self) -> None:
        """See what warnings say about the job's objects, which are all named after it, while it does not run."""
        while not self._stop.wait(EVENT_SECONDS):
            found = self._object
            if found is None or self._state == "running":
                self._events = []
                continue
            try:
                warnings, _ = self._cluster.read("Event", {"fieldSelector": "type=Warning"})
            except ClusterError:
                continue  # the API's absence is the watches' business
            mine = [each for each in warnings if self._order.name in each.get("involvedObject", {}).get("name", "")]
            self._events = told(mine, found["metadata"]["creationTimestamp"])

    def _first_pods(self) -> list[Document]:
        return [pod for pod in self._pods.values() if self._engine.node(pod) == 0]

    def _heard(self, line: str) -> None:
        self.saved = self.saved or "state saved" in line
        progress = Progress.parse(line)
        if progress is not None:
            self._watch.on_progress(progress)
        self._watch.on_log(line)

    # ---- what is made of it

    def _status(self) -> JobStatus:
        found = self._object
        if found is None or "deletionTimestamp" in found["metadata"]:
            raise Stopped("somebody deleted the job", fix="see who did, then run it again: it goes on from there")
        return self._engine.status(found)

    def _look(self, status: JobStatus) -> None:
        """One look at a job that goes on.

        Raises:
            Stopped: It has to be ended.
        """
        state = self._state_of(status)
        if state != self._state:
            self._state, self._since = state, time.monotonic()
            self._watch.on_state(state)
        if state == "running":
            self._patience.forget()
            if hang := self._pulse.hangs():
                raise Stopped(hang, fix="read the logs of that rank's pod, and the ranks' stacks in it")
        else:
            self._pulse.forget()
            self._patience.take([*troubles(self._pods.values()), *self._events])
            if time.monotonic() - self._since > self._order.cluster.queue_limit:
                raise Stopped(
                    f"it did not run within {self._order.cluster.queue_limit:.0f} s; {self._patience.last or state}"
                )
        limit = self._order.deadline + (MARGIN if self._engine.ends_late else 0.0)
        if self._clock.counts(state != "queued") > limit:
            raise Stopped(f"it passed its deadline of {self._order.deadline} s")

    def _state_of(self, status: JobStatus) -> str:
        if status.suspended:
            return "queued"
        elastic = self._order.cluster.elastic
        needed = elastic.least if elastic else self._order.nodes
        return "running" if running(self._pods.values(), self._engine.container) >= needed else "pending"

    def _fail(self, status: JobStatus) -> None:
        if status.reason == "DeadlineExceeded":
            raise Stopped(f"it passed its deadline of {self._order.deadline} s")
        give_up = time.monotonic() + LAST_WORDS
        # The job's object and its pods come by different watches.
        while not self._deaths and self._pods and time.monotonic() < give_up:
            time.sleep(POLL)
        self._log.finish(LAST_WORDS)
        death = first(list(self._deaths.values()))
        if death is None:
            said = ": ".join(part for part in (status.reason, status.message) if part) or "no reason was given"
            raise TrainingError(f"Training of {self.job.name!r} failed: {said}", fix=self._where())
        if death.node:
            self._tail_of(death)
        problem, expected, fix = death.cause
        fix = fix or f"read its log: kubectl -n {self._cluster.namespace} logs {death.pod}"
        cause = TrainingError(f"Training of {self.job.name!r} failed: {problem}", expected=expected, fix=fix)
        if death.is_lost:
            raise Lost(cause)
        raise cause

    def _tail_of(self, death: Death) -> None:
        """The last lines of a pod whose log nobody followed."""
        query = {"container": self._engine.container, "tailLines": TAIL}
        try:
            lines = list(self._cluster.logs(death.pod, query, quiet=LAST_WORDS))
        except (ClusterError, DroppedError) as error:
            self._watch.on_log(f"no log of {death.pod}: {error}")
            return
        self._watch.on_log(f"the last lines of {death.pod}, which failed first:")
        for line in lines:
            self._watch.on_log(line)

    def _where(self) -> str:
        kind, name = self._engine.kind.lower(), self._order.name
        return f"kubectl -n {self._cluster.namespace} describe {kind} {name}"


class _Clock:
    """Seconds that count against the deadline: those in a queue do not, and a new start begins anew."""

    def __init__(self) -> None:
        self._began: float | None = None

    def counts(self, active: bool) -> float:
        if not active:
            self._began = None
            return 0.0
        self._began = self._began or time.monotonic()
        return time.monotonic() - self._began


class _Patience:
    """How long each trouble has lasted, and what is said about it.

    Args:
        seconds: What a trouble may last.
        say: Gets what the user should know.
    """

    def __init__(self, seconds: float, say: Callable[[str], None]) -> None:
        self._seconds, self._say = seconds, say
        self._first: dict[str, float] = {}
        self._said: dict[str, str] = {}
        self.last = ""
        """The newest trouble."""

    def take(self, found: list[Trouble]) -> None:
        """Take note of what is wrong now.

        Raises:
            Stopped: Something hopeless has lasted too long.
        """
        now = time.monotonic()
        self._first = {each.key: self._first.get(each.key, now) for each in found}
        for trouble in found:
            self.last = trouble.text
            lasted = now - self._first[trouble.key]
            refused = "quota" in trouble.text
            if (refused or lasted > self._seconds) and trouble.key not in self._said:
                self._said[trouble.key] = trouble.text
                self._say(f"waiting: {trouble.text}")
            if trouble.hopeless and lasted > self._seconds:
                raise Stopped(f"it cannot start: {trouble.text}", fix="put that right, then run it again")

    def forget(self) -> None:
        """All is well."""
        self._first, self._said, self.last = {}, {}, ""


class _PulseOfRanks:
    """The heartbeats that ranks write into the job's folder, which is shared.

    Args:
        job: The job.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._beats, self._moved, self._looked = -1, time.monotonic(), 0.0

    def hangs(self) -> str:
        """Which rank the others wait for, when none has moved for too long; nothing while all is well."""
        now = time.monotonic()
        if now - self._looked < 1.0:
            return ""
        self._looked = now
        ranks = Heartbeat.all_in(Path(self._job.folder))
        found = sum(rank.beats for rank in ranks)
        if found != self._beats or not ranks:
            self._beats, self._moved = found, now
            return ""
        if now - self._moved < self._job.training.patience:
            return ""
        slow = min(ranks, key=lambda rank: rank.position)
        return (
            f"no rank moved for {now - self._moved:.0f} s, and the others wait for rank {slow.rank}, in the phase "
            f"{slow.phase!r} of step {slow.step + 1}"
        )
