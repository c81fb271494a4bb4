"""The kinds of objects that training and serving on a cluster deal with, and where the API keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Resource:
    """Where the API keeps objects of a kind."""

    group: str
    version: str
    plural: str
    needs: str = ""
    """What brings this kind to a cluster."""
    namespaced: bool = True

    @property
    def api(self) -> str:
        """`/apis/GROUP/VERSION`, or `/api/v1`."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    @property
    def full_name(self) -> str:
        """The definition's name, as `kubectl get crd` lists it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str, name: str = "") -> str:
        """The path of a collection, or of one object."""
        middle = f"/namespaces/{namespace}" if self.namespaced else ""
        return f"{self.api}{middle}/{self.plural}" + (f"/{name}" if name else "")


_KSERVE, _GATEWAY_API, _ENVOY = "KServe", "the Gateway API", "Envoy Gateway"
_TRAINER, _OPERATOR = "Kubeflow Trainer 2", "the Training Operator 1.9"
KINDS: Mapping[str, Resource] = {
    "InferenceService": Resource("serving.kserve.io", "v1beta1", "inferenceservices", _KSERVE),
    "ServingRuntime": Resource("serving.kserve.io", "v1alpha1", "servingruntimes", _KSERVE),
    "HTTPRoute": Resource("gateway.networking.k8s.io", "v1", "httproutes", _GATEWAY_API),
    "Gateway": Resource("gateway.networking.k8s.io", "v1", "gateways", _GATEWAY_API),
    "GatewayClass": Resource("gateway.networking.k8s.io", "v1", "gatewayclasses", _GATEWAY_API, False),
    "BackendTrafficPolicy": Resource("gateway.envoyproxy.io", "v1alpha1", "backendtrafficpolicies", _ENVOY),
    "Revision": Resource("serving.knative.dev", "v1", "revisions", "Knative Serving"),
    "TrainJob": Resource("trainer.kubeflow.org", "v1alpha1", "trainjobs", _TRAINER),
    "TrainingRuntime": Resource("trainer.kubeflow.org", "v1alpha1", "trainingruntimes", _TRAINER),
    "ClusterTrainingRuntime": Resource("trainer.kubeflow.org", "v1alpha1", "clustertrainingruntimes", _TRAINER, False),
    "PyTorchJob": Resource("kubeflow.org", "v1", "pytorchjobs", _OPERATOR),
    "Deployment": Resource("apps", "v1", "deployments"),
    "Pod": Resource("", "v1", "pods"),
    "Event": Resource("", "v1", "events"),
}
