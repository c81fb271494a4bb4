"""What a variant answered, from Prometheus: requests and latency as the gateway saw them, the rest from the servers.

series of       a variant is found by                          tells variants apart in
Envoy Gateway   the Envoy cluster of its backend               gateway mode
Istio           its Deployment                                 gateway and canary mode
Knative         its revision                                   knative mode
the server      its pods                                       every mode; nothing is counted while none answers
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headway.components.errors import MeasurementError
from headway.serving.kubeflow.prometheus import Labels, Prometheus
from headway.serving.platform import NO_VALUES, Counts, Histogram, Reading

SETTLE_SECONDS = 15.0
"""Samples younger than this are left for the next reading: a slow scrape still belongs before them."""


@dataclass(frozen=True)
class Series:
    """What one kind of exporter calls its counters."""

    requests: str
    code: str
    """The label of the status: `503`, `5xx` or `5`."""
    latency: str
    """The histogram's buckets."""
    unit_ms: float
    """What one unit of the buckets' edges is in milliseconds."""


ENVOY = Series(
    "envoy_cluster_upstream_rq_xx", "envoy_response_code_class", "envoy_cluster_upstream_rq_time_bucket", 1.0
)
ISTIO = Series("istio_requests_total", "response_code", "istio_request_duration_milliseconds_bucket", 1.0)
KNATIVE = Series(
    "kn_serving_invocation_duration_seconds_count",
    "http_response_status_code",
    "kn_serving_invocation_duration_seconds_bucket",
    1000.0,
)
KNATIVE_BEFORE_1_19 = Series("revision_request_count", "response_code", "revision_request_latencies_bucket", 1.0)
SERVER = Series("headway_requests_total", "code", "headway_request_seconds_bucket", 1000.0)
REJECTED = "headway_rejected_requests_total"
SCORES = "headway_prediction_score_bucket"


@dataclass(frozen=True)
class Where:
    """Which series are one variant's."""

    gateway: Sequence[tuple[Series, str]]
    """Exporters that may count it, the best first, each with the label matchers of this variant."""
    server: str
    """The label matchers of the variant's own servers."""


def read(prometheus: Prometheus, where: Where, cursor: str, *, settle_seconds: float = SETTLE_SECONDS) -> Reading:
    """What a variant answered since a cursor.

    Args:
        prometheus: The server to ask.
        where: The variant's series.
        cursor: Where the last reading ended; empty starts now.
        settle_seconds: How long samples may take to arrive.

    Raises:
        MeasurementError: Prometheus did not answer, nothing exports these series, or the cursor is another platform's.
    """
    now = prometheus.now_ms()
    if not cursor:
        return Reading(counts=Counts(), cursor=str(now))
    if not cursor.isdecimal():
        raise MeasurementError(f"Not a cursor of this platform: {cursor!r}", expected="milliseconds since 1970")
    start, end = int(cursor), now - round(1000 * settle_seconds)
    if end <= start:
        return Reading(counts=Counts(), cursor=cursor)
    counts = _gateway(prometheus, where.gateway, start, end)
    return Reading(counts=counts + _server(prometheus, where.server, counts.requests, start, end), cursor=str(end))


def _gateway(prometheus: Prometheus, candidates: Sequence[tuple[Series, str]], start: int, end: int) -> Counts:
    for series, matchers in candidates:
        rises = prometheus.rises(_selector([series.requests, series.latency], matchers), start, end)
        # No samples of this variant is no requests, but only where the exporter itself is scraped.
        if not rises and not prometheus.exists(series.requests):
            continue
        by_class: defaultdict[str, float] = defaultdict(float)
        for labels, rise in _named(rises, series.requests):
            by_class[labels.get(series.code, "")[:1]] += rise
        return Counts(
            requests=round(sum(by_class.values())),
            server_errors=round(by_class["5"]),
            client_errors=round(by_class["4"]),
            latency_ms=_histogram(rises, series.latency, series.unit_ms),
        )
    raise _unknown(prometheus, [series.requests for series, _ in candidates], "the gateway")


def _server(prometheus: Prometheus, matchers: str, requests: int, start: int, end: int) -> Counts:
    rises = prometheus.rises(_selector([SERVER.requests, REJECTED, SCORES], matchers), start, end)
    # Requests that the gateway counts and no server does: then refusals are not seen either, and none is not zero.
    if requests and not rises and not prometheus.exists(SERVER.requests):
        raise _unknown(prometheus, [SERVER.requests], "the model servers")
    rejected = sum(rise for _, rise in _named(rises, REJECTED))
    return Counts(rejected=round(rejected), scores=_histogram(rises, SCORES, 1.0))


def _unknown(prometheus: Prometheus, names: list[str], who: str) -> MeasurementError:
    return MeasurementError(
        f"Prometheus has no series {' or '.join(names)} at all",
        expected=f"{who} to be scraped",
        fix="apply manifests/serving/monitoring.yaml, and see the target's state in Prometheus",
    )


def _selector(names: list[str], matchers: str) -> str:
    return f'{{__name__=~"{"|".join(names)}",{matchers}}}'


def _named(rises: Mapping[Labels, float], name: str) -> list[tuple[dict[str, str], float]]:
    found = [(dict(labels), rise) for labels, rise in rises.items()]
    return [(labels, rise) for labels, rise in found if labels["__name__"] == name]


def _histogram(rises: Mapping[Labels, float], name: str, unit: float) -> Histogram:
    """The buckets of all series together; they count upwards, a `Histogram` does not."""
    below: defaultdict[float, float] = defaultdict(float)
    for labels, rise in _named(rises, name):
        below[float(labels["le"]) * unit] += rise
    if len(below) < 2:
        return NO_VALUES
    edges = sorted(below)
    counts = [round(below[edge]) for edge in edges]
    steps = [high - low for low, high in zip([0, *counts], counts, strict=False)]
    return Histogram(edges=edges[:-1], counts=[max(0, step) for step in steps])
