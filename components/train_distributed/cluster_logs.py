"""Rank 0's log, as long as the job lives: through pods that wait, die and are replaced."""

import threading
from collections.abc import Callable

from headway.components.errors import ClusterError
from headway.components.kubernetes.client import Cluster, Document, DroppedError
from headway.components.kubernetes.follow import LogTail
from headway.components.train_distributed.cluster_pods import has_ended, has_started

_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


class LogFollower:
    """Hands out each line of rank 0's pods once, in a thread of its own.

    Args:
        cluster: The API.
        container: The container's name.
        pods: The pods of machine 0 as they are now.
        say: Gets each line.
    """

    def __init__(
        self, cluster: Cluster, container: str, pods: Callable[[], list[Document]], say: Callable[[str], None]
    ) -> None:
        self._cluster, self._container, self._pods, self._say = cluster, container, pods, say
        self._tails: dict[str, LogTail] = {}
        self._read: set[str] = set()
        """Pods whose log has been read to its end."""
        self._finish, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="log of rank 0", daemon=True)
        self._thread.start()

    def finish(self, seconds: float) -> None:
        """Read what there still is, for a while, and end."""
        self._finish.set()
        self._thread.join(seconds)
        self._stop.set()

    def _run(self) -> None:
        pause = _PAUSE
        while not self._stop.is_set():
            pod = self._next()
            if pod is None:
                if self._finish.is_set():
                    return
                self._stop.wait(_PAUSE)
                continue
            heard = self._listen(pod)
            pause = _PAUSE if heard else min(2 * pause, _LONGEST_PAUSE)
            self._stop.wait(pause)

    def _next(self) -> Document | None:
        """The newest pod that has a log which is not read yet."""
        ready = [
            pod
            for pod in self._pods()
            if has_started(pod, self._container) and pod["metadata"]["uid"] not in self._read
        ]
        return max(ready, key=lambda pod: pod["metadata"]["creationTimestamp"], default=None)

    def _listen(self, pod: Document) -> bool:
        """Follow one pod's log until it or the connection ends; whether there was anything."""
        head = pod["metadata"]
        tail = self._tails.setdefault(head["uid"], LogTail(self._cluster, head["name"], self._container))
        heard = False
        try:
            for line in tail.lines():
                heard = True
                self._say(line)
                if self._stop.is_set():
                    return heard
        except DroppedError:
            return heard
        except ClusterError:
            # The pod has gone since, or its log is not there yet. The job's end does not wait for it.
            if self._finish.is_set():
                self._read.add(head["uid"])
            return heard
        if has_ended(pod, self._container):
            self._read.add(head["uid"])
        return heard
