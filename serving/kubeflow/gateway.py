"""Gateway mode: one InferenceService a variant, and the Gateway splits the traffic by an HTTPRoute."""

from collections.abc import Sequence

from typing_extensions import override

from headway.components.errors import ClusterError, ReleaseError
from headway.components.kubernetes.client import Document
from headway.serving.inference_service import (
    ENDPOINT_LABEL,
    ROUTE_ANNOTATION,
    host_name,
    service_name,
    variant_of,
    variant_service,
)
from headway.serving.kubeflow import facts
from headway.serving.kubeflow.measure import ENVOY, ISTIO, SERVER, Where
from headway.serving.kubeflow.mode import OWN, Mode, decided, live, refuse_traffic, same, without
from headway.serving.kubeflow.routing import envoy_policy, http_route, variant_route
from headway.serving.kubeflow.states import ABSENT, conditions_of, is_true, pods_of, state
from headway.serving.platform import TOTAL_WEIGHT, VARIANT_HEADER, Address, Route, Variant, VariantState

MOST_VARIANTS = 16
"""Backends of one HTTPRoute's rule."""


class GatewayMode(Mode):
    """Weights of 10 000, any number of variants, shadows, requests that name their variant."""

    name = "gateway"
    needs = {
        "InferenceService": ("get", "list", "watch", "create", "patch", "delete"),
        "HTTPRoute": ("get", "list", "watch", "create", "patch", "delete"),
        "Gateway": ("get",),
        "GatewayClass": ("get",),
        "Pod": ("list",),
    }

    @override
    def check(self, endpoint: str, route: Route, variants: Sequence[Variant]) -> None:
        super().check(endpoint, route, variants)
        gateway = facts.gateway(self.cluster, self.settings)
        if gateway.kind == facts.ENVOY:
            self.require({"BackendTrafficPolicy": ("get", "create", "patch", "delete")})
        if len(route.shares) > MOST_VARIANTS:
            raise ReleaseError(f"{len(route.shares)} variants share one route", expected=f"at most {MOST_VARIANTS}")
        if route.mirror and not gateway.supports("HTTPRouteRequestMirror"):
            raise ReleaseError(
                f"The Gateway {self.settings.serving_gateway} cannot copy requests to a shadow",
                fix="take a canary, or a Gateway whose class supports HTTPRouteRequestMirror",
            )
        if route.mirror_weight % TOTAL_WEIGHT and not gateway.supports("HTTPRouteRequestPercentageMirror"):
            raise ReleaseError(
                f"The Gateway {self.settings.serving_gateway} copies all requests to a shadow or none",
                fix="mirror 100 percent, or take a Gateway whose class supports HTTPRouteRequestPercentageMirror",
            )

    @override
    def ensure(self, endpoint: str, variant: Variant) -> None:
        there = self.own("InferenceService", f"{endpoint}-{variant.name}", endpoint)
        if there is None:
            self.cluster.apply(variant_service(endpoint, variant, self.settings))
        else:
            same(endpoint, variant_of(there["spec"]["predictor"]), variant)
        self.cluster.apply(variant_route(endpoint, variant.name, self.settings))

    @override
    def state(self, endpoint: str, variant: Variant) -> VariantState:
        name = f"{endpoint}-{variant.name}"
        found = self.own("InferenceService", name, endpoint)
        if found is None:
            return ABSENT
        pods = pods_of(self.cluster, name, variant.name)
        return state(found, variant_of(found["spec"]["predictor"]), variant, pods, serving=is_true(found, "Ready"))

    @override
    def variants(self, endpoint: str) -> list[Variant]:
        found = self.cluster.list("InferenceService", OWN | {ENDPOINT_LABEL: endpoint})
        made = [(each["metadata"]["creationTimestamp"], variant_of(each["spec"]["predictor"])) for each in found]
        # Creation times are whole seconds.
        return [variant for _, variant in sorted(made, key=lambda pair: (pair[0], pair[1].version))]

    @override
    def remove(self, endpoint: str, variant: str) -> None:
        route = self.route(endpoint)
        refuse_traffic(endpoint, variant, route)
        if route and variant in route.weights:
            # First out of the route: a backend whose Service is gone would not resolve.
            self._follow(endpoint, without(route, variant), leaving=variant)
        self.cluster.delete("HTTPRoute", f"{endpoint}-{variant}-forced")
        if self.own("InferenceService", f"{endpoint}-{variant}", endpoint):
            self.gone("InferenceService", [f"{endpoint}-{variant}"])

    @override
    def set_route(self, endpoint: str, route: Route) -> None:
        if self._behind_envoy():
            sticky = facts.envoy_gateway_is_sticky(self.cluster)
            self.cluster.apply(envoy_policy(endpoint, self.settings, sticky=sticky))
        self._follow(endpoint, route)

    @override
    def route(self, endpoint: str) -> Route | None:
        found = self.own("HTTPRoute", endpoint, endpoint)
        route = decided(found) if found else None
        if found is None or route is None:
            return None
        backends, mirrors = _backends(found)
        weights = {self._variant(endpoint, each["name"]): each.get("weight", 1) for each in backends}
        if not mirrors:
            return live(route, weights)
        fraction = mirrors[0].get("fraction", {"numerator": 1, "denominator": 1})
        share = round(TOTAL_WEIGHT * fraction["numerator"] / fraction["denominator"])
        name = self._variant(endpoint, mirrors[0]["backendRef"]["name"])
        return live(route, weights, mirror=name, mirror_weight=share)

    @override
    def remove_endpoint(self, endpoint: str) -> None:
        of_endpoint = OWN | {ENDPOINT_LABEL: endpoint}
        # The endpoint's own route first, so that nobody is sent to what is about to go.
        if self.own("HTTPRoute", endpoint, endpoint):
            self.cluster.delete("HTTPRoute", endpoint)
        for route in self.cluster.list("HTTPRoute", of_endpoint):
            self.cluster.delete("HTTPRoute", route["metadata"]["name"])
        if self._behind_envoy():
            self.cluster.delete("BackendTrafficPolicy", endpoint)
        services = self.cluster.list("InferenceService", of_endpoint)
        self.gone("InferenceService", [each["metadata"]["name"] for each in services])

    @override
    def address(self, endpoint: str, variant: str | None) -> Address:
        url = facts.gateway(self.cluster, self.settings).url
        if not url:
            raise ClusterError(f"The Gateway {self.settings.serving_gateway} has no address yet")
        headers = {"host": host_name(endpoint, self.settings)}
        return Address(url=url, headers=headers | ({VARIANT_HEADER: variant} if variant else {}))

    @override
    def where(self, endpoint: str, variant: str) -> Where:
        namespace, service = self.cluster.namespace, service_name(endpoint, variant)
        server = f'namespace="{namespace}",pod=~"{service}-.+",variant="{variant}"'
        kind = facts.gateway(self.cluster, self.settings).kind
        if kind == facts.ENVOY:
            return Where([(ENVOY, f'envoy_cluster_name=~"{self._clusters(endpoint, variant)}"')], server)
        if kind == facts.ISTIO:
            workload = f'destination_workload="{service}",destination_workload_namespace="{namespace}"'
            return Where([(ISTIO, f'reporter="source",{workload}')], server)
        return Where([(SERVER, server)], server)

    @override
    def documents(self, endpoint: str) -> list[Document]:
        variants, route = self.variants(endpoint), self.route(endpoint)
        found = [variant_service(endpoint, variant, self.settings) for variant in variants]
        found += [variant_route(endpoint, variant.name, self.settings) for variant in variants]
        if route:
            names = {variant.name for variant in variants}
            found.append(http_route(endpoint, route, self.settings, existing=names))
            if self._behind_envoy():
                sticky = facts.envoy_gateway_is_sticky(self.cluster)
                found.append(envoy_policy(endpoint, self.settings, sticky=sticky))
        return found

    # ---- the route

    def _follow(self, endpoint: str, route: Route, *, leaving: str = "") -> None:
        """Apply a route and wait until the Gateway has taken it; what it does not take is taken back."""
        before = self.own("HTTPRoute", endpoint, endpoint)
        existing = {variant.name for variant in self.variants(endpoint)} - {leaving}
        self.cluster.apply(http_route(endpoint, route, self.settings, existing=existing))
        seen, settled = self.cluster.wait("HTTPRoute", endpoint, _settled, self.route_seconds)
        if settled and seen is not None and _taken(seen):
            return
        if before is None:
            self.cluster.delete("HTTPRoute", endpoint)
        else:
            self.cluster.apply(_as_it_was(before))
        raise ClusterError(
            f"The Gateway did not take the route of {endpoint!r}: {_said(seen)}; traffic is unchanged",
            fix=f"see `kubectl -n {self.cluster.namespace} describe httproute {endpoint}` and the gateway's own log",
        )

    def _behind_envoy(self) -> bool:
        return facts.gateway(self.cluster, self.settings).kind == facts.ENVOY

    def _variant(self, endpoint: str, service: str) -> str:
        return service.removeprefix(f"{endpoint}-").removesuffix("-predictor")

    def _clusters(self, endpoint: str, variant: str) -> str:
        """The Envoy clusters of a variant: Envoy Gateway numbers a rule's backends, and its mirrors."""
        found = self.own("HTTPRoute", endpoint, endpoint)
        if found is None:
            raise ClusterError(f"{endpoint!r} has no route, so nothing counts its requests")
        backends, mirrors = _backends(found)
        service = service_name(endpoint, variant)
        places = [f"/backend/{index}" for index, each in enumerate(backends) if each["name"] == service]
        places += [f"-mirror-{index}" for index, each in enumerate(mirrors) if each["backendRef"]["name"] == service]
        if not places:
            raise ClusterError(f"The route of {endpoint!r} does not name {variant!r}, so nothing counts its requests")
        return f"httproute/{self.cluster.namespace}/{endpoint}/rule/0({'|'.join(places)})"


