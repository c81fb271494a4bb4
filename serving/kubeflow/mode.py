"""What the three ways to split traffic on KServe have in common.

A mode keeps nothing: what is deployed, and which route is live, is read from the cluster each time.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from headway.components.errors import ClusterError, ReleaseError
from headway.components.kubernetes.client import Cluster, Document
from headway.components.kubernetes.kinds import KINDS
from headway.components.settings import Settings
from headway.serving.inference_service import ENDPOINT_LABEL, MANAGED_BY, ROUTE_ANNOTATION, RUNTIME, require_readable
from headway.serving.kubeflow.measure import Where
from headway.serving.platform import TOTAL_WEIGHT, Address, Route, Share, Variant, VariantState

ROUTE_SECONDS = 60.0
"""How long a gateway may take to follow a route."""
REMOVAL_SECONDS = 120.0
"""How long a variant may take to finish its requests and go."""
LONGEST_NAME = 63
OWN = {MANAGED_BY: "headway"}


class Mode(ABC):
    """One way to split traffic.

    Args:
        cluster: The namespace of the endpoints.
        settings: Images, Gateway and domain.
        route_seconds: How long a gateway may take to follow a route.
    """

    name: ClassVar[str]
    """Its name in the settings."""
    needs: ClassVar[Mapping[str, Sequence[str]]]
    """The kinds that it works with, and the verbs that it needs on each."""

    def __init__(self, cluster: Cluster, settings: Settings, *, route_seconds: float = ROUTE_SECONDS) -> None:
        self.cluster = cluster
        self.settings = settings
        self.route_seconds = route_seconds

    def check(self, endpoint: str, route: Route, variants: Sequence[Variant]) -> None:
        """Refuse what this mode, or this cluster, cannot do; see `Platform.check`."""
        given = {variant.name for variant in variants}
        if missing := [name for name in route.needed if name not in given]:
            raise ReleaseError(f"The route of {endpoint!r} names {', '.join(missing)}, which no variant is called")
        for variant in variants:
            require_readable(variant)
            name = f"{endpoint}-{variant.name}-predictor"
            if len(name) > LONGEST_NAME:
                raise ReleaseError(
                    f"The name {name!r} is too long for Kubernetes: {len(name)} characters",
                    expected=f"at most {LONGEST_NAME}",
                    fix="shorten the endpoint's or the variant's name",
                )
        self.require(self.needs)
        if self.cluster.get("ServingRuntime", RUNTIME) is None:
            raise ReleaseError(
                f"There is no ServingRuntime {RUNTIME!r} in the namespace {self.cluster.namespace!r}",
                fix="kubectl apply -k manifests/serving",
            )

    def require(self, needs: Mapping[str, Sequence[str]]) -> None:
        """Refuse a cluster that lacks a kind, or that does not let us do what we must.

        Raises:
            ReleaseError: All kinds, or all rights, that are missing.
        """
        missing = [KINDS[kind] for kind in needs if not self.cluster.serves(kind)]
        if missing:
            raise ReleaseError(
                f"The cluster does not know {', '.join(each.full_name for each in missing)}",
                fix=f"install {' and '.join(dict.fromkeys(each.needs for each in missing))}, or set serving_mode to "
                "another mode",
            )
        denied = [
            f"{verb} {KINDS[kind].full_name}"
            for kind, verbs in needs.items()
            for verb in verbs
            if not self.cluster.allowed(verb, kind, namespace=self._namespace(kind))
        ]
        if denied:
            raise ReleaseError(
                f"These credentials may not {', '.join(denied)} in the namespace {self.cluster.namespace!r}",
                fix="bind the role of manifests/serving/rbac.yaml to the account",
            )

    def _namespace(self, kind: str) -> str:
        return self.settings.serving_gateway.partition("/")[0] if kind == "Gateway" else self.cluster.namespace

    @abstractmethod
    def ensure(self, endpoint: str, variant: Variant) -> None:
        """Start a variant; see `Platform.ensure_variant`."""

    @abstractmethod
    def state(self, endpoint: str, variant: Variant) -> VariantState:
        """How far a variant has come."""

    @abstractmethod
    def variants(self, endpoint: str) -> list[Variant]:
        """The variants that exist, the oldest first."""

    @abstractmethod
    def remove(self, endpoint: str, variant: str) -> None:
        """Take a variant away that the live route does not send anything."""

    @abstractmethod
    def set_route(self, endpoint: str, route: Route) -> None:
        """Make traffic follow a route whose variants are ready; return once it does."""

    @abstractmethod
    def route(self, endpoint: str) -> Route | None:
        """The route that live traffic follows."""

    @abstractmethod
    def remove_endpoint(self, endpoint: str) -> None:
        """Take all of an endpoint away."""

    @abstractmethod
    def address(self, endpoint: str, variant: str | None) -> Address:
        """How to reach an endpoint or one variant."""

    @abstractmethod
    def where(self, endpoint: str, variant: str) -> Where:
        """In which series a variant is counted."""

    @abstractmethod
    def documents(self, endpoint: str) -> list[Document]:
        """The endpoint as it is deployed now, rendered anew: what belongs into Git."""

    def endpoints(self) -> list[str]:
        """All endpoints' names, in order."""
        found = self.cluster.list("InferenceService", OWN)
        return sorted({each["metadata"]["labels"][ENDPOINT_LABEL] for each in found})

    def own(self, kind: str, name: str, endpoint: str) -> Document | None:
        """An object of this endpoint, or None when it is not there.

        Raises:
            ClusterError: It is there, but somebody else's, or another endpoint's.
        """
        found = self.cluster.get(kind, name)
        if found is None:
            return None
        labels = found["metadata"].get("labels", {})
        if labels.get(MANAGED_BY) != "headway" or labels.get(ENDPOINT_LABEL) != endpoint:
            raise ClusterError(
                f"{kind} {name!r} is there already, but it is not of the endpoint {endpoint!r}",
                fix="take another endpoint's or variant's name, or delete it",
            )
        return found

    def gone(self, kind: str, names: Iterable[str]) -> None:
        """Delete objects of one kind and wait until they are gone.

        Raises:
            ClusterError: One of them is still there after `REMOVAL_SECONDS`.
        """
        names = list(names)
        for name in names:
            self.cluster.delete(kind, name)
        for name in names:
            _, finished = self.cluster.wait(kind, name, lambda found: found is None, REMOVAL_SECONDS)
            if not finished:
                raise ClusterError(
                    f"{kind} {name!r} is still there after {REMOVAL_SECONDS:g} s", fix="see its finalizers"
                )


