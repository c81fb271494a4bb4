"""Knative mode: one InferenceService with `canaryTrafficPercent`, Knative splits the traffic between two revisions.

KServe pins the revision that last had all traffic and gives the newest one its percentage. So the newest variant is the
one in the spec, the older one lives on as a revision, and which revision is which variant stands on the revision.
"""

import json
from collections.abc import Callable, Sequence

from typing_extensions import override

from headway.components.errors import ClusterError, NotReadyError, ReleaseError
from headway.components.kubernetes.client import Document
from headway.serving.inference_service import VARIANT_LABEL, VARIANTS_ANNOTATION, knative_service
from headway.serving.kubeflow.measure import KNATIVE, KNATIVE_BEFORE_1_19, Where
from headway.serving.kubeflow.mode import Mode, decided, live, refuse_traffic, same, whole_percents, without
from headway.serving.kubeflow.states import ABSENT, is_true, pods_of, state
from headway.serving.platform import Address, Route, Variant, VariantState


class KnativeMode(Mode):
    """Whole percents, two variants at most.

    The first variant of an endpoint answers as soon as it is ready: it is the only revision there is.
    """

    name = "knative"
    needs = {
        "InferenceService": ("get", "list", "watch", "create", "patch", "delete"),
        "Revision": ("list",),
        "Pod": ("list",),
    }

    @override
    def check(self, endpoint: str, route: Route, variants: Sequence[Variant]) -> None:
        super().check(endpoint, route, variants)
        whole_percents(route, self.name)
        if len(variants) > 2:
            raise self._two_only(endpoint, f"{len(variants)} variants")

    @override
    def ensure(self, endpoint: str, variant: Variant) -> None:
        found = self.own("InferenceService", endpoint, endpoint)
        if found is None:
            self.cluster.apply(knative_service(endpoint, [variant], None, self.settings))
            return
        variants = _variants(found)
        if there := next((each for each in variants if each.name == variant.name), None):
            same(endpoint, there, variant)
            return
        if len(variants) > 1:
            raise self._two_only(endpoint, f"{', '.join(each.name for each in variants)} and {variant.name}")
        # Without a revision to pin, KServe would give the newcomer everything as soon as it is ready.
        _, pinned = self.cluster.wait("InferenceService", endpoint, _rolled_out, self.route_seconds)
        if not pinned:
            raise NotReadyError(
                f"{variants[0].name!r} of {endpoint!r} is not ready; {variant.name!r} would get all traffic at once",
                fix="wait until it is ready, or remove it",
            )
        both = [*variants, variant]
        self.cluster.apply(knative_service(endpoint, both, 0, self.settings, route=decided(found)))

    @override
    def state(self, endpoint: str, variant: Variant) -> VariantState:
        found = self.own("InferenceService", endpoint, endpoint)
        if found is None or variant.name not in {each.name for each in _variants(found)}:
            return ABSENT
        revisions = [each for each in self._revisions(endpoint) if _label(each) == variant.name]
        if _label(found["spec"]["predictor"]) == variant.name:
            # An earlier revision of the same variant may still be there.
            newest = _component(found).get("latestCreatedRevision")
            revisions = [each for each in revisions if each["metadata"]["name"] == newest]
        ready = [each for each in revisions if is_true(each, "Ready")]
        revision = next(iter(reversed(ready or revisions)), None)
        pods = [] if ready else pods_of(self.cluster, endpoint, variant.name)
        deployed = next(each for each in _variants(found) if each.name == variant.name)
        return state(found, deployed, variant, pods, serving=bool(ready), revision=revision)

    @override
    def variants(self, endpoint: str) -> list[Variant]:
        found = self.own("InferenceService", endpoint, endpoint)
        return _variants(found) if found else []

    @override
    def remove(self, endpoint: str, variant: str) -> None:
        route = self.route(endpoint)
        refuse_traffic(endpoint, variant, route)
        found = self.own("InferenceService", endpoint, endpoint)
        if found is None or variant not in {each.name for each in _variants(found)}:
            return
        others = [each for each in _variants(found) if each.name != variant]
        if not others:
            self.gone("InferenceService", [endpoint])
            return
        (other,) = others
        if _label(found["spec"]["predictor"]) == variant:
            # The spec must go back to the other one. Its new revision gets nothing until it is ready: without the pin,
            # all traffic would go to the newest ready revision, which is still the one that shall go.
            gone = next(each for each in _variants(found) if each.name == variant)
            document = knative_service(endpoint, [other, gone], 0, self.settings, newest=other, route=decided(found))
            self.cluster.apply(document)
        self._await(endpoint, lambda seen: self._newest_is(seen, endpoint, other.name), f"{other.name} runs anew")
        route = without(route, variant) if route else None
        self.cluster.apply(knative_service(endpoint, [other], None, self.settings, route=route))
        self._await(endpoint, lambda seen: set(self._weights(seen, endpoint)) == {other.name}, f"{other.name} gets all")

    @override
    def set_route(self, endpoint: str, route: Route) -> None:
        percents = whole_percents(route, self.name)
        found = self.own("InferenceService", endpoint, endpoint)
        if found is None:
            raise ClusterError(f"There is no InferenceService {endpoint!r} any more")
        variants = _variants(found)
        percent = percents.get(variants[-1].name, 0) if len(variants) > 1 else None
        self.cluster.apply(knative_service(endpoint, variants, percent, self.settings, route=route))
        wanted = {name: weight for name, weight in route.weights.items() if weight}
        try:
            self._await(endpoint, lambda seen: self._weights(seen, endpoint) == wanted, f"traffic is {wanted}")
        except ClusterError:
            before = found["spec"]["predictor"].get("canaryTrafficPercent")
            self.cluster.apply(knative_service(endpoint, variants, before, self.settings, route=decided(found)))
            raise

    @override
    def route(self, endpoint: str) -> Route | None:
        found = self.own("InferenceService", endpoint, endpoint)
        route = decided(found) if found else None
        return route and live(route, self._weights(found, endpoint))

    @override
    def remove_endpoint(self, endpoint: str) -> None:
        if self.own("InferenceService", endpoint, endpoint):
            self.gone("InferenceService", [endpoint])

    @override
    def address(self, endpoint: str, variant: str | None) -> Address:
        found = self.own("InferenceService", endpoint, endpoint) or {}
        if variant is None:
            url = found.get("status", {}).get("url")
        else:
            names = {each["metadata"]["name"]: _label(each) for each in self._revisions(endpoint)}
            tagged = [each for each in _component(found).get("traffic", []) if each.get("tag") and each.get("url")]
            url = next((each["url"] for each in tagged if names.get(each["revisionName"]) == variant), None)
        if not url:
            who = f"variant {variant!r} of {endpoint!r}" if variant else repr(endpoint)
            raise ClusterError(f"Knative has no address for {who}", fix="wait until it is ready, or give it traffic")
        return Address(url=url.rstrip("/"))

    @override
    def where(self, endpoint: str, variant: str) -> Where:
        names = [each["metadata"]["name"] for each in self._revisions(endpoint) if _label(each) == variant]
        if not names or variant not in {each.name for each in self.variants(endpoint)}:
            raise ClusterError(f"{endpoint!r} has no variant {variant!r}, so nothing counts its requests")
        namespace, revisions = self.cluster.namespace, "|".join(names)
        return Where(
            [
                (KNATIVE, f'kn_revision_name=~"{revisions}",k8s_namespace_name="{namespace}"'),
                (KNATIVE_BEFORE_1_19, f'revision_name=~"{revisions}",namespace_name="{namespace}"'),
            ],
            f'namespace="{namespace}",pod=~"({revisions})-deployment-.+",variant="{variant}"',
        )

    @override
    def documents(self, endpoint: str) -> list[Document]:
        found = self.own("InferenceService", endpoint, endpoint)
        if found is None:
            return []
        percent = found["spec"]["predictor"].get("canaryTrafficPercent")
        route = self.route(endpoint)
        return [knative_service(endpoint, _variants(found), percent, self.settings, route=route)]

    # ---- revisions

    def _revisions(self, endpoint: str) -> list[Document]:
        return self.cluster.list("Revision", {"serving.knative.dev/service": f"{endpoint}-predictor"})

    def _weights(self, found: Document | None, endpoint: str) -> dict[str, int]:
        """Weights of 10 000 by variant, as Knative's route has them; what gets nothing is left out."""
        names = {each["metadata"]["name"]: _label(each) for each in self._revisions(endpoint)}
        weights: dict[str, int] = {}
        for each in _component(found or {}).get("traffic", []):
            if each.get("percent"):
                name = names.get(each["revisionName"], each["revisionName"])
                weights[name] = weights.get(name, 0) + 100 * each["percent"]
        return weights

    def _newest_is(self, found: Document | None, endpoint: str, variant: str) -> bool:
        component = _component(found or {})
        newest = component.get("latestReadyRevision")
        if newest != component.get("latestCreatedRevision"):
            return False
        return any(each["metadata"]["name"] == newest and _label(each) == variant for each in self._revisions(endpoint))

    def _await(self, endpoint: str, done: Callable[[Document | None], bool], what: str) -> None:
        seen, finished = self.cluster.wait("InferenceService", endpoint, done, self.route_seconds)
        if not finished:
            raise ClusterError(
                f"After {self.route_seconds:g} s Knative is not where {what}: {self._weights(seen, endpoint)}",
                fix=f"see `kubectl -n {self.cluster.namespace} describe inferenceservice {endpoint}`",
            )

    def _two_only(self, endpoint: str, got: str) -> ReleaseError:
        return ReleaseError(
            f"serving_mode 'knative' splits the traffic of {endpoint!r} between two revisions, got {got}",
            fix="remove a variant, or set serving_mode (HEADWAY_SERVING_MODE) to gateway",
        )


def _component(found: Document) -> Document:
    component: Document = found.get("status", {}).get("components", {}).get("predictor", {})
    return component


def _rolled_out(found: Document | None) -> bool:
    return bool(found and _component(found).get("latestRolledoutRevision"))


def _variants(found: Document) -> list[Variant]:
    known = json.loads(found["metadata"]["annotations"][VARIANTS_ANNOTATION])
    return [Variant.parse(each, where=f"annotation {VARIANTS_ANNOTATION}") for each in known]


def _label(document: Document) -> str:
    """The variant that a predictor or a revision is of."""
    labels = document.get("metadata", document).get("labels", {})
    name: str = labels.get(VARIANT_LABEL, "")
    return name
