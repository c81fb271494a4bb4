"""Envoy's configuration: what its documents share, and the start, the clusters and their processes.

Rendered from the desired state, purely: no file is read or written here. Listeners (listener.py) carry the filters,
routes (routes.py) say who gets which variant, clusters say how a variant is talked to, and endpoints where its
processes listen. Each is a document of its own, so that a change of weights touches nothing but routes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from headway.serving.embedded.ports import HOST
from headway.serving.embedded.state import EndpointState

Document = dict[str, Any]

TYPE = "type.googleapis.com/envoy"
HTTP_FILTERS = f"{TYPE}.extensions.filters.http"
ROUTES = "headway"
"""The name of the one route configuration."""
STAT_PREFIX = "gateway"

LATENCY_EDGES_MS: tuple[int, ...] = (
    *(1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 19, 24, 30, 37, 46, 58, 72, 90, 110, 140, 170, 210, 260, 320, 400, 500),
    *(620, 780, 970, 1_200, 1_500, 1_900, 2_400, 3_000, 3_700, 4_600, 5_800, 7_200, 9_000, 10_000),
)
"""Each about a quarter above the one before. Two digits at most: there Envoy's own sketch is exact."""

_IDLE_SECONDS = 50
"""Below the 65 s after which the model server closes an idle connection: else a request could meet the closing."""
_MAX_CONNECTIONS = 10_000
_AT_ONCE = 1_024
"""Connections, requests and retries of one variant at the same time."""


def cluster_name(endpoint: str, variant: str) -> str:
    """What Envoy calls a variant's cluster. Names hold no underscore, so that it can be taken apart again.

    Example:
        >>> cluster_name("flights", "v3")
        'flights__v3'
    """
    return f"{endpoint}__{variant}"


def latency_buckets() -> list[float]:
    """What Envoy is told for `LATENCY_EDGES_MS`.

    Envoy cuts a duration to whole milliseconds and keeps two digits of it, and then counts what equals an edge as
    below it: an answer after 1.9 ms is recorded as 1. So that a count below an edge is a count of answers that were
    faster than it, Envoy's edge lies half a step lower.
    """
    return [edge - _step(edge) / 2 for edge in LATENCY_EDGES_MS]


def version_of(resources: Sequence[Document]) -> str:
    """A version that changes with the content and with nothing else."""
    return hashlib.sha256(json.dumps(resources, sort_keys=True).encode()).hexdigest()[:16]


def discovery_response(kind: str, resources: Sequence[Document]) -> Document:
    """The file that Envoy reads.

    Args:
        kind: The resources' type, such as `config.route.v3.RouteConfiguration`.
        resources: Documents of that type.
    """
    return response([{"@type": f"{TYPE}.{kind}", **resource} for resource in resources])


def response(resources: Sequence[Document]) -> Document:
    """The same from resources that carry their type."""
    return {"version_info": version_of(resources), "resources": list(resources)}


def bootstrap(*, admin_socket: str, folders: Mapping[str, str]) -> Document:
    """What Envoy starts with: everything else comes from files that may change.

    Args:
        admin_socket: Where the admin interface listens; its file mode keeps everybody else out.
        folders: The files of listeners (`lds`) and clusters (`cds`).
    """
    return {
        "node": {"id": "headway", "cluster": "headway"},
        "admin": {"address": {"pipe": {"path": admin_socket, "mode": 0o600}}},
        "dynamic_resources": {
            "lds_config": source(folders["lds"]),
            "cds_config": source(folders["cds"]),
        },
        # Histograms show what was recorded up to the last flush: a tenth of a second late, not five.
        "stats_flush_interval": "0.1s",
        "stats_config": {
            "stats_tags": [
                {"tag_name": "endpoint", "regex": r"^cluster\.(([a-z0-9-]+)__)[a-z0-9-]+\."},
                {"tag_name": "variant", "regex": r"^cluster\.[a-z0-9-]+__(([a-z0-9-]+)\.)"},
            ],
            "histogram_bucket_settings": [
                {"match": {"suffix": "upstream_rq_time"}, "buckets": latency_buckets()},
            ],
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": f"{TYPE}.extensions.resource_monitors.downstream_connections.v3"
                        ".DownstreamConnectionsConfig",
                        "max_active_downstream_connections": _MAX_CONNECTIONS,
                    },
                }
            ]
        },
    }


def clusters(endpoints: Mapping[str, EndpointState], *, endpoints_file: Mapping[str, str]) -> Document:
    """A cluster for each variant.

    Args:
        endpoints: The desired state.
        endpoints_file: Where a cluster's processes are listed, by cluster.
    """
    names = [cluster_name(name, variant.name) for name, endpoint in endpoints.items() for variant in endpoint.variants]
    return discovery_response(
        "config.cluster.v3.Cluster", [_cluster(name, endpoints_file[name]) for name in sorted(names)]
    )


def processes(cluster: str, ports: Sequence[int]) -> Document:
    """Where one cluster's processes listen."""
    hosts = [
        {"endpoint": {"address": {"socket_address": {"address": HOST, "port_value": port}}}} for port in sorted(ports)
    ]
    assignment = {"cluster_name": cluster, "endpoints": [{"lb_endpoints": hosts}]}
    return discovery_response("config.endpoint.v3.ClusterLoadAssignment", [assignment])


def source(path: str) -> Document:
    """Where Envoy finds a document."""
    return {"path_config_source": {"path": path}, "resource_api_version": "V3"}


def header_is(name: str, value: str) -> Document:
    """Envoy's matcher for a header that has exactly this value."""
    return {"name": name, "string_match": {"exact": value}}


def status_is(status: int) -> Document:
    """Envoy's filter for answers of one status."""
    comparison = {"op": "EQ", "value": {"default_value": status, "runtime_key": f"headway.status.{status}"}}
    return {"status_code_filter": {"comparison": comparison}}


def set_header(name: str, value: str) -> Document:
    """A header that an answer shall have, whatever it had before."""
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _step(edge: int) -> int:
    """The width of the bin of Envoy's sketch that ends at an edge, in milliseconds."""
    digits = len(str(edge - 1))
    return int(10 ** max(digits - 2, 0))


def _cluster(name: str, endpoints_file: str) -> Document:
    return {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": source(endpoints_file)},
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {
            # The default of three retries at once turns one dead process into errors.
            "thresholds": [
                dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), _AT_ONCE)
            ]
        },
        "outlier_detection": {
            # Only what cannot be reached: answers, be they 5xx, are for the release to judge.
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 2,
            "enforcing_consecutive_5xx": 0,
            "enforcing_success_rate": 0,
            "enforcing_local_origin_success_rate": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "interval": "1s",
            "base_ejection_time": "1s",
            "max_ejection_time": "2s",
            "max_ejection_percent": 50,
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": f"{_IDLE_SECONDS}s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }
