"""Counts as Prometheus has them, with a bounded number of labels."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from headway.serving.server.metrics import UNKNOWN_FIELD, Bins, Metrics

EDGES = [0.0, 0.25, 0.5, 1.0]
values = st.lists(st.sampled_from([-1.0, 0.0, 0.1, 0.25, 0.3, 0.5, 0.75, 1.0, 7.0]), max_size=30)


@given(values)
def test_bins_are_those_of_prometheus(given_values: list[float]) -> None:
    registry = CollectorRegistry()
    theirs = Histogram("x", "x", buckets=EDGES, registry=registry)
    one, many = Bins(EDGES), Bins(EDGES)
    for value in given_values:
        theirs.observe(value)
        one.add(value)
    many.add_all(np.array(given_values))
    (family,) = registry.collect()
    wanted = [sample.value for sample in family.samples if sample.name == "x_bucket"]
    assert [count for _, count in one.buckets()] == wanted
    assert [count for _, count in many.buckets()] == wanted
    assert sum(one.counts) == len(given_values)


def test_a_histogram_without_edges_counts_everything() -> None:
    bins = Bins([])
    bins.add_all(np.array([1.0, -5.0, 3.0]))
    assert bins.buckets() == [("+Inf", 3.0)]


def test_labels_stay_bounded() -> None:
    metrics = Metrics("v3")
    metrics.opened(model="flights", fields=["distance", "carrier"], edges=[0.5])
    for number in range(1_000):
        metrics.refused([{"field": f"made up {number}"}, {"field": "distance"}, {"field": "distance"}])
        metrics.answered(400, 0.0004)
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if sample.name.startswith("headway_")
    }
    fields = [key for key in found if key[0] == "headway_rejected_fields_total"]
    assert len(fields) == 3
    named = ("model", "flights"), ("variant", "v3")
    assert found["headway_rejected_fields_total", ("field", UNKNOWN_FIELD), *named] == 1_000
    assert found["headway_rejected_fields_total", ("field", "distance"), *named] == 1_000
    assert found["headway_rejected_requests_total", *named] == 1_000
    assert found["headway_requests_total", ("code", "400"), *named] == 1_000
    assert found["headway_request_seconds_bucket", ("le", "0.001"), *named] == 1_000
    assert found["headway_ready", *named] == 0


def test_it_is_a_registry_of_its_own() -> None:
    assert Metrics("a").registry is not Metrics("b").registry
    assert b"process_resident_memory_bytes" in Metrics("a").render()
