"""Prometheus' HTTP API: how much counters rose between two moments, exactly.

PromQL's own `increase()` extrapolates to the ends of its window: a third of a request here, two counted twice there. A
release adds up many short windows, so rises are computed from the samples themselves, with a counter's restart seen
where its value falls. Moments are milliseconds since 1970, by Prometheus' clock.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from headway.components.errors import MeasurementError
from headway.components.register.ledger import without_secrets

Labels = frozenset[tuple[str, str]]

ANSWER_SECONDS = 30
SLICE_MS = 6 * 3_600_000
"""A longer stretch is read in slices, so that no answer is too large."""
BEFORE = "1d"
"""How far back a series' value before the window is looked for."""


class Prometheus:
    """One server.

    Args:
        url: Its address, `http://prometheus.monitoring:9090`.

    Raises:
        MeasurementError: There is no address.
    """

    def __init__(self, url: str) -> None:
        if not url:
            raise MeasurementError(
                "No address of Prometheus", fix="set prometheus_url (HEADWAY_PROMETHEUS_URL), such as http://HOST:9090"
            )
        self.url = url.rstrip("/")

    def now_ms(self) -> int:
        """Its clock."""
        return round(1000 * float(self._query("time()")["result"][1]))

    def exists(self, name: str) -> bool:
        """Whether it has any live series of this name, whatever the labels."""
        return bool(self._query(f'count({{__name__="{name}"}})')["result"])

    def rises(self, selector: str, start_ms: int, end_ms: int) -> dict[Labels, float]:
        """How much each series rose after `start_ms` and up to `end_ms`.

        A series without a value before the window started at zero inside it: a new pod's.

        Args:
            selector: An instant-vector selector of counters, such as `http_requests_total{pod="a"}`.
            start_ms: The moment after which samples count.
            end_ms: The moment up to which they do.

        Returns:
            The rise by the series' labels, its name among them; series without a sample in the window are left out.

        Raises:
            MeasurementError: Prometheus could not be asked, or did not answer.
        """
        vector = self._query(f"last_over_time({selector}[{BEFORE}])", start_ms)["result"]
        last = {_labels(series): float(series["value"][1]) for series in vector}
        total: defaultdict[Labels, float] = defaultdict(float)
        for low in range(start_ms, end_ms, SLICE_MS):
            high = min(low + SLICE_MS, end_ms)
            for series in self._query(f"{selector}[{high - low}ms]", high)["result"]:
                labels = _labels(series)
                for value in _samples(series):
                    before = last.get(labels, 0.0)
                    total[labels] += value - before if value >= before else value
                    last[labels] = value
        return dict(total)

    def _query(self, query: str, time_ms: int | None = None) -> Any:
        import requests

        data = {"query": query} | ({} if time_ms is None else {"time": f"{time_ms / 1000:.3f}"})
        try:
            answer = requests.post(f"{self.url}/api/v1/query", data=data, timeout=ANSWER_SECONDS)
            body = answer.json()
        except requests.RequestException as error:
            raise self._unreadable(query, f"{type(error).__name__}: {error}") from None
        if not isinstance(body, dict) or body.get("status") != "success":
            said = body.get("error") if isinstance(body, dict) else None
            raise self._unreadable(query, f"HTTP {answer.status_code}: {said or 'no answer of Prometheus'}")
        return body["data"]

    def _unreadable(self, query: str, reason: str) -> MeasurementError:
        where, reason = without_secrets(self.url), without_secrets(reason).splitlines()[0]
        return MeasurementError(f"Prometheus at {where} did not answer {query}: {reason}", fix="check prometheus_url")


def _labels(series: dict[str, Any]) -> Labels:
    return frozenset(series["metric"].items())


def _samples(series: dict[str, Any]) -> Iterator[float]:
    """A series' values. Prometheus 2 also gives the one at the window's start, from which nothing rises."""
    values = (float(text) for _, text in series["values"])
    return (value for value in values if math.isfinite(value))
