"""Endpoints on a cluster: KServe runs the variants, the mode in the settings splits the traffic."""

import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from headway.components.errors import ClusterError, MeasurementError, NotReadyError
from headway.components.kubernetes.client import Cluster
from headway.serving.inference_service import as_yaml, require_readable
from headway.serving.kubeflow.canary import CanaryMode
from headway.serving.kubeflow.gateway import GatewayMode
from headway.serving.kubeflow.knative import KnativeMode
from headway.serving.kubeflow.measure import SETTLE_SECONDS, read
from headway.serving.kubeflow.mode import ROUTE_SECONDS, Mode
from headway.serving.kubeflow.prometheus import Prometheus
from headway.serving.platform import Address, Phase, Reading, Route, Variant, VariantState

if TYPE_CHECKING:
    from headway.components.settings import Settings

MODES: Mapping[str, type[Mode]] = {mode.name: mode for mode in (GatewayMode, CanaryMode, KnativeMode)}


class KubeflowPlatform:
    """Endpoints as InferenceServices; `headway.serving.platform.Platform` says what each method promises.

    Nothing is kept here: any number of processes may open it, and see what the cluster has.

    Args:
        settings: Namespace, mode, Gateway, images, Prometheus, and the folder for manifests.
        cluster: The API; the pod's own or the kubeconfig's by default.
        force: Whether to take over fields that others own (`kubectl edit`, a GitOps tool).
        route_seconds: How long a gateway may take to follow a route.
        settle_seconds: How long a sample may take to reach Prometheus.

    Raises:
        ClusterError: There are no credentials for a cluster.
    """

    name = "kubeflow"

    def __init__(
        self,
        settings: "Settings",
        *,
        cluster: Cluster | None = None,
        force: bool = False,
        route_seconds: float = ROUTE_SECONDS,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self.settings = settings
        self.cluster = cluster or Cluster(settings.serving_namespace, force=force)
        self._mode = MODES[settings.serving_mode](self.cluster, settings, route_seconds=route_seconds)
        self._settle_seconds = settle_seconds

    def check(self, endpoint: str, route: Route, variants: Sequence[Variant]) -> None:
        """Refuse what the mode or the cluster cannot do: kinds, rights, versions, weights, mirrors, bundles' places."""
        self._mode.check(endpoint, route, variants)

    def ensure_variant(self, endpoint: str, variant: Variant) -> None:
        """Start serving a variant that gets no traffic yet."""
        require_readable(variant)
        self._mode.ensure(endpoint, variant)

    def variant_state(self, endpoint: str, variant: Variant) -> VariantState:
        """How far it has come; READY only when a pod with exactly this digest is ready."""
        return self._mode.state(endpoint, variant)

    def variants(self, endpoint: str) -> list[Variant]:
        """The variants that exist, the oldest first."""
        return self._mode.variants(endpoint)

    def remove_variant(self, endpoint: str, variant: str) -> None:
        """Take a variant away that gets no traffic; return when it is gone."""
        self._mode.remove(endpoint, variant)
        self._keep(endpoint)

    def set_route(self, endpoint: str, route: Route) -> None:
        """Make live traffic follow a route; return once the gateway has taken it."""
        self._require_ready(endpoint, route)
        self._mode.set_route(endpoint, route)
        self._keep(endpoint)

    def route(self, endpoint: str) -> Route | None:
        """The route that live traffic follows, read from what splits it."""
        return self._mode.route(endpoint)

    def endpoints(self) -> list[str]:
        """All endpoints' names, in order."""
        return self._mode.endpoints()

    def remove_endpoint(self, endpoint: str) -> None:
        """Take the endpoint and all its variants away."""
        self._mode.remove_endpoint(endpoint)
        self._keep(endpoint)

    def address(self, endpoint: str, variant: str | None = None) -> Address:
        """How to reach the endpoint, or one variant of it whatever its weight."""
        return self._mode.address(endpoint, variant)

    def read(self, endpoint: str, variant: str, cursor: str = "") -> Reading:
        """What a variant answered since a cursor, from Prometheus."""
        prometheus = Prometheus(self.settings.prometheus_url)
        try:
            where = self._mode.where(endpoint, variant)
        except ClusterError as error:
            raise MeasurementError(error.problem, expected=error.expected, fix=error.fix) from None
        return read(prometheus, where, cursor, settle_seconds=self._settle_seconds)

    def users(self, endpoint: str, since: datetime) -> Mapping[str, int] | None:
        """None: on a cluster the payload log goes to a service of its own."""
        return None

    def _require_ready(self, endpoint: str, route: Route) -> None:
        known = {variant.name: variant for variant in self.variants(endpoint)}
        for name in route.needed:
            if name not in known:
                raise NotReadyError(f"{endpoint!r} has no variant {name!r}; traffic is unchanged")
            state = self.variant_state(endpoint, known[name])
            if not state.ready:
                said = "".join(f"\n  {condition}: {value}" for condition, value in state.conditions.items())
                raise NotReadyError(
                    f"{name!r} of {endpoint!r} is {state.phase}: {state.reason}; traffic is unchanged{said}",
                    fix="wait until it is ready" if state.phase is Phase.STARTING else "see its pods' events and logs",
                )

    def _keep(self, endpoint: str) -> None:
        """Write the endpoint's documents to the Git folder, whole or not at all."""
        folder = self.settings.manifests_folder
        if folder is None:
            return
        path = Path(folder) / f"{endpoint}.yaml"
        documents = self._mode.documents(endpoint)
        if not documents:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".", delete=False) as file:
            file.write(as_yaml(documents))
        temporary = Path(file.name)
        temporary.chmod(0o644)
        temporary.replace(path)
