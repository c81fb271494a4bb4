"""Envoy's configuration as documents: what depends on what, and what never changes."""

import json
from typing import Any

import pytest

from headway.serving.embedded import routes, xds
from headway.serving.embedded.auth import AuthConfig
from headway.serving.embedded.config import GatewayConfig
from headway.serving.embedded.listener import listeners
from headway.serving.embedded.state import EndpointState, Process, Served
from headway.serving.platform import Route, Variant
from tests.serving.embedded.conftest import split


def served(version: int) -> Served:
    variant = Variant(name=f"v{version}", model="flights", version=version, digest="0" * 64, storage_uri="file:///x")
    return Served(variant=variant, processes=[Process(program=f"p{version}", port=20_000 + version)])


def table(route: Route | None, versions: tuple[int, ...] = (1, 2)) -> dict[str, Any]:
    endpoint = EndpointState(variants=[served(version) for version in versions], route=route)
    return routes.routes({"flights": endpoint}, config=GatewayConfig(), version="1")


def rules(document: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document["resources"][0]["virtual_hosts"][0]["routes"]
    return found


def splits(document: dict[str, Any]) -> list[list[tuple[str, int]]]:
    """The weighted clusters of all rules."""
    actions = [rule["route"] for rule in rules(document) if "weighted_clusters" in rule.get("route", {})]
    return [[(each["name"], each["weight"]) for each in action["weighted_clusters"]["clusters"]] for action in actions]


def test_weights_keep_their_order_and_total() -> None:
    assert splits(table(split(9_500, 500))) == [[("flights__v1", 9_500), ("flights__v2", 500)]] * 2


def test_a_weight_of_zero_needs_no_cluster() -> None:
    assert splits(table(split(10_000, 0), versions=(1,))) == [[("flights__v1", 10_000)]] * 2


def test_without_a_route_only_named_variants_are_reached() -> None:
    document = table(None)
    assert splits(document) == []
    assert sum("cluster" in rule.get("route", {}) for rule in rules(document)) == 4


def test_every_rule_to_a_model_has_the_same_limits() -> None:
    actions = [
        rule["route"] for rule in rules(table(split(5_000, 5_000, mirror="v2", mirror_weight=1))) if "route" in rule
    ]
    assert {action["timeout"] for action in actions} == {"30s"}
    assert {action["host_rewrite_literal"] for action in actions} == {"flights"}
    retries = {json.dumps(action["retry_policy"], sort_keys=True) for action in actions}
    assert len(retries) == 1
    assert "5xx" not in retries.pop()


def test_a_version_follows_the_content_alone() -> None:
    first, again, other = table(split(9_000, 1_000)), table(split(9_000, 1_000)), table(split(9_001, 999))
    assert first["version_info"] == again["version_info"] != other["version_info"]


def test_weights_touch_routes_only() -> None:
    names = {"flights__v1": "a.json"}
    states = [EndpointState(variants=[served(1)], route=route) for route in (None, split(10_000))]
    found = [xds.clusters({"flights": state}, endpoints_file=names) for state in states]
    assert found[0] == found[1]


def test_unknown_clusters_are_refused() -> None:
    assert table(None)["resources"][0]["validate_clusters"] is True


def test_the_listener_is_on_loopback_and_on_its_own() -> None:
    document = listeners(port=8080, routes_file="r.json", config=GatewayConfig(), auth=AuthConfig(), key="secret-key")
    listener = document["resources"][0]
    assert listener["address"]["socket_address"]["address"] == "127.0.0.1"
    assert listener["enable_reuse_port"] is False
    assert "secret-key" not in json.dumps(document)  # nobody needs it while everybody may call


@pytest.mark.parametrize("name", ["a", "flights-v2", "a" * 32])
def test_a_clusters_name_can_be_taken_apart(name: str) -> None:
    assert xds.cluster_name(name, "v-1").split("__") == [name, "v-1"]
