"""What a cluster can do: its KServe's version, its Gateway and who carries it out.

Versions come from the controllers' Deployments where these may be read, else from fields of the published schemas.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from headway.components.errors import ReleaseError
from headway.components.kubernetes.client import Cluster, Document, ForbiddenError, NotFoundError
from headway.components.settings import Settings

VersionPair = tuple[int, int]

CANARY_SINCE: VersionPair = (0, 21)
"""KServe 0.20 accepts `spec.canary`, takes pods from the stable variant, and sends the canary no request."""
STICKY_SINCE: VersionPair = (1, 9)
"""Envoy Gateway picks the weighted backend by the hash policy from this version on; before, for each request anew."""

ENVOY, ISTIO, OTHER = "envoy", "istio", "other"
_CONTROLLERS = {"gateway.envoyproxy.io/gatewayclass-controller": ENVOY, "istio.io/gateway-controller": ISTIO}


@dataclass(frozen=True)
class Gateway:
    """The Gateway that endpoints' routes attach to."""

    kind: str
    """`envoy`, `istio` or `other`."""
    features: frozenset[str]
    """What its class says it supports; empty when it does not say."""
    url: str
    """Where it listens; empty while it has no address."""

    def supports(self, feature: str) -> bool:
        """Whether it can do that, as far as it says."""
        return not self.features or feature in self.features


def gateway(cluster: Cluster, settings: Settings) -> Gateway:
    """The settings' Gateway.

    Raises:
        ReleaseError: It is not there.
    """
    namespace, _, name = settings.serving_gateway.partition("/")
    found = cluster.get("Gateway", name, namespace=namespace)
    if found is None:
        raise ReleaseError(
            f"There is no Gateway {settings.serving_gateway}", fix="set serving_gateway to NAMESPACE/NAME of one"
        )
    kept = cluster.get("GatewayClass", found["spec"]["gatewayClassName"]) or {}
    features = kept.get("status", {}).get("supportedFeatures", [])
    return Gateway(
        kind=_CONTROLLERS.get(kept.get("spec", {}).get("controllerName", ""), OTHER),
        features=frozenset(each["name"] if isinstance(each, dict) else each for each in features),
        url=_url(found),
    )


def kserve_version(cluster: Cluster) -> VersionPair:
    """KServe's version; an older one than 0.20 counts as 0.0."""
    deployed = _deployed(cluster, "kserve-controller-manager", ["kserve", "kubeflow"])
    if deployed:
        return deployed
    spec = cluster.schema("InferenceService")["properties"]["spec"]["properties"]
    if "tracing" in spec:
        return CANARY_SINCE
    return (0, 20) if "canary" in spec else (0, 0)


def envoy_gateway_is_sticky(cluster: Cluster) -> bool:
    """Whether Envoy Gateway keeps a user at one variant."""
    deployed = _deployed(cluster, "envoy-gateway", ["envoy-gateway-system"])
    if deployed:
        return deployed >= STICKY_SINCE
    try:
        schema = cluster.schema("BackendTrafficPolicy")
    except NotFoundError:
        return False
    probe = _field(schema, ["spec", "healthCheck", "active", "http"])
    return "requestBody" in probe


def _deployed(cluster: Cluster, name: str, namespaces: Sequence[str]) -> VersionPair | None:
    """The version that a controller's Deployment names, in its label or in its image's tag."""
    for namespace in namespaces:
        try:
            found = cluster.get("Deployment", name, namespace=namespace)
        except ForbiddenError:
            continue
        if found is None:
            continue
        label = found["metadata"].get("labels", {}).get("app.kubernetes.io/version", "")
        containers = found["spec"]["template"]["spec"]["containers"]
        for text in (label, *(container["image"].rpartition(":")[2] for container in containers)):
            if match := re.match(r"v?(\d+)\.(\d+)", text):
                return int(match[1]), int(match[2])
    return None


def _field(schema: Document, path: Sequence[str]) -> Document:
    for name in path:
        schema = schema.get("properties", {}).get(name, {})
    found: Document = schema.get("properties", {})
    return found


def _url(found: Document) -> str:
    addresses = found.get("status", {}).get("addresses", [])
    if not addresses:
        return ""
    plain = [each for each in found["spec"]["listeners"] if each["protocol"] == "HTTP"]
    listener = (plain or found["spec"]["listeners"])[0]
    scheme = "http" if plain else "https"
    return f"{scheme}://{addresses[0]['value']}:{listener['port']}"
