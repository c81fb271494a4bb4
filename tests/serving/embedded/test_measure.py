"""Counters become differences: nothing twice, nothing negative, nothing made up."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.components.errors import MeasurementError
from headway.serving.embedded.measure import Cursor, Raw, parse_gateway, parse_server, reading
from headway.serving.embedded.xds import LATENCY_EDGES_MS, latency_buckets
from headway.serving.platform import Counts

LABELS = 'envoy_cluster_name="flights__v1",endpoint="flights",variant="v1"'
EDGES = [0.5]


def gateway_text(ok: int = 0, client: int = 0, server: int = 0, bins: list[int] | None = None) -> str:
    """What Envoy prints of one cluster."""
    lines = ["# TYPE envoy_cluster_upstream_rq_completed counter"]
    lines.append(f"envoy_cluster_upstream_rq_completed{{{LABELS}}} {ok + client + server}")
    lines.append("# TYPE envoy_cluster_upstream_rq_xx counter")
    for kind, count in ((2, ok), (4, client), (5, server)):
        lines.append(f'envoy_cluster_upstream_rq_xx{{envoy_response_code_class="{kind}",{LABELS}}} {count}')
    if bins is not None:
        lines.append("# TYPE envoy_cluster_upstream_rq_time histogram")
        running = 0
        for edge, count in zip([*latency_buckets(), "+Inf"], bins, strict=True):
            running += count
            lines.append(f'envoy_cluster_upstream_rq_time_bucket{{{LABELS},le="{edge}"}} {running}')
        lines.append(f"envoy_cluster_upstream_rq_time_count{{{LABELS}}} {running}")
    return "\n".join(lines) + "\n"


def server_text(rejected: int, low: int, high: int) -> str:
    labels = 'model="flights",variant="v1"'
    return (
        f"# TYPE headway_rejected_requests_total counter\nheadway_rejected_requests_total{{{labels}}} {rejected}.0\n"
        "# TYPE headway_prediction_score histogram\n"
        f'headway_prediction_score_bucket{{{labels},le="0.5"}} {low}.0\n'
        f'headway_prediction_score_bucket{{{labels},le="+Inf"}} {low + high}.0\n'
    )


def cursor(gateway: str = "g1", servers: dict[str, tuple[str, int]] | None = None, **counters: int) -> Cursor:
    """Counters as one look would find them: servers by program as (identity, rejected)."""
    raws = {
        program: Raw(identity=identity, counters={"headway_rejected_requests_total": rejected})
        for program, (identity, rejected) in (servers or {"s": ("s1", 0)}).items()
    }
    return Cursor(gateway=Raw(identity=gateway, counters=counters), servers=raws)


class TestParsing:
    def test_the_gateway(self) -> None:
        bins = [0] * (len(LATENCY_EDGES_MS) + 1)
        bins[0], bins[3], bins[-1] = 2, 5, 1
        raw = parse_gateway(gateway_text(5, 2, 1, bins), "g")
        assert raw.counters == {"ok": 5, "client_errors": 2, "server_errors": 1}
        assert raw.histogram().edges == list(LATENCY_EDGES_MS)
        assert raw.histogram().counts == bins

    def test_a_gateway_that_answered_nothing_yet(self) -> None:
        assert parse_gateway(gateway_text(), "g").histogram().total == 0

    def test_a_server(self) -> None:
        raw = parse_server(server_text(3, 10, 4), "s")
        assert raw.counters["headway_rejected_requests_total"] == 3
        assert (raw.histogram().edges, raw.histogram().counts) == (EDGES, [10, 4])

    def test_an_unknown_variant_is_an_error_and_not_zero(self) -> None:
        with pytest.raises(MeasurementError, match="does not know"):
            parse_gateway("", "g")

    @pytest.mark.parametrize("text", ["", "up 1\n"])
    def test_another_programs_metrics_are_an_error(self, text: str) -> None:
        with pytest.raises(MeasurementError, match="headway_rejected_requests_total"):
            parse_server(text, "s")

    def test_noise_is_an_error(self) -> None:
        with pytest.raises(MeasurementError, match="cannot be read"):
            parse_server("<html>not metrics</html> {", "s")

    def test_edges_are_a_quarter_apart_from_1_ms_to_10_s(self) -> None:
        assert (LATENCY_EDGES_MS[0], LATENCY_EDGES_MS[-1]) == (1, 10_000)
        ratios = [high / low for low, high in itertools.pairwise(LATENCY_EDGES_MS[8:])]
        assert max(ratios) < 1.31
        assert all(len(str(edge).rstrip("0")) <= 2 for edge in LATENCY_EDGES_MS)

    def test_envoys_edges_lie_half_a_step_lower(self) -> None:
        told = dict(zip(LATENCY_EDGES_MS, latency_buckets(), strict=True))
        assert (told[1], told[10], told[90], told[110], told[1_200]) == (0.5, 9.5, 89.5, 105.0, 1_150.0)


class TestDifferences:
    def test_an_empty_cursor_starts_now(self) -> None:
        found = reading(cursor(ok=100), "")
        assert found.counts == Counts()
        assert reading(cursor(ok=103), found.cursor).counts.requests == 3

    def test_a_restarted_gateway_counts_from_zero(self) -> None:
        before = reading(cursor("g1", ok=100, server_errors=7), "").cursor
        counts = reading(cursor("g2", ok=150, server_errors=1), before).counts
        assert (counts.requests, counts.server_errors) == (151, 1)

    def test_a_cluster_that_came_back_counts_from_zero(self) -> None:
        before = reading(cursor("g1", ok=100), "").cursor
        assert reading(cursor("g1", ok=4), before).counts.requests == 4

    def test_servers_are_told_apart(self) -> None:
        before = reading(cursor(servers={"a": ("a1", 10), "b": ("b1", 10)}, ok=1), "").cursor
        now = cursor(servers={"a": ("a1", 12), "b": ("b2", 1), "c": ("c1", 5)}, ok=1)
        assert reading(now, before).counts.rejected == 2 + 1 + 5

    @pytest.mark.parametrize("text", ["x", "{}", "[]", '{"gateway": 1}'])
    def test_a_cursor_of_somebody_else(self, text: str) -> None:
        with pytest.raises(MeasurementError, match="Not a cursor"):
            reading(cursor(), text)

    def test_bins_that_do_not_fit_are_an_error(self) -> None:
        servers = {
            name: Raw(identity=name, counters={}, edges=edges, bins=[1] * (len(edges) + 1))
            for name, edges in (("a", [0.5]), ("b", [0.4]))
        }
        now = Cursor(gateway=Raw(identity="g"), servers=servers)
        before = Cursor(gateway=Raw(identity="g")).model_dump_json()
        with pytest.raises(MeasurementError, match="different bins"):
            reading(now, before)

    @given(
        steps=st.lists(
            st.tuples(
                st.integers(0, 50),
                st.integers(0, 5),
                st.booleans(),
                st.lists(st.integers(0, 9), min_size=3, max_size=3),
            ),
            min_size=1,
            max_size=15,
        )
    )
    def test_readings_add_up_over_restarts(self, steps: list[Any]) -> None:
        """Each step answers some requests, perhaps after a restart: the readings add up to all of them."""
        ok, errors, bins, number = 0, 0, [0, 0, 0], 1
        at = reading(self.look(number, ok, errors, bins), "").cursor
        total = Counts()
        for more_ok, more_errors, restarts, more_bins in steps:
            if restarts:
                number, ok, errors, bins = number + 1, 0, 0, [0, 0, 0]
            ok, errors, bins = ok + more_ok, errors + more_errors, [a + b for a, b in zip(bins, more_bins, strict=True)]
            found = reading(self.look(number, ok, errors, bins), at)
            at, total = found.cursor, total + found.counts
        assert total.requests == sum(step[0] + step[1] for step in steps)
        assert total.server_errors == sum(step[1] for step in steps)
        assert total.latency_ms.total == sum(sum(step[3]) for step in steps)

    def look(self, number: int, ok: int, errors: int, bins: list[int]) -> Cursor:
        counters = {"ok": ok, "server_errors": errors}
        return Cursor(gateway=Raw(identity=f"g{number}", counters=counters, edges=[1.0, 2.0], bins=bins))
