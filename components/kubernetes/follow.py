"""Follow objects, or a pod's log, for days: through lost watches, an API server that restarts, and replaced versions.

for pods in changes(cluster, "Pod", {"labelSelector": "job-name=t"}, stop):
    ...                                  # all of them by uid, each time one has changed
"""

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from headway.components.errors import ClusterError
from headway.components.kubernetes.client import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    Cluster,
    Document,
    DroppedError,
    ForbiddenError,
    GoneError,
)

WATCH_SECONDS = 10
"""How long one watch is asked for: so long its thread may outlive its reader."""
OUTAGE_SECONDS = 1_800.0
"""How long the API server may be away: the upgrade of a control plane takes a quarter of an hour."""
QUIET_SECONDS = 60.0
"""Silence of a log after which it is asked for again: a dead connection says nothing either."""


def changes(
    cluster: Cluster, kind: str, query: Mapping[str, str], stop: threading.Event, *, outage: float = OUTAGE_SECONDS
) -> Iterator[dict[str, Document]]:
    """Objects by uid, each time one of them has changed, until `stop` is set.

    Args:
        cluster: The API.
        kind: The objects' kind.
        query: Selectors, as the API takes them.
        stop: Set it to end this.
        outage: Seconds that the API may be away.

    Raises:
        ForbiddenError: These credentials may not.
        ClusterError: The API was away too long.
    """
    seen: dict[str, Document] = {}
    version, pause, answered = "", FIRST_PAUSE, time.monotonic()
    while not stop.is_set():
        try:
            if not version:
                items, version = cluster.read(kind, query)
                seen = {item["metadata"]["uid"]: item for item in items}
                yield dict(seen)
            for change, item in cluster.watch(kind, query, version, WATCH_SECONDS):
                version, pause, answered = item["metadata"]["resourceVersion"], FIRST_PAUSE, time.monotonic()
                if change == "DELETED":
                    seen.pop(item["metadata"]["uid"], None)
                elif change != "BOOKMARK":
                    seen[item["metadata"]["uid"]] = item
                yield dict(seen)
            answered = time.monotonic()
        except GoneError:
            version = ""
        except ForbiddenError:
            raise
        except (DroppedError, ClusterError) as error:
            if isinstance(error, ClusterError) and time.monotonic() - answered > outage:
                raise
            stop.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


@dataclass
class LogTail:
    """A container's log, each line once, however often the connection breaks.

    Args:
        cluster: The API.
        pod: The pod's name.
        container: The container's.
    """

    cluster: Cluster
    pod: str
    container: str
    _since: str = ""
    _last: tuple[datetime, str] | None = None
    _repeats: int = field(default=0)
    """Lines that have been handed out and bear the time of the last one."""

    def lines(self) -> Iterator[str]:
        """What is new, without its time, until the log or the connection ends; call it again to go on.

        Raises:
            DroppedError: The connection broke.
            ClusterError: There is no such log, or not yet.
        """
        query = {"container": self.container, "follow": "true", "timestamps": "true"}
        if self._since:
            query["sinceTime"] = self._since
        last, skip = self._last, self._repeats
        for line in self.cluster.logs(self.pod, query, quiet=QUIET_SECONDS):
            stamp, _, text = line.partition(" ")
            try:
                at = moment(stamp)
            except ValueError:
                yield line  # the kubelet's own words: "unable to retrieve container logs"
                continue
            # `sinceTime` counts in whole seconds, so the last second comes again.
            if last is not None and at < last:
                continue
            if at == last and skip:
                skip -= 1
                continue
            self._repeats = self._repeats + 1 if at == self._last else 1
            self._since, self._last = stamp, at
            yield text


def moment(stamp: str) -> tuple[datetime, str]:
    """A time of the API to the nanosecond, in a form that can be compared.

    Example:
        >>> moment("2026-01-01T00:00:00.5Z") > moment("2026-01-01T00:00:00.25Z")
        True
        >>> moment("2026-01-01T01:00:00+01:00") == moment("2026-01-01T00:00:00Z")
        True
    """
    head, digits = stamp[:19], ""
    rest = stamp[19:]
    if rest.startswith("."):
        digits = rest[1:].rstrip("Z").split("+")[0].split("-")[0]
        rest = rest[1 + len(digits) :]
    return datetime.fromisoformat(head + (rest or "Z")), digits.ljust(9, "0")
