"""KServe, Knative and a Gateway's controller, as far as what they report goes: on the fake API server's objects.

What a variant's pods do stands in its storage address: `stuck` never pulls its image, `crash` fails to load,
`revision` fails as a revision; all others become ready after a moment. Knative's pins follow KServe's own rules.
"""

import json
import threading
import time
from typing import Any, Self

from tests.components.kubernetes.fake_kubernetes import FakeKubernetes, Object

NAMESPACE = "models"
SECONDS = 0.05
"""How long a pod takes to become ready, and to go."""


class Controllers:
    """All controllers of one cluster, in one thread."""

    def __init__(self, cluster: FakeKubernetes) -> None:
        self.cluster = cluster
        self.refusal = ""
        """Why the Gateway refuses every route; empty takes them."""
        self.paused = False
        """Whether no controller does anything."""
        self.gateway_api = True
        """Whether KServe makes HTTPRoutes (enableGatewayApi)."""
        self._seen: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            if self.paused:
                continue
            services = self.cluster.all("InferenceService")
            for service in services:
                self._serve(service)
            self._collect({each["metadata"]["name"] for each in services})
            for route in self.cluster.all("HTTPRoute"):
                self._accept(route)

    # ---- KServe

    def _serve(self, service: Object) -> None:
        name = service["metadata"]["name"]
        if "deletionTimestamp" in service["metadata"]:
            if self._age(f"going {name} {service['metadata']['uid']}") >= SECONDS:
                self.cluster.remove("InferenceService", name, NAMESPACE)
        elif service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Knative":
            self._knative(service)
        else:
            self._standard(service)

    def _standard(self, service: Object) -> None:
        name, spec = service["metadata"]["name"], service["spec"]
        stable = self._pod(name, spec["predictor"])
        ready = [self._pod(name, each["predictor"]) for each in spec.get("canary", [])]
        # Its generation is the Deployment's, as KServe reports it.
        status: Object = {"observedGeneration": 1, "conditions": _conditions(stable)}
        if "canary" in spec:
            status["canaryStatuses"] = [
                {"name": each["predictor"]["name"], "ready": able, "trafficPercent": each["trafficPercent"]}
                for each, able in zip(spec["canary"], ready, strict=True)
            ]
        if "crash" in spec["predictor"]["model"]["storageUri"]:
            info = {"reason": "ModelLoadFailed", "message": "unknown estimator", "exitCode": 1}
            status["modelStatus"] = {"transitionStatus": "BlockedByFailedLoad", "lastFailureInfo": info}
        self.cluster.set_status("InferenceService", name, NAMESPACE, status)
        labels = service["metadata"]["labels"]
        if stable and self.gateway_api and labels.get("networking.kserve.io/visibility") != "cluster-local":
            self._kserve_route(service, ready)

    def _kserve_route(self, service: Object, ready: list[bool]) -> None:
        head, spec = service["metadata"], service["spec"]
        able = [each for each, is_ready in zip(spec.get("canary", []), ready, strict=True) if is_ready]
        shares = {each["predictor"]["name"]: each["trafficPercent"] for each in able}
        shares = {spec["predictor"]["name"]: 100 - sum(shares.values())} | shares
        backends = [
            {"name": f"{head['name']}-{variant}-predictor", "port": 80} | ({"weight": share} if able else {})
            for variant, share in shares.items()
        ]
        route = {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {
                "name": head["name"],
                "namespace": NAMESPACE,
                "labels": head["labels"],
                "annotations": head["annotations"],
            },
            "spec": {"hostnames": [f"{head['name']}-models.example.com"], "rules": [{"backendRefs": backends}]},
        }
        found = self.cluster.get("HTTPRoute", head["name"])
        if found is None or found["spec"] != route["spec"]:
            self.cluster.put(route)

    def _pod(self, service: str, predictor: Object, owner: str = "") -> bool:
        """Run a predictor's pod, and say whether it is ready."""
        digest = predictor["annotations"]["serving.headway/digest"]
        variant = predictor["labels"]["endpoint"]
        name = f"{owner or f'{service}-{variant}-predictor'}-{digest[:5]}"
        uri = predictor["model"]["storageUri"]
        ready = not any(word in uri for word in ("stuck", "crash", "revision")) and self._age(name) >= SECONDS
        labels = predictor["labels"] | {"serving.kserve.io/inferenceservice": service}
        head = {"name": name, "namespace": NAMESPACE, "labels": labels, "annotations": predictor["annotations"]}
        status: Object = {"conditions": [{"type": "Ready", "status": str(ready)}]}
        if "stuck" in uri:
            waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image headway-serving"}
            status["containerStatuses"] = [{"name": "kserve-container", "state": {"waiting": waiting}}]
        found = self.cluster.get("Pod", name)
        if found is None or found["status"] != status:
            self.cluster.put({"apiVersion": "v1", "kind": "Pod", "metadata": head, "status": status})
        return ready

    # ---- Knative

    def _knative(self, service: Object) -> None:
        name, status = service["metadata"]["name"], service.get("status", {})
        predictor = {key: value for key, value in service["spec"]["predictor"].items() if key != "canaryTrafficPercent"}
        percent = service["spec"]["predictor"].get("canaryTrafficPercent")
        revisions = self._revise(name, predictor)
        before = status.get("components", {}).get("predictor", {})
        component = {
            key: before[key] for key in ("latestRolledoutRevision", "previousRolledoutRevision") if key in before
        }
        created = revisions[-1]["metadata"]["name"]
        able = [each["metadata"]["name"] for each in revisions if _is_ready(each)]
        component["latestCreatedRevision"] = created
        conditions = [{"type": "PredictorReady", "status": str(created in able)}]
        if able:
            component["latestReadyRevision"] = able[-1]
            component["traffic"] = self._traffic(name, able[-1], percent, component)
            self._roll_out(component, created)
        conditions.append({"type": "Ready", "status": str(created in able)})
        found = {"components": {"predictor": component}, "conditions": conditions}
        self.cluster.set_status(
            "InferenceService", name, NAMESPACE, found | ({"url": f"http://{name}-models.example.com"} if able else {})
        )

    def _revise(self, service: str, predictor: Object) -> list[Object]:
        """The revisions of a service, with a new one when its template has changed."""
        mine = [each for each in self.cluster.all("Revision") if each["metadata"]["labels"][_SERVICE] == _of(service)]
        mine.sort(key=lambda each: each["metadata"]["name"])
        template = json.dumps(predictor, sort_keys=True)
        if not mine or mine[-1]["spec"]["template"] != template:
            number = int(mine[-1]["metadata"]["name"][-5:]) + 1 if mine else 1
            head = {
                "name": f"{_of(service)}-{number:05d}",
                "namespace": NAMESPACE,
                "labels": predictor["labels"] | {_SERVICE: _of(service)},
                "annotations": predictor["annotations"],
            }
            document = {"apiVersion": "serving.knative.dev/v1", "kind": "Revision", "metadata": head}
            mine.append(self.cluster.put(document | {"spec": {"template": template}}))
        for each in mine:
            self._revision_status(service, each)
        return [self.cluster.get("Revision", each["metadata"]["name"]) or each for each in mine]

    def _revision_status(self, service: str, revision: Object) -> None:
        name, predictor = revision["metadata"]["name"], json.loads(revision["spec"]["template"])
        ready = self._pod(service, predictor, f"{name}-deployment")
        condition: Object = {"type": "Ready", "status": "True" if ready else "Unknown"}
        if "revision" in predictor["model"]["storageUri"]:
            condition = {"type": "Ready", "status": "False", "reason": "RevisionFailed", "message": "it did not start"}
        self.cluster.set_status("Revision", name, NAMESPACE, {"conditions": [condition]})

    def _traffic(self, service: str, ready: str, percent: int | None, component: Object) -> list[Object]:
        host = f"{_of(service)}.models.example.com"
        pinned = component.get("latestRolledoutRevision")
        latest = {"latestRevision": True, "revisionName": ready, "tag": "latest", "url": f"http://latest-{host}"}
        if percent is None or not pinned:
            return [latest | {"percent": 100}]
        traffic: list[Object] = [latest | {"percent": percent}]
        if percent < 100:
            other = {"revisionName": pinned, "tag": "prev", "url": f"http://prev-{host}", "latestRevision": False}
            traffic.append(other | {"percent": 100 - percent})
        return traffic

    def _roll_out(self, component: Object, created: str) -> None:
        """Move KServe's pins as its status propagation does."""
        ready, latest = component["latestReadyRevision"], component["traffic"][0]
        if component.get("latestRolledoutRevision") != ready:
            if latest["percent"] == 100:
                component["previousRolledoutRevision"] = component.get("latestRolledoutRevision", "")
                component["latestRolledoutRevision"] = ready
            return
        same = sum(each["percent"] for each in component["traffic"] if each["revisionName"] == ready)
        previous = component.get("previousRolledoutRevision")
        if ready == created and latest["percent"] < 100 and same == 100 and previous:
            component["latestRolledoutRevision"] = previous

    # ---- the Gateway, and what is left over

    def _accept(self, route: Object) -> None:
        if "parentRefs" not in route["spec"]:
            return
        backends = [each["name"] for rule in route["spec"]["rules"] for each in rule["backendRefs"]]
        absent = [
            name for name in backends if self.cluster.get("InferenceService", name.removesuffix("-predictor")) is None
        ]
        generation = route["metadata"]["generation"]
        accepted: Object = {
            "type": "Accepted",
            "status": "True",
            "reason": "Accepted",
            "observedGeneration": generation,
        }
        if self.refusal and route["metadata"]["name"].endswith("forced") is False:
            accepted |= {"status": "False", "reason": "UnsupportedValue", "message": self.refusal}
        resolved: Object = {"type": "ResolvedRefs", "status": str(not absent), "observedGeneration": generation}
        resolved |= {"reason": "BackendNotFound", "message": f"no Service {absent[0]}"} if absent else {}
        parent = {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller", "conditions": [accepted, resolved]}
        name = route["metadata"]["name"]
        self.cluster.set_status("HTTPRoute", name, NAMESPACE, {"parents": [parent]})

    def _collect(self, services: set[str]) -> None:
        """Take away what belonged to services that are gone."""
        for pod in self.cluster.all("Pod"):
            if pod["metadata"]["labels"]["serving.kserve.io/inferenceservice"] not in services:
                self._forget(pod)
        for revision in self.cluster.all("Revision"):
            if revision["metadata"]["labels"][_SERVICE].removesuffix("-predictor") not in services:
                self._forget(revision)
        for route in self.cluster.all("HTTPRoute"):
            if "parentRefs" not in route["spec"] and route["metadata"]["name"] not in services:
                self._forget(route)

    def _forget(self, document: Object) -> None:
        self._seen.pop(document["metadata"]["name"], None)
        self.cluster.remove(document["kind"], document["metadata"]["name"], NAMESPACE)

    def _age(self, what: str) -> float:
        return time.monotonic() - self._seen.setdefault(what, time.monotonic())


_SERVICE = "serving.knative.dev/service"


def _of(service: str) -> str:
    return f"{service}-predictor"


def _is_ready(document: Object) -> bool:
    found: list[dict[str, Any]] = document.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in found)


def _conditions(ready: bool) -> list[Object]:
    if ready:
        return [{"type": name, "status": "True"} for name in ("IngressReady", "PredictorReady", "Ready")]
    why = {"reason": "MinimumReplicasUnavailable", "message": "Deployment does not have minimum availability."}
    return [{"type": name, "status": "False"} | why for name in ("PredictorReady", "Ready")]
