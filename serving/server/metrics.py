"""The server's Prometheus series, in a registry of their own.

    headway_requests_total{model,variant,code}          inference requests by HTTP status (gRPC's are translated)
    headway_request_seconds{model,variant}              histogram of the time to the answer, from 1 ms
    headway_rejected_requests_total{model,variant}      requests that the contract's check refused
    headway_rejected_fields_total{model,variant,field}  wrong fields: the contract's, and `<unknown>` for all others
    headway_prediction_score{model,variant}             histogram of predictions, one observation a row
    headway_batch_rows{model,variant}                   histogram of rows in one model call
    headway_payload_rows_total{model,variant,outcome}   rows of the payload log, `written` or `dropped`
    headway_cache_requests_total{model,variant,result}  one-row requests by `hit` or `miss`, where a cache is on
    headway_ready{model,variant}                        1 while the model answers

Every label has a bounded set of values. All but the payload log's counts change on the event loop only, so they are
plain numbers without locks (prometheus-client's own objects cost several microseconds a request); a collector hands
them over when somebody scrapes.
"""

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
UNKNOWN_FIELD = "<unknown>"
_PENDING = 4_096
"""Values that may wait to be sorted into their bins."""


class Bins:
    """A histogram of plain numbers; a value equal to an edge belongs to the bin below it, as Prometheus has it."""

    __slots__ = ("_counts", "_pending", "_pending_rows", "_total", "edges")

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = list(edges)
        self._counts = [0] * (len(self.edges) + 1)
        self._total = 0.0
        self._pending: list[NDArray[np.float64]] = []
        self._pending_rows = 0

    def add(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self.edges, value)] += 1
        self._total += value

    def add_all(self, values: NDArray[np.float64]) -> None:
        """Count many values; they are sorted into bins later, many together."""
        self._pending.append(values)
        self._pending_rows += len(values)
        if self._pending_rows >= _PENDING:
            self._sort()

    @property
    def counts(self) -> list[int]:
        """Values by bin."""
        self._sort()
        return self._counts

    @property
    def total(self) -> float:
        """The values' sum."""
        self._sort()
        return self._total

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper edge."""
        edges = [*(repr(float(edge)) for edge in self.edges), "+Inf"]
        return list(zip(edges, itertools.accumulate(map(float, self.counts)), strict=True))

    def _sort(self) -> None:
        if not self._pending:
            return
        values = np.concatenate(self._pending)
        self._pending, self._pending_rows = [], 0
        found = np.bincount(np.searchsorted(self.edges, values, side="left"), minlength=len(self._counts))
        self._counts = [before + more for before, more in zip(self._counts, found.tolist(), strict=True)]
        self._total += float(values.sum())


class Metrics:
    """The counts of one model.

    Args:
        variant: The variant's name.
    """

    def __init__(self, variant: str) -> None:
        self.model = ""
        """The model's name, known once the bundle is open."""
        self.variant = variant
        self.requests: dict[int, int] = {}
        self.seconds = Bins(SECONDS)
        self.rejected = 0
        self.rejected_fields: dict[str, int] = {}
        self.scores = Bins([])
        self.batch_rows = Bins(ROWS)
        self.cache = {"hit": 0, "miss": 0}
        self.payload_rows: Callable[[], dict[str, int]] = dict
        """Gives the payload log's rows by outcome."""
        self.ready: Callable[[], bool] = lambda: False
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.registry.register(self)

    def opened(self, *, model: str, fields: Iterable[str], edges: Sequence[float]) -> None:
        """Set what is known once the bundle is open: the model's name, the contract's fields and the score's bins."""
        self.model = model
        self.rejected_fields = dict.fromkeys([*fields, UNKNOWN_FIELD], 0)
        self.scores = Bins(edges)

    def answered(self, code: int, seconds: float) -> None:
        """Count one inference request."""
        self.requests[code] = self.requests.get(code, 0) + 1
        self.seconds.add(seconds)

    def refused(self, failures: list[dict[str, Any]]) -> None:
        """Count one request that the contract's check refused; a field counts once, however many rows have it wrong."""
        self.rejected += 1
        counts = self.rejected_fields
        for field in {failure["field"] if failure["field"] in counts else UNKNOWN_FIELD for failure in failures}:
            counts[field] = counts.get(field, 0) + 1

    def render(self) -> bytes:
        """All series in Prometheus' text format."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Hand over all series; prometheus-client calls it for each scrape."""
        labels, values = ["model", "variant"], [self.model, self.variant]

        def counter(name: str, text: str, label: str, counts: dict[Any, int]) -> CounterMetricFamily:
            family = CounterMetricFamily(name, text, labels=[*labels, label])
            for key, count in counts.items():
                family.add_metric([*values, str(key)], count)
            return family

        def histogram(name: str, text: str, bins: Bins) -> HistogramMetricFamily:
            family = HistogramMetricFamily(name, text, labels=labels)
            family.add_metric(values, bins.buckets(), bins.total)
            return family

        yield counter("headway_requests", "Inference requests by HTTP status.", "code", dict(self.requests))
        yield histogram("headway_request_seconds", "Seconds to the answer.", self.seconds)
        rejected = CounterMetricFamily("headway_rejected_requests", "Refused by the contract's check.", labels=labels)
        rejected.add_metric(values, self.rejected)
        yield rejected
        yield counter("headway_rejected_fields", "Wrong fields of refused requests.", "field", self.rejected_fields)
        yield histogram("headway_prediction_score", "Predictions, one a row.", self.scores)
        yield histogram("headway_batch_rows", "Rows in one model call.", self.batch_rows)
        yield counter("headway_payload_rows", "Rows of the payload log.", "outcome", self.payload_rows())
        yield counter("headway_cache_requests", "One-row requests that asked the cache.", "result", self.cache)
        ready = GaugeMetricFamily("headway_ready", "Whether the model answers.", labels=labels)
        ready.add_metric(values, float(self.ready()))
        yield ready
