"""What Prometheus counted: exactly once, over restarts, and never a guess."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headway.components.errors import MeasurementError
from headway.serving.kubeflow.measure import ENVOY, ISTIO, KNATIVE, KNATIVE_BEFORE_1_19, SERVER, Series, Where, read
from headway.serving.kubeflow.prometheus import SLICE_MS, Prometheus
from tests.serving.kubeflow.fake_prometheus import FakePrometheus

WHERE = Where([(ENVOY, 'envoy_cluster_name=~"v1|v1-shadow"')], 'pod=~"v1-.+"')


@pytest.fixture
def client(prometheus: FakePrometheus) -> Prometheus:
    return Prometheus(prometheus.url)


def envoy(prometheus: FakePrometheus, code: str, rise: float, *, cluster: str = "v1", at: int | None = None) -> None:
    prometheus.add(
        "envoy_cluster_upstream_rq_xx", rise, at=at, envoy_cluster_name=cluster, envoy_response_code_class=code
    )


class TestCounts:
    def test_answers_by_class(self, prometheus: FakePrometheus, client: Prometheus) -> None:
        cursor = read(client, WHERE, "").cursor
        for code, rise in (("2", 90), ("3", 1), ("4", 5), ("5", 4)):
            envoy(prometheus, code, rise)
        envoy(prometheus, "2", 10, cluster="v1-shadow")
        envoy(prometheus, "2", 1_000, cluster="v2")
        prometheus.add("headway_rejected_requests_total", 3, pod="v1-a")
        counts = read(client, WHERE, cursor, settle_seconds=0).counts
        assert (counts.requests, counts.client_errors, counts.server_errors, counts.rejected) == (110, 5, 4, 3)

    @pytest.mark.parametrize("series", [ENVOY, ISTIO, KNATIVE, KNATIVE_BEFORE_1_19, SERVER])
    def test_every_exporters_codes_and_units(
        self, prometheus: FakePrometheus, client: Prometheus, series: Series
    ) -> None:
        where = Where([(series, 'who="v1"')], 'pod=~"v1-.+"')
        cursor = read(client, where, "").cursor
        for code, rise in (("200", 7), ("404", 2), ("503", 1)):
            shown = code[0] if series is ENVOY else code
            prometheus.add(series.requests, rise, who="v1", **{series.code: shown})
        prometheus.add(SERVER.requests, 10, pod="v1-a", code="200")
        edges = [2.0 / series.unit_ms, 20.0 / series.unit_ms]
        prometheus.observe(series.latency, edges, 10.0 / series.unit_ms, 10, who="v1")
        counts = read(client, where, cursor, settle_seconds=0).counts
        assert (counts.requests, counts.client_errors, counts.server_errors) == (10, 2, 1)
        assert counts.latency_ms.edges == pytest.approx([2.0, 20.0])
        assert counts.latency_ms.counts == [0, 10, 0]

    def test_scores_of_all_pods_together(self, prometheus: FakePrometheus, client: Prometheus) -> None:
        envoy(prometheus, "2", 1)
        cursor = read(client, WHERE, "").cursor
        for pod, score in (("v1-a", 0.1), ("v1-b", 0.6), ("v1-b", 0.9), ("v2-a", 0.9)):
            prometheus.observe("headway_prediction_score_bucket", [0.25, 0.75], score, 2, pod=pod)
        scores = read(client, WHERE, cursor, settle_seconds=0).counts.scores
        assert (scores.edges, scores.counts) == ([0.25, 0.75], [2, 2, 2])

    def test_a_value_at_an_edge_is_below_it(self, prometheus: FakePrometheus, client: Prometheus) -> None:
        envoy(prometheus, "2", 1)
        cursor = read(client, WHERE, "").cursor
        prometheus.observe("headway_prediction_score_bucket", [0.25, 0.75], 0.25, 1, pod="v1-a")
        assert read(client, WHERE, cursor, settle_seconds=0).counts.scores.counts == [1, 0, 0]

    def test_a_metric_that_is_no_number_is_left_out(self, prometheus: FakePrometheus, client: Prometheus) -> None:
        envoy(prometheus, "2", 5)
        cursor = read(client, WHERE, "").cursor
        labels = {"envoy_cluster_name": "v1", "envoy_response_code_class": "2"}
        prometheus.write("envoy_cluster_upstream_rq_xx", float("nan"), **labels)
        prometheus.write("envoy_cluster_upstream_rq_xx", 8, **labels)
        prometheus.add(SERVER.requests, 3, pod="v1-a", code="200")
        assert read(client, WHERE, cursor, settle_seconds=0).counts.requests == 3


class TestOnce:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.tuples(st.integers(0, 50), st.booleans(), st.booleans()), min_size=1, max_size=12))
    def test_readings_add_up_over_restarts(
        self, prometheus: FakePrometheus, client: Prometheus, steps: list[tuple[int, bool, bool]]
    ) -> None:
        cluster = f"c{prometheus.now()}"
        labels = {"envoy_cluster_name": cluster, "envoy_response_code_class": "2"}
        where = Where([(ENVOY, f'envoy_cluster_name="{cluster}"')], 'pod=~"v1-.+"')
        total, counted, value = 0, 0, 1_000
        prometheus.write("envoy_cluster_upstream_rq_xx", value, **labels)
        prometheus.add(SERVER.requests, 1, pod="v1-a")
        cursor = read(client, where, "").cursor
        for rise, restarts, looks in steps:
            # A counter that starts again and passes its old value in one step cannot be told from one that rose.
            value = rise if restarts and rise < value else value + rise
            total += rise
            prometheus.write("envoy_cluster_upstream_rq_xx", value, **labels)
            if looks:
                reading = read(client, where, cursor, settle_seconds=0)
                counted, cursor = counted + reading.counts.requests, reading.cursor
        counted += read(client, where, cursor, settle_seconds=0).counts.requests
        assert counted == total

    def test_a_young_sample_waits_for_the_next_reading(self, prometheus: FakePrometheus, client: Prometheus) -> None:
        envoy(prometheus, "2", 1)
        cursor = read(client, WHERE, "").cursor
        envoy(prometheus, "2", 9)
        prometheus.add(SERVER.requests, 9, pod="v1-a")
        reading = read(client, WHERE, cursor, settle_seconds=15)
        assert (reading.counts.requests, reading.cursor) == (0, cursor)
        assert read(client, WHERE, cursor, settle_seconds=0).counts.requests == 9

    def test_a_long_stretch_is_read_in_slices(self, prometheus: FakePrometheus, client: Prometheus) -> None:
        now = prometheus.now()
        start = now - 3 * SLICE_MS
        envoy(prometheus, "2", 100, at=start - 1_000)
        for number in range(1, 31):
            envoy(prometheus, "2", 1, at=start + number * (3 * SLICE_MS // 30))
        prometheus.add(SERVER.requests, 9, pod="v1-a")
        assert read(client, WHERE, str(start), settle_seconds=0).counts.requests == 30
        windows = [query for query in prometheus.queries if query.endswith("ms]") and "envoy" in query]
        assert len(windows) >= 3

    def test_a_sample_on_the_border_counts_once(self, prometheus: FakePrometheus, client: Prometheus) -> None:
        start = prometheus.now() - 10_000
        envoy(prometheus, "2", 10, at=start - 500)
        envoy(prometheus, "2", 3, at=start + 1_000)
        envoy(prometheus, "2", 5, at=start + 2_000)
        selector = '{__name__=~"envoy_cluster_upstream_rq_xx",envoy_cluster_name="v1"}'
        first = sum(client.rises(selector, start, start + 1_000).values())
        second = sum(client.rises(selector, start + 1_000, start + 2_000).values())
        assert (first, second) == (3, 5)


class TestUnknown:
    def test_no_traffic_is_zero_where_the_gateway_is_scraped(
        self, prometheus: FakePrometheus, client: Prometheus
    ) -> None:
        envoy(prometheus, "2", 10, cluster="other")
        cursor = read(client, WHERE, "").cursor
        assert read(client, WHERE, cursor, settle_seconds=0).counts.requests == 0

    def test_a_series_that_nobody_exports_is_an_error(self, prometheus: FakePrometheus, client: Prometheus) -> None:
        cursor = read(client, WHERE, "").cursor
        with pytest.raises(MeasurementError, match="no series envoy_cluster_upstream_rq_xx at all"):
            read(client, WHERE, cursor, settle_seconds=0)

    def test_servers_that_nobody_scrapes_are_an_error(self, prometheus: FakePrometheus, client: Prometheus) -> None:
        cursor = read(client, WHERE, "").cursor
        envoy(prometheus, "2", 10)
        with pytest.raises(MeasurementError, match="headway_requests_total") as refusal:
            read(client, WHERE, cursor, settle_seconds=0)
        assert "monitoring.yaml" in (refusal.value.fix or "")

    def test_the_first_exporter_that_is_there_is_taken(self, prometheus: FakePrometheus, client: Prometheus) -> None:
        where = Where([(KNATIVE, 'kn_revision_name="r"'), (KNATIVE_BEFORE_1_19, 'revision_name="r"')], 'pod="p"')
        cursor = read(client, where, "").cursor
        prometheus.add("revision_request_count", 6, revision_name="r", response_code="200")
        prometheus.add(SERVER.requests, 6, pod="p", code="200")
        assert read(client, where, cursor, settle_seconds=0).counts.requests == 6

    def test_a_failed_query_is_an_error(self, prometheus: FakePrometheus, client: Prometheus) -> None:
        prometheus.failure = "query timed out"
        with pytest.raises(MeasurementError, match="HTTP 422: query timed out"):
            read(client, WHERE, "")

    def test_what_is_no_prometheus_is_an_error(self, prometheus: FakePrometheus, client: Prometheus) -> None:
        prometheus.garbage = True
        with pytest.raises(MeasurementError, match="did not answer"):
            read(client, WHERE, "")

    def test_a_server_that_is_away_is_an_error_without_its_password(self) -> None:
        with FakePrometheus() as gone:
            url = gone.url
        client = Prometheus(url.replace("://", "://me:hunter2@"))
        with pytest.raises(MeasurementError, match="did not answer") as refusal:
            read(client, WHERE, "")
        assert "hunter2" not in str(refusal.value)

    def test_no_address_says_what_to_set(self) -> None:
        with pytest.raises(MeasurementError, match="No address") as refusal:
            Prometheus("")
        assert "HEADWAY_PROMETHEUS_URL" in (refusal.value.fix or "")
