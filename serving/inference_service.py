"""The documents of an endpoint on Kubernetes, from what is released: pure functions, nothing is read or sent.

    mode      documents                                                        who splits the traffic
    gateway   one InferenceService a variant, one HTTPRoute with weights, and  the Gateway
              one HTTPRoute a variant for requests that name it
    canary    one InferenceService with `spec.canary` (KServe >= 0.21)         KServe's HTTPRoute, whole percents
    knative   one InferenceService with `canaryTrafficPercent`, two revisions  Knative, whole percents

What a variant is stands on its predictor, as labels and annotations, so each of its pods carries it too and
`variant_of` reads it back from any of the three. The image is named in the predictor and not only in the runtime: a
changed runtime must not change what a release has judged.
"""

import json
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from headway.components.config import dump_yaml
from headway.components.errors import ReleaseError
from headway.components.kubernetes.client import Document
from headway.components.settings import Settings
from headway.serving.platform import Route, Variant

RUNTIME = "headway"
"""The ServingRuntime's name, and the model format that it serves."""
MANAGED_BY = "app.kubernetes.io/managed-by"
ENDPOINT_LABEL = "serving.headway/endpoint"
VARIANT_LABEL = "endpoint"
"""KServe's logger fills `ce-endpoint` from the pod's label of this name."""
ROUTE_ANNOTATION = "serving.headway/route"
"""The route that somebody decided, as JSON: salt, order and members; the weights are read where they act."""
VARIANTS_ANNOTATION = "serving.headway/variants"
"""Knative: both variants, the older first, as JSON; the spec itself only holds the newest."""
_FACT = "serving.headway/"
SERVICE_ACCOUNT = "headway-server"
"""Whose secrets KServe's storage initialiser uses to fetch a bundle; the server itself gets no token."""
PORT = 8080
POLICY_CONFIG_MAP = "headway-policy"
DRAIN_SECONDS = 15
"""How long a pod that shall stop still answers, so that every gateway has stopped sending to it."""
READABLE_SCHEMES = frozenset({"s3", "gs", "pvc", "oci", "hf", "https", "http", "hdfs", "webhdfs"})
"""Where KServe's storage initialiser can fetch from."""

_SECURITY = {
    "allowPrivilegeEscalation": False,
    "privileged": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def service_name(endpoint: str, variant: str) -> str:
    """The Service in front of a variant's pods: KServe names it so in gateway and in canary mode."""
    return f"{endpoint}-{variant}-predictor"


def host_name(endpoint: str, settings: Settings) -> str:
    """The host under which clients reach an endpoint."""
    return f"{endpoint}.{settings.serving_namespace}.{settings.serving_domain}"


def require_readable(variant: Variant) -> None:
    """Refuse a bundle that lies where no cluster can read it.

    Raises:
        ReleaseError: The scheme is one that only this machine, or only MLflow's own server, understands.
    """
    scheme = urlsplit(variant.storage_uri).scheme
    if scheme in READABLE_SCHEMES:
        return
    raise ReleaseError(
        f"Variant {variant.name!r} lies at {variant.storage_uri!r}, which no cluster can read",
        expected=f"an address that starts with one of {', '.join(f'{each}://' for each in sorted(READABLE_SCHEMES))}",
        fix="set artifact_root (HEADWAY_ARTIFACT_ROOT) to a bucket such as s3://models and register the version again",
    )


def serving_runtime(settings: Settings) -> Document:
    """The ServingRuntime of Headway's server: all that variants have in common."""
    container = {
        "name": "kserve-container",
        "image": settings.serving_image,
        "command": ["python", "-m", "headway.serving.server"],
        "args": ["--bundle=/mnt/models", "--host=0.0.0.0", f"--port={PORT}"],
        "env": [
            {"name": "HEADWAY_HOME", "value": "/tmp/headway"},  # noqa: S108 - an emptyDir of the pod
            {"name": "HEADWAY_POLICY", "value": "/etc/headway/policy/policy.yaml"},
        ],
        "ports": [{"containerPort": PORT, "protocol": "TCP"}],
        "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
        "securityContext": _SECURITY,
        "volumeMounts": [
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108
            {"name": "policy", "mountPath": "/etc/headway/policy", "readOnly": True},
        ],
    }
    spec = {
        "annotations": {"prometheus.kserve.io/port": str(PORT), "prometheus.kserve.io/path": "/metrics"},
        "supportedModelFormats": [{"name": RUNTIME, "version": "1", "autoSelect": True, "priority": 1}],
        "protocolVersions": ["v1", "v2"],
        "containers": [container],
        # The policy is not optional: a server without one would have to trust its own key or nobody.
        "volumes": [
            {"name": "scratch", "emptyDir": {}},
            {"name": "policy", "configMap": {"name": POLICY_CONFIG_MAP}},
        ],
    }
    head = {"name": RUNTIME, "namespace": settings.serving_namespace, "labels": {MANAGED_BY: "headway"}}
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": head,
        "spec": spec,
    }


