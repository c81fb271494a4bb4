"""The documents of one endpoint in each mode; `python -m tests.serving.kubeflow.golden` writes them anew."""

from pathlib import Path

from headway.components.kubernetes.client import Document
from headway.components.settings import Settings
from headway.serving.inference_service import as_yaml, canary_service, knative_service, variant_service
from headway.serving.kubeflow.routing import envoy_policy, http_route, variant_route
from headway.serving.platform import Route, Share, Variant
from tests.serving.kubeflow.worlds import variant

FOLDER = Path(__file__).parent / "golden"
SETTINGS = Settings(serving_namespace="models", serving_image="registry.example.com/headway-serving@sha256:" + "5" * 64)
VARIANTS = [variant(1), variant(2)]
LOGGED = SETTINGS.model_copy(update={"serving_logger_url": "http://headway-monitor.headway.svc.cluster.local"})


def route(stable: int, canary: int, *, mirror: str | None = None, mirror_weight: int = 0) -> Route:
    shares = [Share(variant="v1", weight=stable), Share(variant="v2", weight=canary)]
    return Route(salt="flights-42", shares=shares, mirror=mirror, mirror_weight=mirror_weight)


def gateway(split: Route, *, variants: list[Variant] = VARIANTS) -> list[Document]:
    found = [variant_service("flights", each, SETTINGS) for each in variants]
    found += [variant_route("flights", each.name, SETTINGS) for each in variants]
    return [*found, http_route("flights", split, SETTINGS), envoy_policy("flights", SETTINGS, sticky=True)]


def documents() -> dict[str, list[Document]]:
    """All golden files by name."""
    quarter = route(7_500, 2_500)
    return {
        "gateway": gateway(route(9_000, 1_000)),
        "gateway-shadow": gateway(route(10_000, 0, mirror="v2", mirror_weight=2_000)),
        "canary": [canary_service("flights", VARIANTS, {"v2": 25}, SETTINGS, route=quarter, replicas=2)],
        "knative": [knative_service("flights", VARIANTS, 25, LOGGED, route=quarter)],
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, found in documents().items():
        (FOLDER / f"{name}.yaml").write_text(as_yaml(found), encoding="utf-8")
