"""What the contract suite needs of a cluster: names, variants, and answers that somebody counts."""

import contextlib
import hashlib
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from headway.components.kubernetes.client import Cluster
from headway.components.settings import Settings
from headway.serving.kubeflow.platform import KubeflowPlatform
from headway.serving.platform import Variant
from tests.components.kubernetes import schemas
from tests.components.kubernetes.fake_kubernetes import TOKEN, FakeKubernetes
from tests.serving.kubeflow.fake_controllers import NAMESPACE
from tests.serving.kubeflow.fake_prometheus import FakePrometheus

EDGES_MS = [1.0, 5.0, 25.0, 100.0]
ENVOY_CONTROLLER = "gateway.envoyproxy.io/gatewayclass-controller"
ISTIO_CONTROLLER = "istio.io/gateway-controller"


def settings_of(prometheus: FakePrometheus, **changes: Any) -> Settings:
    return Settings(serving_namespace=NAMESPACE, prometheus_url=prometheus.url, platform="kubeflow", **changes)


def configuration(api: FakeKubernetes) -> Any:
    from kubernetes import client

    return client.Configuration(host=api.url, api_key={"authorization": f"Bearer {TOKEN}"})


def cluster_of(api: FakeKubernetes, **options: Any) -> Cluster:
    return Cluster(NAMESPACE, configuration=configuration(api), **options)


def variant(version: int, *, place: str = "s3://models/flights") -> Variant:
    digest = hashlib.sha256(f"{place}{version}".encode()).hexdigest()
    return Variant(
        name=f"v{version}",
        model="flights",
        version=version,
        digest=digest,
        storage_uri=f"{place}/{version}",
        score_edges=[0.25, 0.5, 0.75],
    )


def with_surroundings(api: FakeKubernetes, *, controller: str = ENVOY_CONTROLLER, envoy: str = "v1.9.0") -> None:
    """A Gateway and its class, KServe's and Envoy Gateway's controllers, Headway's runtime."""
    api.put(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "GatewayClass",
            "metadata": {"name": "class"},
            "spec": {"controllerName": controller},
            "status": {
                "supportedFeatures": [{"name": "HTTPRouteRequestMirror"}, {"name": "HTTPRouteRequestPercentageMirror"}]
            },
        }
    )
    api.put(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": "kserve-ingress-gateway", "namespace": "kserve"},
            "spec": {"gatewayClassName": "class", "listeners": [{"name": "http", "protocol": "HTTP", "port": 80}]},
            "status": {"addresses": [{"type": "IPAddress", "value": "10.0.0.1"}]},
        }
    )
    runtime = {"name": "headway", "namespace": NAMESPACE}
    api.put({"apiVersion": "serving.kserve.io/v1alpha1", "kind": "ServingRuntime", "metadata": runtime, "spec": {}})
    deploy(api, "kserve-controller-manager", "kserve", "kserve/kserve-controller:v0.20.0")
    deploy(api, "envoy-gateway", "envoy-gateway-system", f"envoyproxy/gateway:{envoy}")


def deploy(api: FakeKubernetes, name: str, namespace: str, image: str) -> None:
    api.put(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"template": {"spec": {"containers": [{"name": "manager", "image": image}]}}},
        }
    )