def same(endpoint: str, deployed: Variant, wanted: Variant) -> None:
    """Refuse a variant whose name another version already has.

    Raises:
        ReleaseError: The digests differ.
    """
    if deployed.digest != wanted.digest:
        raise ReleaseError(
            f"{endpoint!r} has a variant {wanted.name!r} already, with the bundle {deployed.digest[:12]}…",
            expected=f"the bundle {wanted.digest[:12]}…",
            fix="remove the variant first, or give this one another name",
        )


def refuse_traffic(endpoint: str, variant: str, route: Route | None) -> None:
    """Refuse to take a variant away that gets requests.

    Raises:
        ReleaseError: The route sends it some.
    """
    if route is not None and variant in route.needed:
        raise ReleaseError(
            f"Variant {variant!r} of {endpoint!r} still gets traffic",
            expected="a route without it",
            fix="move its traffic to another variant first",
        )


def decided(document: Document) -> Route | None:
    """The route that an object's annotation tells, or None."""
    text = document["metadata"].get("annotations", {}).get(ROUTE_ANNOTATION)
    return Route.parse(json.loads(text), where=f"annotation {ROUTE_ANNOTATION}") if text else None


def live(route: Route, weights: Mapping[str, int], *, mirror: str | None = None, mirror_weight: int = 0) -> Route:
    """A decided route with the weights that act, whoever set them.

    Raises:
        ClusterError: They do not add up: somebody changed them by hand.
    """
    order = [*route.weights, *(name for name in weights if name not in route.weights)]
    shares = [Share(variant=name, weight=weights.get(name, 0)) for name in order]
    total = sum(share.weight for share in shares)
    if total != TOTAL_WEIGHT:
        found = ", ".join(f"{share.variant} {share.weight}" for share in shares)
        raise ClusterError(
            f"The live weights add up to {total}: {found}",
            expected=f"{TOTAL_WEIGHT} of {TOTAL_WEIGHT}",
            fix="somebody changed them by hand; set the route again",
        )
    return Route(salt=route.salt, shares=shares, mirror=mirror, mirror_weight=mirror_weight)


def without(route: Route, variant: str) -> Route:
    """A route without one of its variants, which has no weight."""
    return route.model_copy(update={"shares": [share for share in route.shares if share.variant != variant]})


def whole_percents(route: Route, mode: str) -> dict[str, int]:
    """Weights as whole percents.

    Raises:
        ReleaseError: They are none, or requests shall be copied; names the mode that can.
    """
    if route.mirror:
        raise ReleaseError(
            f"serving_mode {mode!r} cannot copy requests to a shadow",
            fix="set serving_mode (HEADWAY_SERVING_MODE) to gateway, which can",
        )
    if broken := [f"{name} {weight / 100:g} %" for name, weight in route.weights.items() if weight % 100]:
        raise ReleaseError(
            f"serving_mode {mode!r} splits traffic in whole percents, got {', '.join(broken)}",
            fix="take whole percents, or set serving_mode (HEADWAY_SERVING_MODE) to gateway, which goes down to 0.01 %",
        )
    return {name: weight // 100 for name, weight in route.weights.items()}