def predictor(endpoint: str, variant: Variant, settings: Settings, *, standard: bool) -> Document:
    """One variant as KServe's predictor.

    Args:
        endpoint: The endpoint's name.
        variant: The version that it serves.
        settings: The image.
        standard: Whether KServe runs it as a Deployment; Knative allows less in a pod.
    """
    facts = {"model": variant.model, "version": str(variant.version), "digest": variant.digest}
    arguments = [f"--name={endpoint}", f"--variant={variant.name}", f"--version={variant.version}"]
    arguments += [f"--digest={variant.digest}"]
    if variant.score_edges:
        facts["score-edges"] = json.dumps(variant.score_edges)
        arguments += [f"--score-edges={json.dumps(variant.score_edges)}"]
    # The model's readiness, not the server's: a server answers before it can predict.
    ready = {"httpGet": {"path": f"/v2/models/{endpoint}/ready", "port": PORT}, "periodSeconds": 5}
    alive = {"httpGet": {"path": "/v2/health/live", "port": PORT}, "periodSeconds": 10, "failureThreshold": 6}
    model: Document = {
        # KServe's schema asks for the name in `spec.canary` only, but means this one everywhere.
        "name": "kserve-container",
        "modelFormat": {"name": RUNTIME},
        "runtime": RUNTIME,
        "protocolVersion": "v2",
        "storageUri": variant.storage_uri,
        "image": settings.serving_image,
        "args": arguments,
        "readinessProbe": ready,
        "livenessProbe": alive if standard else alive | {"initialDelaySeconds": 60},
    }
    scrape = {"prometheus.io/scrape": "true", "prometheus.io/port": str(PORT), "prometheus.io/path": "/metrics"}
    document: Document = {
        "labels": {MANAGED_BY: "headway", ENDPOINT_LABEL: endpoint, VARIANT_LABEL: variant.name},
        "annotations": {f"{_FACT}{name}": value for name, value in facts.items()} | scrape,
        "serviceAccountName": SERVICE_ACCOUNT,
        "automountServiceAccountToken": False,
        "model": model,
    }
    if standard:
        model["startupProbe"] = ready | {"failureThreshold": 120}
        model["lifecycle"] = {"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}}
        document |= _standard_pod(endpoint, variant)
    if settings.serving_logger_url:
        # The agent compares header names with Go's canonical spelling.
        document["logger"] = {
            "url": settings.serving_logger_url,
            "mode": "all",
            "metadataHeaders": ["X-Request-Id", "X-User-Id"],
        }
    return document


def variant_of(document: Document) -> Variant:
    """The variant that a rendered predictor serves.

    Raises:
        KeyError: Somebody else made this predictor.
    """
    facts = document["annotations"]
    return Variant(
        name=document["labels"][VARIANT_LABEL],
        model=facts[f"{_FACT}model"],
        version=int(facts[f"{_FACT}version"]),
        digest=facts[f"{_FACT}digest"],
        storage_uri=document["model"]["storageUri"],
        score_edges=json.loads(facts.get(f"{_FACT}score-edges", "[]")),
    )


def variant_service(endpoint: str, variant: Variant, settings: Settings) -> Document:
    """Gateway mode: the InferenceService of one variant, reached through the endpoint's routes only."""
    document = _inference_service(f"{endpoint}-{variant.name}", endpoint, settings, "Standard")
    # KServe makes no route of its own for it, which would lead around the endpoint's weights and checks.
    document["metadata"]["labels"]["networking.kserve.io/visibility"] = "cluster-local"
    document["spec"] = {"predictor": predictor(endpoint, variant, settings, standard=True)}
    return document


def canary_service(
    endpoint: str,
    variants: Sequence[Variant],
    percents: Mapping[str, int],
    settings: Settings,
    *,
    route: Route | None = None,
    replicas: int = 1,
) -> Document:
    """Canary mode: the endpoint's InferenceService.

    Args:
        endpoint: The endpoint's name.
        variants: All that run, the stable one first.
        percents: Whole percents of the others by name; the stable one gets the rest.
        settings: Namespace and image.
        route: The route behind the percents, kept as an annotation.
        replicas: Pods of each variant. KServe would give a canary its percentage of them, none at 0 %.
    """
    document = _inference_service(endpoint, endpoint, settings, "Standard")
    document["metadata"]["annotations"] |= {"serving.kserve.io/autoscalerClass": "none"} | route_annotation(route)

    def named(variant: Variant) -> Document:
        body = predictor(endpoint, variant, settings, standard=True)
        return {"name": variant.name, "minReplicas": replicas, **body}

    stable, *others = variants
    document["spec"] = {"predictor": named(stable)}
    if others:
        document["spec"]["canary"] = [
            {"trafficPercent": percents.get(variant.name, 0), "predictor": named(variant)} for variant in others
        ]
    return document


def knative_service(
    endpoint: str,
    variants: Sequence[Variant],
    percent: int | None,
    settings: Settings,
    *,
    newest: Variant | None = None,
    route: Route | None = None,
) -> Document:
    """Knative mode: the endpoint's InferenceService.

    Args:
        endpoint: The endpoint's name.
        variants: One or two variants, the older first.
        percent: The newest revision's share; None gives it everything as soon as it is ready.
        settings: Namespace and image.
        newest: The variant of the newest revision; the last one by default.
        route: The route behind the percentage, kept as an annotation.
    """
    document = _inference_service(endpoint, endpoint, settings, "Knative")
    known = json.dumps([variant.model_dump(exclude_defaults=True) for variant in variants])
    document["metadata"]["annotations"] |= {"serving.kserve.io/enable-tag-routing": "true", VARIANTS_ANNOTATION: known}
    document["metadata"]["annotations"] |= route_annotation(route)
    body = predictor(endpoint, newest or variants[-1], settings, standard=False)
    document["spec"] = {"predictor": body if percent is None else {"canaryTrafficPercent": percent, **body}}
    return document


def as_yaml(documents: Sequence[Document]) -> str:
    """Documents as one YAML file, without the aliases that parts used twice would become."""
    return "---\n".join(dump_yaml(json.loads(json.dumps(document))) for document in documents)


def _inference_service(name: str, endpoint: str, settings: Settings, mode: str) -> Document:
    head = metadata(name, endpoint, settings) | {"annotations": {"serving.kserve.io/deploymentMode": mode}}
    return {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": head}


def metadata(name: str, endpoint: str, settings: Settings) -> Document:
    """Name, namespace and the labels by which an endpoint's objects are found."""
    labels = {MANAGED_BY: "headway", ENDPOINT_LABEL: endpoint}
    return {"name": name, "namespace": settings.serving_namespace, "labels": labels}


def _standard_pod(endpoint: str, variant: Variant) -> Document:
    selector = {"matchLabels": {ENDPOINT_LABEL: endpoint, VARIANT_LABEL: variant.name}}
    spread = {"maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": selector}
    return {
        "securityContext": {"runAsNonRoot": True, "fsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": DRAIN_SECONDS + 30,
        "topologySpreadConstraints": [
            {"topologyKey": key, **spread} for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
        ],
    }


def route_annotation(route: Route | None) -> Document:
    """A route as an annotation; none for none."""
    return {ROUTE_ANNOTATION: route.model_dump_json(exclude_defaults=True)} if route else {}
