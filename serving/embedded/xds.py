"""Envoy's configuration, rendered from the desired state. Pure: no file is read or written here.

Listeners carry the filters, routes say who gets which variant, clusters say how a variant is talked to, and endpoints
where its processes listen. Each is a document of its own, so that a change of weights touches nothing but routes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from headway.serving.embedded.auth import (
    PLATFORM_KEY_HEADER,
    AuthConfig,
    auth_filters,
    forbidden_reply,
    header_is,
    status_is,
)
from headway.serving.embedded.config import GatewayConfig
from headway.serving.embedded.state import EndpointState
from headway.serving.platform import USER_HEADER, VARIANT_HEADER, Route

Document = dict[str, Any]

ROUTES = "headway"
"""The name of the one route configuration."""
STAT_PREFIX = "gateway"
HOST = "127.0.0.1"

NOT_READY_HEADER = "x-not-ready"
"""Marks a server's 503 of a model that is still being loaded."""

LATENCY_EDGES_MS: tuple[int, ...] = (
    *(1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 19, 24, 30, 37, 46, 58, 72, 90, 110, 140, 170, 210, 260, 320, 400, 500),
    *(620, 780, 970, 1_200, 1_500, 1_900, 2_400, 3_000, 3_700, 4_600, 5_800, 7_200, 9_000, 10_000),
)
"""Each about a quarter above the one before. Two digits at most: there Envoy's own sketch is exact."""

_TYPE = "type.googleapis.com/envoy"
_HTTP = f"{_TYPE}.extensions.filters.http"
_IDLE_SECONDS = 50
"""Below the 65 s after which the model server closes an idle connection: else a request could meet the closing."""
_MAX_CONNECTIONS = 10_000
_RETRIES = 80
_RETRY_BACKOFF = {"base_interval": "0.025s", "max_interval": "0.5s"}
"""With these pauses the attempts last about twenty seconds: longer than a crashed server takes to start again."""
_UNLIMITED = 1_000_000
_MESSAGES = {
    400: "this is no request that can be understood",
    408: "the request came too slowly",
    413: "the request is too large",
    431: "the request's headers are too large",
    503: "the model cannot be reached now; try again",
    504: "the model took too long",
}


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
    return response([{"@type": f"{_TYPE}.{kind}", **resource} for resource in resources])


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
            "lds_config": _source(folders["lds"]),
            "cds_config": _source(folders["cds"]),
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
                        "@type": f"{_TYPE}.extensions.resource_monitors.downstream_connections.v3"
                        ".DownstreamConnectionsConfig",
                        "max_active_downstream_connections": _MAX_CONNECTIONS,
                    },
                }
            ]
        },
    }


def listeners(*, port: int, routes_file: str, config: GatewayConfig, auth: AuthConfig, key: str) -> Document:
    """The gateway's listener on loopback.

    Args:
        port: The gateway's port.
        routes_file: Where the routes are.
        config: Limits.
        auth: Who may call.
        key: What the platform's own checks show instead of a token.
    """
    manager = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": STAT_PREFIX,
        "codec_type": "AUTO",
        "rds": {"route_config_name": ROUTES, "config_source": _source(routes_file)},
        "use_remote_address": True,
        # Nobody counts as internal: else a client could change retries and timeouts by x-envoy-* headers.
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]},
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "request_id_extension": {
            "typed_config": {
                "@type": f"{_TYPE}.extensions.request_id.uuid.v3.UuidRequestIdConfig",
                # Else Envoy changes a digit of the client's own id.
                "pack_trace_reason": False,
                "use_request_id_for_trace_sampling": False,
            }
        },
        "server_name": "headway",
        "common_http_protocol_options": {"idle_timeout": "300s"},
        "request_headers_timeout": "10s",
        "request_timeout": f"{config.request_timeout_seconds:g}s",
        "local_reply_config": _local_replies(auth),
        "http_filters": [
            *auth_filters(auth, key),
            {
                "name": "envoy.filters.http.buffer",
                "typed_config": {"@type": f"{_HTTP}.buffer.v3.Buffer", "max_request_bytes": config.max_request_bytes},
            },
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_HTTP}.router.v3.Router", "suppress_envoy_headers": True},
            },
        ],
    }
    listener = {
        "name": "gateway",
        "address": {"socket_address": {"address": HOST, "port_value": port}},
        # Else another process of this user could listen there too, and get half of the connections.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": config.max_request_bytes + (64 << 10),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    return discovery_response("config.listener.v3.Listener", [listener])


def routes(endpoints: Mapping[str, EndpointState], *, config: GatewayConfig, version: str) -> Document:
    """Who gets which variant, for all endpoints.

    Args:
        endpoints: The desired state.
        config: Limits.
        version: Headway's version, for the server's metadata.
    """
    rules = [*_server_rules(version)]
    for name, endpoint in endpoints.items():
        rules += _endpoint_rules(name, endpoint, config)
    rules.append(_reply({"prefix": "/"}, 404, "no such path here"))
    table = {
        "name": ROUTES,
        # Without this a route to a cluster that does not exist is accepted, and answers 503.
        "validate_clusters": True,
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": rules}],
        "request_headers_to_remove": [PLATFORM_KEY_HEADER],
    }
    return discovery_response("config.route.v3.RouteConfiguration", [table])


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


def _step(edge: int) -> int:
    """The width of the bin of Envoy's sketch that ends at an edge, in milliseconds."""
    digits = len(str(edge - 1))
    return int(10 ** max(digits - 2, 0))


def _source(path: str) -> Document:
    return {"path_config_source": {"path": path}, "resource_api_version": "V3"}


def _local_replies(auth: AuthConfig) -> Document:
    """What Envoy answers by itself, as JSON in the shape of the model server's own errors."""
    ours = {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}, "content_type": "application/json"}
    mappers = [
        {"filter": status_is(status), "body_format_override": _json_body(text)} for status, text in _MESSAGES.items()
    ]
    return {
        "mappers": [{"filter": status_is(200), "body_format_override": ours}, *forbidden_reply(auth), *mappers],
        "body_format": _json_body("%LOCAL_REPLY_BODY%"),
    }


