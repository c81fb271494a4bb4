"""Envoy's routes: whose path it is, which variant answers, and what the gateway answers by itself."""

import json
from collections.abc import Mapping

from headway.serving.embedded.auth import PLATFORM_KEY_HEADER
from headway.serving.embedded.config import GatewayConfig
from headway.serving.embedded.state import EndpointState
from headway.serving.embedded.xds import ROUTES, TYPE, Document, cluster_name, discovery_response, header_is, set_header
from headway.serving.platform import USER_HEADER, VARIANT_HEADER, Route

NOT_READY_HEADER = "x-not-ready"
"""Marks a server's 503 of a model that is still being loaded."""
_RETRIES = 80
_RETRY_BACKOFF = {"base_interval": "0.025s", "max_interval": "0.5s"}
"""With these pauses the attempts last about twenty seconds: longer than a crashed server takes to start again."""


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
                    "typed_config": {"@type": f"{TYPE}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
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


def _variant_header(variant: str) -> Document:
    return set_header(VARIANT_HEADER, variant)
