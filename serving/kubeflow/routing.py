"""Gateway API documents of gateway mode, and who may reach the model servers: pure functions, nothing is sent.

    HTTPRoute ENDPOINT                    the weights, and the copies for a shadow
    HTTPRoute ENDPOINT-VARIANT-forced     requests that name a variant in `x-variant`
    BackendTrafficPolicy ENDPOINT         Envoy Gateway only: retries, and sticky users from 1.9 on
    NetworkPolicy headway-servers         gateways, Prometheus and the release driver, nobody else

README.md says what each gateway makes of them.
"""

from collections.abc import Sequence, Set

from headway.components.kubernetes.client import Document
from headway.components.settings import Settings
from headway.serving.inference_service import MANAGED_BY, PORT, host_name, metadata, route_annotation, service_name
from headway.serving.platform import TOTAL_WEIGHT, USER_HEADER, VARIANT_HEADER, Route

SERVICE_PORT = 80
"""The port of the Services that KServe makes in front of predictors."""
SERVER_PORTS = (PORT, 9081, 8012, 9091)
"""Ports of a server's pod: its own, KServe's agent that logs payloads, and Knative's queue with its metrics."""


def http_route(endpoint: str, route: Route, settings: Settings, *, existing: Set[str] | None = None) -> Document:
    """The weighted HTTPRoute of an endpoint.

    Args:
        endpoint: The endpoint's name.
        route: The weights.
        settings: Gateway, namespace and domain.
        existing: The variants that are there; one without weight that is gone gets no backend, which would not resolve.

    The filter on each backend does more than name the variant: with it, Envoy Gateway makes one Envoy cluster for each
    variant, which separate metrics and sticky users both need.
    """
    rule: Document = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "backendRefs": [
            _backend(endpoint, share.variant) | {"weight": share.weight}
            for share in route.shares
            if share.weight or existing is None or share.variant in existing
        ],
    }
    if route.mirror:
        mirror = {
            "backendRef": {"name": service_name(endpoint, route.mirror), "port": SERVICE_PORT},
            "fraction": {"numerator": route.mirror_weight, "denominator": TOTAL_WEIGHT},
        }
        rule["filters"] = [{"type": "RequestMirror", "requestMirror": mirror}]
    document = _http_route(endpoint, endpoint, settings, [rule])
    document["metadata"]["annotations"] = route_annotation(route)
    return document


def variant_route(endpoint: str, variant: str, settings: Settings) -> Document:
    """The HTTPRoute of requests that name a variant, whatever its weight.

    Its header match is more specific than the endpoint's own rule, so it wins wherever the two stand.
    """
    match = {
        "path": {"type": "PathPrefix", "value": "/"},
        "headers": [{"type": "Exact", "name": VARIANT_HEADER, "value": variant}],
    }
    rule = {"matches": [match], "backendRefs": [_backend(endpoint, variant)]}
    return _http_route(f"{endpoint}-{variant}-forced", endpoint, settings, [rule])


def envoy_policy(endpoint: str, settings: Settings, *, sticky: bool) -> Document:
    """On Envoy Gateway: retries of requests that reached no server, and sticky users where it can.

    Args:
        endpoint: The endpoint's name.
        settings: The namespace.
        sticky: Whether this Envoy Gateway (1.9 or newer) picks the variant by the hash too.
    """
    spec: Document = {
        "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": endpoint}],
        # Never on a 5xx: that one is the variant's own, and counts.
        "retry": {"numRetries": 3, "retryOn": {"triggers": ["connect-failure", "refused-stream"]}},
    }
    if sticky:
        consistent = {"type": "Headers", "headers": [{"name": USER_HEADER}]}
        spec["loadBalancer"] = {"type": "ConsistentHash", "consistentHash": consistent}
    return {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "BackendTrafficPolicy",
        "metadata": metadata(endpoint, endpoint, settings),
        "spec": spec,
    }


def network_policy(
    settings: Settings, *, gateways: Sequence[str] = (), monitoring: str = "monitoring", release: str = "headway"
) -> Document:
    """Who may talk to model servers: gateways, Prometheus and the release driver; nobody else.

    Args:
        settings: The servers' namespace, and the Gateway's.
        gateways: More namespaces in which gateways' pods run.
        monitoring: Prometheus' namespace.
        release: The release driver's namespace.
    """
    allowed = sorted({settings.serving_gateway.partition("/")[0], *gateways})

    def peer(namespaces: Sequence[str]) -> Document:
        names = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": list(namespaces)}
        return {"namespaceSelector": {"matchExpressions": [names]}}

    driver = peer([release]) | {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "headway-release"}}}
    ports = [{"protocol": "TCP", "port": port} for port in SERVER_PORTS]
    spec = {
        "podSelector": {"matchLabels": {MANAGED_BY: "headway"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [peer(allowed), peer([monitoring]), driver], "ports": ports}],
    }
    head = {"name": "headway-servers", "namespace": settings.serving_namespace}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": head, "spec": spec}


def _http_route(name: str, endpoint: str, settings: Settings, rules: list[Document]) -> Document:
    namespace, _, gateway = settings.serving_gateway.partition("/")
    spec = {
        "parentRefs": [
            {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": gateway, "namespace": namespace}
        ],
        "hostnames": [host_name(endpoint, settings)],
        "rules": rules,
    }
    head = metadata(name, endpoint, settings)
    return {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": head, "spec": spec}


def _backend(endpoint: str, variant: str) -> Document:
    named = {"set": [{"name": VARIANT_HEADER, "value": variant}]}
    return {
        "name": service_name(endpoint, variant),
        "port": SERVICE_PORT,
        "filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": named}],
    }
