"""Canary mode: one InferenceService, KServe splits the traffic by `spec.canary` (KServe 0.21 and later)."""

from collections.abc import Mapping, Sequence

from typing_extensions import override

from headway.components.errors import ClusterError, ReleaseError
from headway.components.kubernetes.client import Document
from headway.serving.inference_service import VARIANT_LABEL, canary_service, service_name, variant_of
from headway.serving.kubeflow import facts
from headway.serving.kubeflow.measure import ISTIO, SERVER, Where
from headway.serving.kubeflow.mode import Mode, decided, live, refuse_traffic, same, whole_percents, without
from headway.serving.kubeflow.states import ABSENT, is_true, pods_of, state
from headway.serving.platform import TOTAL_WEIGHT, Address, Route, Variant, VariantState


class CanaryMode(Mode):
    """Whole percents, any number of variants.

    An endpoint's first variant answers as soon as it is ready: KServe gives the stable one all that canaries leave.
    """

    name = "canary"
    needs = {
        "InferenceService": ("get", "list", "watch", "create", "patch", "delete"),
        "HTTPRoute": ("get", "list", "watch"),
        "Gateway": ("get",),
        "GatewayClass": ("get",),
        "Pod": ("list",),
    }

    @override
    def check(self, endpoint: str, route: Route, variants: Sequence[Variant]) -> None:
        super().check(endpoint, route, variants)
        whole_percents(route, self.name)
        self._require_version()

    @override
    def ensure(self, endpoint: str, variant: Variant) -> None:
        self._require_version()
        found = self.own("InferenceService", endpoint, endpoint)
        there = _predictors(found)
        if variant.name in there:
            same(endpoint, variant_of(there[variant.name]), variant)
            return
        variants = [*map(variant_of, there.values()), variant]
        self._apply(endpoint, variants, _percents(found), decided(found) if found else None, found)

    @override
    def state(self, endpoint: str, variant: Variant) -> VariantState:
        found = self.own("InferenceService", endpoint, endpoint)
        predictor = _predictors(found).get(variant.name)
        if found is None or predictor is None:
            return ABSENT
        if predictor == found["spec"]["predictor"]:
            serving = is_true(found, "PredictorReady")
        else:
            canaries = found.get("status", {}).get("canaryStatuses", [])
            serving = any(each["name"] == variant.name and each["ready"] for each in canaries)
        pods = pods_of(self.cluster, endpoint, variant.name)
        return state(found, variant_of(predictor), variant, pods, serving=serving)

    @override
    def variants(self, endpoint: str) -> list[Variant]:
        there = _predictors(self.own("InferenceService", endpoint, endpoint)).values()
        return sorted(map(variant_of, there), key=lambda variant: variant.version)

    @override
    def remove(self, endpoint: str, variant: str) -> None:
        route = self.route(endpoint)
        refuse_traffic(endpoint, variant, route)
        found = self.own("InferenceService", endpoint, endpoint)
        variants = [each for each in map(variant_of, _predictors(found).values()) if each.name != variant]
        if found is None or len(variants) == len(_predictors(found)):
            return
        if not variants:
            self.gone("InferenceService", [endpoint])
        elif route is None:
            self._apply(endpoint, variants, {}, None, found)
        else:
            self._follow(endpoint, without(route, variant), variants)

    @override
    def set_route(self, endpoint: str, route: Route) -> None:
        whole_percents(route, self.name)
        found = self.own("InferenceService", endpoint, endpoint)
        self._follow(endpoint, route, list(map(variant_of, _predictors(found).values())))

    @override
    def route(self, endpoint: str) -> Route | None:
        found = self.own("InferenceService", endpoint, endpoint)
        route = decided(found) if found else None
        return route and live(route, _weights(endpoint, self.cluster.get("HTTPRoute", endpoint)))

    @override
    def remove_endpoint(self, endpoint: str) -> None:
        if self.own("InferenceService", endpoint, endpoint):
            self.gone("InferenceService", [endpoint])

    @override
    def address(self, endpoint: str, variant: str | None) -> Address:
        if variant is not None:
            # KServe's route matches no header: only from inside the cluster can one variant be asked.
            return Address(url=f"http://{service_name(endpoint, variant)}.{self.cluster.namespace}.svc.cluster.local")
        found = self.cluster.get("HTTPRoute", endpoint)
        url = facts.gateway(self.cluster, self.settings).url
        if found is None or not url:
            raise ClusterError(f"KServe has made no route for {endpoint!r} yet, or its Gateway has no address")
        return Address(url=url, headers={"host": found["spec"]["hostnames"][0]})

    @override
    def where(self, endpoint: str, variant: str) -> Where:
        if variant not in _predictors(self.own("InferenceService", endpoint, endpoint)):
            raise ClusterError(f"{endpoint!r} has no variant {variant!r}, so nothing counts its requests")
        namespace, service = self.cluster.namespace, service_name(endpoint, variant)
        server = f'namespace="{namespace}",pod=~"{service}-.+",variant="{variant}"'
        if facts.gateway(self.cluster, self.settings).kind == facts.ISTIO:
            workload = f'destination_workload="{service}",destination_workload_namespace="{namespace}"'
            return Where([(ISTIO, f'reporter="source",{workload}')], server)
        # Envoy Gateway puts all variants of KServe's route into one cluster.
        return Where([(SERVER, server)], server)

    @override
    def documents(self, endpoint: str) -> list[Document]:
        found = self.own("InferenceService", endpoint, endpoint)
        if found is None:
            return []
        variants = list(map(variant_of, _predictors(found).values()))
        percents, route, replicas = _percents(found), self.route(endpoint), _replicas(found)
        return [canary_service(endpoint, variants, percents, self.settings, route=route, replicas=replicas)]

    # ---- the route

    def _follow(self, endpoint: str, route: Route, variants: Sequence[Variant]) -> None:
        """Apply a route over these variants and wait until KServe's own HTTPRoute has its weights."""
        found = self.own("InferenceService", endpoint, endpoint)
        order = list(route.weights)
        named = sorted((each for each in variants if each.name in order), key=lambda each: order.index(each.name))
        others = [each for each in variants if each.name not in order]
        percents = {name: weight // 100 for name, weight in route.weights.items()}
        self._apply(endpoint, [*named, *others], percents, route, found)
        wanted = {name: weight for name, weight in route.weights.items() if weight}

        def followed(seen: Document | None) -> bool:
            return {name: weight for name, weight in _weights(endpoint, seen).items() if weight} == wanted

        seen, done = self.cluster.wait("HTTPRoute", endpoint, followed, self.route_seconds)
        if not done:
            self._apply(endpoint, list(map(variant_of, _predictors(found).values())), _percents(found), None, found)
            raise ClusterError(
                f"KServe did not take the route of {endpoint!r}: its HTTPRoute has {_weights(endpoint, seen)}; "
                "traffic is unchanged",
                expected=str(wanted),
                fix="spec.canary has weights only where KServe runs with enableGatewayApi: true",
            )

    def _apply(
        self,
        endpoint: str,
        variants: Sequence[Variant],
        percents: Mapping[str, int],
        route: Route | None,
        found: Document | None,
    ) -> None:
        replicas = found["spec"]["predictor"].get("minReplicas", 1) if found else 1
        route = route or (decided(found) if found else None)
        self.cluster.apply(canary_service(endpoint, variants, percents, self.settings, route=route, replicas=replicas))

    def _require_version(self) -> None:
        version = facts.kserve_version(self.cluster)
        if version >= facts.CANARY_SINCE:
            return
        says = f"KServe {version[0]}.{version[1]}" if any(version) else "This KServe"
        raise ReleaseError(
            f"{says} cannot split traffic by spec.canary: it would take pods from the stable variant and send the "
            "canary no request",
            expected="KServe 0.21 or newer, with enableGatewayApi: true",
            fix="upgrade KServe, or set serving_mode (HEADWAY_SERVING_MODE) to gateway",
        )


def _predictors(found: Document | None) -> dict[str, Document]:
    """Predictors by variant, the stable one first."""
    if found is None:
        return {}
    spec = found["spec"]
    every = [spec["predictor"], *(each["predictor"] for each in spec.get("canary", []))]
    return {each["labels"][VARIANT_LABEL]: each for each in every}


def _percents(found: Document | None) -> dict[str, int]:
    canaries = found["spec"].get("canary", []) if found else []
    return {each["predictor"]["name"]: each["trafficPercent"] for each in canaries}


def _replicas(found: Document | None) -> int:
    """How many pods somebody gave the stable variant; all variants get as many."""
    return int(found["spec"]["predictor"].get("minReplicas", 1)) if found else 1


def _weights(endpoint: str, route: Document | None) -> dict[str, int]:
    """Weights of 10 000 by variant, as KServe's HTTPRoute has them."""
    if route is None:
        return {}
    backends = route["spec"]["rules"][0]["backendRefs"]
    shares = {
        each["name"].removeprefix(f"{endpoint}-").removesuffix("-predictor"): each.get("weight", 1) for each in backends
    }
    total = sum(shares.values())
    return {name: TOTAL_WEIGHT * share // total for name, share in shares.items()}
