"""What a variant answered: Envoy's series and the servers' own metrics, as differences since a cursor.

The cursor is the raw counters of the last reading, each with the identity of the process that counted it. A process
with another identity counted from zero, and so did one whose counters went down.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar

from pydantic import Field

from headway.components.config import Config
from headway.components.errors import MeasurementError
from headway.serving.embedded.xds import LATENCY_EDGES_MS, cluster_name
from headway.serving.platform import NO_VALUES, Counts, Histogram, Reading

REJECTED = "headway_rejected_requests_total"
SCORES = "headway_prediction_score_bucket"
_CLASSES = {"2xx": "ok", "3xx": "ok", "4xx": "client_errors", "5xx": "server_errors"}


class Raw(Config):
    """Counters of one process, from its start on."""

    document: ClassVar[str] = "counters"

    identity: str
    """Changes when the process starts again."""
    counters: dict[str, int] = {}
    edges: list[float] = []
    """Of its histogram."""
    bins: list[int] = []
    """Counts in the histogram's bins, one more than there are edges; empty while it counted nothing."""

    def since(self, before: "Raw | None") -> "Raw":
        """What it counted since an earlier reading."""
        if before is None or before.identity != self.identity or self._fell(before):
            return self
        counters = {name: value - before.counters.get(name, 0) for name, value in self.counters.items()}
        bins = [value - old for value, old in zip(self.bins, before.bins or [0] * len(self.bins), strict=True)]
        return self.model_copy(update={"counters": counters, "bins": bins})

    def histogram(self) -> Histogram:
        """The bins as a histogram."""
        return Histogram(edges=self.edges, counts=self.bins) if self.bins else NO_VALUES

    def _fell(self, before: "Raw") -> bool:
        """Whether it counts from zero again though it is the same process: a cluster that was removed and came back."""
        fewer = any(self.counters.get(name, 0) < value for name, value in before.counters.items())
        if not before.bins:
            return fewer
        other = self.edges != before.edges or len(self.bins) != len(before.bins)
        return fewer or other or any(new < old for new, old in zip(self.bins, before.bins, strict=False))


class Cursor(Config):
    """Where a reading ended."""

    document: ClassVar[str] = "cursor"

    gateway: Raw
    servers: dict[str, Raw] = Field(default_factory=dict)
    """By program."""


def reading(now: Cursor, cursor: str) -> Reading:
    """What happened between a cursor and now.

    Raises:
        MeasurementError: The cursor is none of ours.
    """
    text = now.model_dump_json()
    if not cursor:
        return Reading(counts=Counts(), cursor=text)
    try:
        before = Cursor.model_validate_json(cursor)
    except ValueError:
        raise MeasurementError(
            f"Not a cursor of this platform: {cursor[:40]!r}", expected="one that `read` gave"
        ) from None
    gateway = now.gateway.since(before.gateway)
    servers = [raw.since(before.servers.get(program)) for program, raw in now.servers.items()]
    scores = NO_VALUES
    for raw in servers:
        scores = _add(scores, raw.histogram())
    counts = Counts(
        requests=sum(gateway.counters.values()),
        server_errors=gateway.counters.get("server_errors", 0),
        client_errors=gateway.counters.get("client_errors", 0),
        rejected=sum(raw.counters.get(REJECTED, 0) for raw in servers),
        latency_ms=gateway.histogram(),
        scores=scores,
    )
    return Reading(counts=counts, cursor=text)


def gateway_pattern(endpoint: str, variant: str) -> str:
    """The filter for what `parse_gateway` needs of Envoy's statistics, for a URL."""
    return rf"^cluster\.{cluster_name(endpoint, variant)}\.upstream_rq_(time|completed|[2345]xx)$"


def parse_gateway(text: str, identity: str) -> Raw:
    """One cluster's counters and latencies from Envoy's Prometheus text."""
    counters: dict[str, int] = {}
    cumulative: list[int] = []
    known = False
    for name, labels, value in _samples(text):
        known = True
        if name == "envoy_cluster_upstream_rq_xx_total":  # the parser adds `_total` to every counter
            kind = _CLASSES[f"{labels['envoy_response_code_class']}xx"]
            counters[kind] = counters.get(kind, 0) + int(value)
        elif name == "envoy_cluster_upstream_rq_time_bucket":
            cumulative.append(int(value))
    if not known:
        raise MeasurementError("Envoy does not know this variant")
    return Raw(
        identity=identity, counters=counters, edges=[float(edge) for edge in LATENCY_EDGES_MS], bins=_bins(cumulative)
    )


def parse_server(text: str, identity: str) -> Raw:
    """One server's rejections and predictions from its Prometheus text."""
    rejected: int | None = None
    buckets: dict[float, int] = {}
    for name, labels, value in _samples(text):
        if name == REJECTED:
            rejected = (rejected or 0) + int(value)
        elif name == SCORES:
            edge = float(labels["le"])
            buckets[edge] = buckets.get(edge, 0) + int(value)
    if rejected is None:
        raise MeasurementError(f"A server's metrics lack {REJECTED}", expected="the metrics of `headway serve`")
    edges = sorted(buckets)
    return Raw(
        identity=identity,
        counters={REJECTED: rejected},
        edges=edges[:-1],
        bins=_bins(buckets[edge] for edge in edges),
    )


def _samples(text: str) -> Iterable[tuple[str, Mapping[str, str], float]]:
    from prometheus_client.parser import text_string_to_metric_families

    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                yield sample.name, sample.labels, sample.value
    except ValueError as error:
        raise MeasurementError(f"The metrics cannot be read: {error}") from None


def _bins(cumulative: Iterable[int]) -> list[int]:
    found = list(cumulative)
    return [high - low for low, high in zip([0, *found], found, strict=False)]


def _add(first: Histogram, second: Histogram) -> Histogram:
    try:
        return first + second
    except ValueError as error:
        raise MeasurementError(f"The variant's processes count predictions in different bins: {error}") from None
