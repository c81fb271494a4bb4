"""The gateway's listener: who may call, how large and how slow a request may be, and what Envoy says by itself."""

from headway.serving.embedded.auth import AuthConfig, auth_filters, forbidden_reply
from headway.serving.embedded.config import GatewayConfig
from headway.serving.embedded.ports import HOST
from headway.serving.embedded.xds import (
    HTTP_FILTERS,
    ROUTES,
    STAT_PREFIX,
    TYPE,
    Document,
    discovery_response,
    source,
    status_is,
)

_MESSAGES = {
    400: "this is no request that can be understood",
    408: "the request came too slowly",
    413: "the request is too large",
    431: "the request's headers are too large",
    503: "the model cannot be reached now; try again",
    504: "the model took too long",
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
        "@type": f"{TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": STAT_PREFIX,
        "codec_type": "AUTO",
        "rds": {"route_config_name": ROUTES, "config_source": source(routes_file)},
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
                "@type": f"{TYPE}.extensions.request_id.uuid.v3.UuidRequestIdConfig",
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
                "typed_config": {
                    "@type": f"{HTTP_FILTERS}.buffer.v3.Buffer",
                    "max_request_bytes": config.max_request_bytes,
                },
            },
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{HTTP_FILTERS}.router.v3.Router", "suppress_envoy_headers": True},
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