def _backends(document: Document) -> tuple[list[Document], list[Document]]:
    """The weighted backends of a route of ours, and its mirrors."""
    rules = document["spec"]["rules"]
    if len(rules) != 1:
        raise ClusterError(
            f"HTTPRoute {document['metadata']['name']!r} has {len(rules)} rules: somebody changed it by hand",
            expected="the one that Headway made",
            fix="set the route again",
        )
    mirrors = [each["requestMirror"] for each in rules[0].get("filters", []) if each["type"] == "RequestMirror"]
    return rules[0]["backendRefs"], mirrors


def _as_it_was(document: Document) -> Document:
    """A route as it was read, to be applied again."""
    head = document["metadata"]
    kept = {name: head[name] for name in ("name", "namespace", "labels")}
    kept["annotations"] = {ROUTE_ANNOTATION: head["annotations"][ROUTE_ANNOTATION]}
    return {name: document[name] for name in ("apiVersion", "kind", "spec")} | {"metadata": kept}


def _parents(document: Document) -> list[Document]:
    return [
        parent
        for parent in document.get("status", {}).get("parents", [])
        if all(each.get("observedGeneration", 0) >= document["metadata"]["generation"] for each in parent["conditions"])
    ]


def _taken(document: Document) -> bool:
    parents = _parents(document)
    return bool(parents) and all(
        is_true({"status": parent}, "Accepted") and is_true({"status": parent}, "ResolvedRefs") for parent in parents
    )


def _settled(document: Document | None) -> bool:
    """Whether a Gateway has taken this version of the route, or refused it for good."""
    if document is None:
        return False
    refused = any(
        each["type"] == "Accepted" and each["status"] == "False"
        for parent in _parents(document)
        for each in parent["conditions"]
    )
    return refused or _taken(document)


def _said(document: Document | None) -> str:
    parents = _parents(document) if document else []
    said = [f"{name}: {text}" for parent in parents for name, text in conditions_of({"status": parent}).items()]
    return ", ".join(said) or "it has not looked at it yet"