class ClusterWorld:
    """The platform in one mode, on the fakes."""

    patience = 5.0

    def __init__(self, api: FakeKubernetes, prometheus: FakePrometheus, settings: Settings) -> None:
        self.api = api
        self.prometheus = prometheus
        self.settings = settings
        self.platform = self.reopen()
        self._numbers = itertools.count(1)
        self._restarts = 0

    def reopen(self) -> KubeflowPlatform:
        return KubeflowPlatform(self.settings, cluster=cluster_of(self.api), settle_seconds=0.0, route_seconds=5.0)

    def endpoint(self) -> str:
        return f"e{next(self._numbers)}"

    def variant(self, version: int) -> Variant:
        return variant(version)

    def stuck(self) -> Variant:
        return variant(9, place="s3://stuck")

    def answer(self, endpoint: str, variant: str, *, good: int = 0, refused: int = 0, failed: int = 0) -> None:
        counts = {"200": good, "400": refused, "500": failed}
        server = self._server(endpoint, variant)
        self._count(_SERVER, counts, server)
        if refused:
            self.prometheus.add("headway_rejected_requests_total", refused, **server)
        self.prometheus.observe("headway_prediction_score_bucket", [0.25, 0.5, 0.75], 0.6, good, **server)
        if self.platform._mode.name == "gateway":
            self._count(_ENVOY, counts, self._envoy(endpoint, variant))
        if self.platform._mode.name == "knative":
            revision = {"kn_revision_name": self._revision(endpoint, variant), "k8s_namespace_name": NAMESPACE}
            self._count(_KNATIVE, counts, revision)

    def _count(self, names: "Exporter", counts: dict[str, int], labels: dict[str, str]) -> None:
        for code, count in counts.items():
            if count:
                self.prometheus.add(names.requests, count, **labels | {names.code: code[: names.digits]})
        edges = [edge / names.per_ms for edge in EDGES_MS]
        self.prometheus.observe(names.latency, edges, 3 / names.per_ms, sum(counts.values()), **labels)

    def restart(self, endpoint: str, variant: str) -> None:
        """A new pod of the same variant: its counters start at nothing, under another name."""
        self._restarts += 1

    @contextlib.contextmanager
    def blind(self, endpoint: str, variant: str) -> Iterator[None]:
        self.prometheus.failure = "query processing would load too many samples"
        yield
        self.prometheus.failure = ""

    def _server(self, endpoint: str, variant: str) -> dict[str, str]:
        if self.platform._mode.name == "knative":
            pod = f"{self._revision(endpoint, variant)}-deployment-{self._restarts}-abc"
        else:
            pod = f"{endpoint}-{variant}-predictor-{self._restarts}-abc"
        return {"namespace": NAMESPACE, "pod": pod, "variant": variant, "model": "flights"}

    def _envoy(self, endpoint: str, variant: str) -> dict[str, str]:
        found = self.api.get("HTTPRoute", endpoint)
        assert found is not None
        names = [each["name"] for each in found["spec"]["rules"][0]["backendRefs"]]
        place = names.index(f"{endpoint}-{variant}-predictor")
        return {"envoy_cluster_name": f"httproute/{NAMESPACE}/{endpoint}/rule/0/backend/{place}"}

    def _revision(self, endpoint: str, variant: str) -> str:
        found = self.api.all("Revision")
        names = [
            each["metadata"]["name"]
            for each in found
            if each["metadata"]["labels"]["endpoint"] == variant
            and each["metadata"]["name"].startswith(f"{endpoint}-predictor-")
        ]
        return max(names)


class Exporter(NamedTuple):
    """How an exporter names and counts."""

    requests: str
    code: str
    latency: str
    digits: int = 3
    per_ms: float = 1000.0


_SERVER = Exporter("headway_requests_total", "code", "headway_request_seconds_bucket")
_ENVOY = Exporter(
    "envoy_cluster_upstream_rq_xx", "envoy_response_code_class", "envoy_cluster_upstream_rq_time_bucket", 1, 1.0
)
_KNATIVE = Exporter(
    "kn_serving_invocation_duration_seconds_count",
    "http_response_status_code",
    "kn_serving_invocation_duration_seconds_bucket",
)


class NewerKServe(FakeKubernetes):
    """A cluster whose InferenceServices have the fields of KServe 0.21."""

    def schema(self, kind: str) -> dict[str, Any]:
        found = schemas.schema(kind)
        if kind != "InferenceService":
            return found
        spec = found["properties"]["spec"]
        spec = spec | {"properties": spec["properties"] | {"tracing": {"type": "object"}}}
        return found | {"properties": found["properties"] | {"spec": spec}}