def _json_body(message: str) -> Document:
    return {"json_format": {"error": message}, "content_type": "application/json"}


def _server_rules(version: str) -> list[Document]:
    metadata = {"name": "headway", "version": version, "extensions": []}
    return [
        _reply({"path": "/v2"}, 200, json.dumps(metadata)),
        _reply({"path": "/v2/health/live"}, 200, json.dumps({"live": True})),
        _reply({"path": "/v2/health/ready"}, 200, json.dumps({"ready": True})),
        # kserve loads and unloads models here, for anybody.
        _reply({"prefix": "/v2/repository"}, 403, "the repository is not open to clients"),
    ]


def _reply(match: Document, status: int, text: str) -> Document:
    """A fixed answer; of an error only the text is given, for `_local_replies` wraps it."""
    return {"match": match, "direct_response": {"status": status, "body": {"inline_string": text}}}


def _endpoint_rules(name: str, endpoint: EndpointState, config: GatewayConfig) -> list[Document]:
    """What belongs to an endpoint: the named variant if one is named, else the route's split."""
    rules = []
    for match, rewrite in _paths(name):
        forward = {**_forwarding(name, config), **rewrite}
        for variant in (served.name for served in endpoint.variants):
            action = {"cluster": cluster_name(name, variant), **forward}
            named = _with_header(match, header_is(VARIANT_HEADER, variant))
            rules.append({"match": named, "route": action, "response_headers_to_add": [_variant_header(variant)]})
        unknown = _with_header(match, {"name": VARIANT_HEADER, "present_match": True})
        rules.append(_reply(unknown, 404, f"{name} has no such variant"))
        if endpoint.route is None:
            continue
        action = {**_split(name, endpoint.route), **forward}
        if endpoint.route.mirror:
            copied = {**action, **_mirror(name, endpoint.route)}
            rules.append({"match": _with_header(match, header_is(":method", "POST")), "route": copied})
        rules.append({"match": match, "route": action})
    return rules


def _paths(name: str) -> list[tuple[Document, Document]]:
    """What belongs to an endpoint, each with how the path changes on its way to the server."""
    whole = rf"/v[12]/models/{name}([:/].*)?"
    short = rf"/{name}(/predict|/health|/model/info|/openapi\.json)"
    rewrite = {"regex_rewrite": {"pattern": {"regex": rf"^{short}"}, "substitution": r"\1"}}
    return [({"safe_regex": {"regex": whole}}, {}), ({"safe_regex": {"regex": short}}, rewrite)]


def _with_header(match: Document, header: Document) -> Document:
    return {**match, "headers": [header]}


def _split(name: str, route: Route) -> Document:
    shares = [
        {
            "name": cluster_name(name, share.variant),
            "weight": share.weight,
            "response_headers_to_add": [_variant_header(share.variant)],
        }
        for share in route.shares
        if share.weight
    ]
    return {
        "weighted_clusters": {"clusters": shares, "use_hash_policy": True},
        "hash_policy": [
            {
                "header": {
                    "header_name": USER_HEADER,
                    # Any bytes: with `.` a name that is not UTF-8 would go unsalted.
                    "regex_rewrite": {
                        "pattern": {"regex": r"^(\C*)$"},
                        "substitution": f"{route.salt}:\\1",
                    },
                }
            }
        ],
    }


def _forwarding(name: str, config: GatewayConfig) -> Document:
    return {
        "timeout": f"{config.request_timeout_seconds:g}s",
        # Else a client could name the host by which the server knows mirrored requests.
        "host_rewrite_literal": name,
        "retry_policy": {
            # Never on 5xx as such: the model did answer, and asking again would double the load of a failing one. But
            # a server that says that it is still loading has not looked at the request.
            "retry_on": "connect-failure,refused-stream,reset,retriable-headers",
            "retriable_headers": [{"name": NOT_READY_HEADER, "present_match": True}],
            "num_retries": _RETRIES,
            "retry_back_off": _RETRY_BACKOFF,
            "retry_host_predicate": [
                {
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": {
                        "@type": f"{_TYPE}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                    },
                }
            ],
            "host_selection_retry_max_attempts": 5,
        },
    }


def _mirror(name: str, route: Route) -> Document:
    fraction = {"numerator": route.mirror_weight, "denominator": "TEN_THOUSAND"}
    return {
        "request_mirror_policies": [
            {"cluster": cluster_name(name, str(route.mirror)), "runtime_fraction": {"default_value": fraction}}
        ]
    }


def _cluster(name: str, endpoints_file: str) -> Document:
    return {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": _source(endpoints_file)},
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {
            # The default of three retries at once turns one dead process into errors.
            "thresholds": [
                {"max_connections": 1_024, "max_pending_requests": 1_024, "max_requests": 1_024, "max_retries": 1_024}
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
                "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": f"{_IDLE_SECONDS}s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }


def _variant_header(variant: str) -> Document:
    return _set_header(VARIANT_HEADER, variant)


def _set_header(name: str, value: str) -> Document:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
