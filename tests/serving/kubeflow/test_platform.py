"""What only a cluster does: conflicts with people, refusals of gateways, rights, versions, and manifests for Git."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from headway.components.errors import ClusterError, MeasurementError, NotReadyError, ReleaseError
from headway.components.settings import Settings
from headway.serving.kubeflow import facts
from headway.serving.kubeflow.platform import MODES, KubeflowPlatform
from headway.serving.platform import TOTAL_WEIGHT, Phase, Route, Share, Variant, open_platform
from tests.components.kubernetes import schemas
from tests.components.kubernetes.fake_kubernetes import TOKEN, FakeKubernetes
from tests.serving.kubeflow.fake_controllers import Controllers
from tests.serving.kubeflow.fake_prometheus import FakePrometheus
from tests.serving.kubeflow.worlds import (
    ISTIO_CONTROLLER,
    ClusterWorld,
    NewerKServe,
    cluster_of,
    deploy,
    variant,
    with_surroundings,
)

V1, V2 = variant(1), variant(2)


def route(weights: dict[str, int], **more: Any) -> Route:
    return Route(salt="s", shares=[Share(variant=name, weight=weight) for name, weight in weights.items()], **more)


def ready(platform: KubeflowPlatform, endpoint: str, *variants: Variant) -> None:
    for each in variants:
        platform.ensure_variant(endpoint, each)
    deadline = time.monotonic() + 5
    while not all(platform.variant_state(endpoint, each).ready for each in variants):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def platform(
    api: FakeKubernetes, controllers: Controllers, prometheus: FakePrometheus, settings: Settings
) -> KubeflowPlatform:
    return ClusterWorld(api, prometheus, settings).platform


@pytest.fixture
def split(platform: KubeflowPlatform) -> KubeflowPlatform:
    """A platform with `flights` at 90 : 10."""
    ready(platform, "flights", V1, V2)
    platform.set_route("flights", route({"v1": 9_000, "v2": 1_000}))
    return platform


def in_mode(platform: KubeflowPlatform, mode: str, **options: Any) -> KubeflowPlatform:
    settings = platform.settings.model_copy(update={"serving_mode": mode})
    return KubeflowPlatform(settings, cluster=platform.cluster, settle_seconds=0, **({"route_seconds": 5.0} | options))


class TestPeople:
    def change(self, api: FakeKubernetes, weights: list[int]) -> None:
        found = api.get("HTTPRoute", "flights")
        assert found is not None
        for backend, weight in zip(found["spec"]["rules"][0]["backendRefs"], weights, strict=True):
            backend["weight"] = weight
        api.put(found, manager="kubectl-edit")

    def test_the_live_route_is_the_clusters_not_ours(self, split: KubeflowPlatform, api: FakeKubernetes) -> None:
        self.change(api, [2_000, 8_000])
        assert split.route("flights") == route({"v1": 2_000, "v2": 8_000})

    def test_a_conflict_names_who_and_what_and_changes_nothing(
        self, split: KubeflowPlatform, api: FakeKubernetes
    ) -> None:
        self.change(api, [2_000, 8_000])
        with pytest.raises(ClusterError, match="kubectl-edit") as refusal:
            split.set_route("flights", route({"v1": 5_000, "v2": 5_000}))
        assert "spec.rules" in refusal.value.problem
        assert split.route("flights") == route({"v1": 2_000, "v2": 8_000})

    def test_force_takes_the_route_back(self, split: KubeflowPlatform, api: FakeKubernetes) -> None:
        self.change(api, [2_000, 8_000])
        forced = KubeflowPlatform(split.settings, cluster=cluster_of(api, force=True), route_seconds=5.0)
        forced.set_route("flights", route({"v1": 5_000, "v2": 5_000}))
        split.set_route("flights", route({"v1": 10_000, "v2": 0}))
        assert split.route("flights") == route({"v1": 10_000, "v2": 0})

    def test_weights_that_do_not_add_up_are_said(self, split: KubeflowPlatform, api: FakeKubernetes) -> None:
        self.change(api, [2_000, 2_000])
        with pytest.raises(ClusterError, match="add up to 4000: v1 2000, v2 2000"):
            split.route("flights")

    def test_rules_that_somebody_added_are_said(self, split: KubeflowPlatform, api: FakeKubernetes) -> None:
        found = api.get("HTTPRoute", "flights")
        assert found is not None
        found["spec"]["rules"] *= 2
        api.put(found, manager="kubectl-edit")
        with pytest.raises(ClusterError, match="2 rules: somebody changed it by hand"):
            split.route("flights")

    def test_somebody_elses_object_is_left_alone(self, api: FakeKubernetes, settings: Settings) -> None:
        theirs = {"name": "flights-v1", "namespace": "models"}
        api.put({"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": theirs, "spec": {}})
        platform = KubeflowPlatform(settings, cluster=cluster_of(api))
        before = api.get("InferenceService", "flights-v1")
        for act in (platform.ensure_variant, platform.variant_state):
            with pytest.raises(ClusterError, match="not of the endpoint 'flights'"):
                act("flights", V1)
        assert api.get("InferenceService", "flights-v1") == before

    def test_names_that_meet_are_told_apart(self, platform: KubeflowPlatform) -> None:
        dashed = variant(1).model_copy(update={"name": "b-v1"})
        ready(platform, "a", dashed)
        with pytest.raises(ClusterError, match="'a-b-v1' is there already"):
            platform.ensure_variant("a-b", V1)

    def test_a_name_keeps_its_version(self, split: KubeflowPlatform) -> None:
        other = V2.model_copy(update={"digest": "f" * 64})
        with pytest.raises(ReleaseError, match="has a variant 'v2' already"):
            split.ensure_variant("flights", other)


class TestReadiness:
    def test_only_a_pod_with_this_digest_counts(
        self, platform: KubeflowPlatform, api: FakeKubernetes, controllers: Controllers
    ) -> None:
        ready(platform, "flights", V1)
        controllers.paused = True
        time.sleep(0.1)
        (pod,) = api.all("Pod")
        pod["metadata"]["annotations"]["serving.headway/digest"] = "0" * 64
        api.put(pod)
        # KServe still says Ready, as it does while a Deployment rolls.
        state = platform.variant_state("flights", V1)
        assert state.conditions["Ready"] == "True"
        assert state.phase is Phase.STARTING

    def test_a_pod_that_goes_does_not_count(
        self, platform: KubeflowPlatform, api: FakeKubernetes, controllers: Controllers
    ) -> None:
        ready(platform, "flights", V1)
        controllers.paused = True
        time.sleep(0.1)
        (pod,) = api.all("Pod")
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        api.put(pod)
        assert not platform.variant_state("flights", V1).ready

    @pytest.mark.parametrize("mode", MODES)
    def test_an_image_that_cannot_be_pulled_is_named(
        self, platform: KubeflowPlatform, api: FakeKubernetes, mode: str
    ) -> None:
        deploy(api, "kserve-controller-manager", "kserve", "kserve-controller:v0.21.0")
        there, stuck = in_mode(platform, mode), variant(3, place="s3://stuck")
        there.ensure_variant("flights", stuck)
        eventually(lambda: "ImagePullBackOff" in there.variant_state("flights", stuck).reason)
        state = there.variant_state("flights", stuck)
        assert state.phase is Phase.STARTING  # the image may still be pushed
        assert state.reason == "kserve-container: ImagePullBackOff: Back-off pulling image headway-serving"

    def test_a_model_that_does_not_load_has_failed(self, platform: KubeflowPlatform) -> None:
        crash = variant(3, place="s3://crash")
        platform.ensure_variant("flights", crash)
        eventually(lambda: platform.variant_state("flights", crash).phase is Phase.FAILED)
        assert platform.variant_state("flights", crash).reason == "ModelLoadFailed: unknown estimator"

    def test_a_failed_revision_has_failed(self, platform: KubeflowPlatform) -> None:
        there, broken = in_mode(platform, "knative"), variant(2, place="s3://revision")
        ready(there, "flights", V1)
        there.set_route("flights", route({"v1": TOTAL_WEIGHT}))
        there.ensure_variant("flights", broken)
        eventually(lambda: there.variant_state("flights", broken).phase is Phase.FAILED)
        state = there.variant_state("flights", broken)
        assert state.reason == "Ready: RevisionFailed: it did not start"
        assert state.conditions["RevisionReady"] == "False (RevisionFailed: it did not start)"
        assert there.variant_state("flights", V1).ready
        assert there.route("flights") == route({"v1": TOTAL_WEIGHT})

    def test_a_refused_route_prints_the_conditions(self, platform: KubeflowPlatform) -> None:
        ready(platform, "flights", V1)
        stuck = variant(3, place="s3://stuck")
        platform.ensure_variant("flights", stuck)
        eventually(lambda: "Ready" in platform.variant_state("flights", stuck).conditions)
        with pytest.raises(NotReadyError) as refusal:
            platform.set_route("flights", route({"v1": 9_000, "v3": 1_000}))
        said = str(refusal.value)
        assert "ImagePullBackOff" in said
        assert "PredictorReady: False (MinimumReplicasUnavailable" in said

    def test_knative_waits_for_a_revision_to_pin(self, platform: KubeflowPlatform) -> None:
        there = in_mode(platform, "knative", route_seconds=0.3)
        there.ensure_variant("flights", variant(1, place="s3://stuck"))
        with pytest.raises(NotReadyError, match="would get all traffic"):
            there.ensure_variant("flights", V2)
        assert [each.name for each in there.variants("flights")] == ["v1"]


class TestKnative:
    def test_a_variant_that_is_taken_away_gets_nothing_on_its_way_out(
        self, platform: KubeflowPlatform, api: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        there = in_mode(platform, "knative")
        ready(there, "flights", V1)
        ready(there, "flights", V2)
        there.set_route("flights", route({"v1": 5_000, "v2": 5_000}))
        there.set_route("flights", route({"v1": 10_000, "v2": 0}))
        seen: list[set[str]] = []
        report = api.set_status

        def recorded(kind: str, name: str, namespace: str, status: dict[str, Any]) -> None:
            if kind == "InferenceService":
                names = {
                    each["metadata"]["name"]: each["metadata"]["labels"]["endpoint"] for each in api.all("Revision")
                }
                traffic = status["components"]["predictor"]["traffic"]
                seen.append({names[each["revisionName"]] for each in traffic if each["percent"]})
            report(kind, name, namespace, status)

        monkeypatch.setattr(api, "set_status", recorded)
        there.remove_variant("flights", "v2")
        assert there.variants("flights") == [V1]
        assert there.route("flights") == route({"v1": TOTAL_WEIGHT})
        assert len(seen) > 1
        assert {name for names in seen for name in names} == {"v1"}

    def test_a_removal_that_was_killed_is_finished(self, platform: KubeflowPlatform, api: FakeKubernetes) -> None:
        there = in_mode(platform, "knative")
        ready(there, "flights", V1)
        ready(there, "flights", V2)
        there.set_route("flights", route({"v1": 10_000, "v2": 0}))
        patches = [method for method, _, _ in api.requests if method == "PATCH"]

        def die(method: str, path: str) -> None:
            api.down = api.down or len([each for each, _, _ in api.requests if each == "PATCH"]) == len(patches) + 2

        api.before = die  # after its first change, before its second one
        with pytest.raises(ClusterError):
            there.remove_variant("flights", "v2")
        api.before = lambda method, path: None
        api.down = False
        assert there.route("flights") == route({"v1": 10_000, "v2": 0})
        there.remove_variant("flights", "v2")
        assert there.variants("flights") == [V1]
        assert there.route("flights") == route({"v1": TOTAL_WEIGHT})


class TestGateway:
    def test_a_refused_route_is_taken_back(
        self, split: KubeflowPlatform, controllers: Controllers, api: FakeKubernetes
    ) -> None:
        controllers.refusal = "mirror filters are not supported"
        with pytest.raises(ClusterError, match="mirror filters are not supported") as refusal:
            split.set_route("flights", route({"v1": 5_000, "v2": 5_000}))
        assert "traffic is unchanged" in refusal.value.problem
        assert split.route("flights") == route({"v1": 9_000, "v2": 1_000})
        controllers.refusal = ""
        split.set_route("flights", route({"v1": 5_000, "v2": 5_000}))
        assert split.route("flights") == route({"v1": 5_000, "v2": 5_000})

    def test_a_refused_first_route_is_no_route(self, platform: KubeflowPlatform, controllers: Controllers) -> None:
        ready(platform, "flights", V1)
        controllers.refusal = "no"
        with pytest.raises(ClusterError):
            platform.set_route("flights", route({"v1": TOTAL_WEIGHT}))
        assert platform.route("flights") is None

    def test_a_gateway_that_does_not_look_is_not_waited_for_ever(
        self, split: KubeflowPlatform, controllers: Controllers, api: FakeKubernetes
    ) -> None:
        controllers.paused = True
        hasty = KubeflowPlatform(split.settings, cluster=cluster_of(api), route_seconds=0.3)
        with pytest.raises(ClusterError, match="it has not looked at it yet"):
            hasty.set_route("flights", route({"v1": 5_000, "v2": 5_000}))
        assert split.route("flights") == route({"v1": 9_000, "v2": 1_000})

    def test_an_api_that_goes_away_leaves_traffic_as_it_was(self, split: KubeflowPlatform, api: FakeKubernetes) -> None:
        def away(method: str, path: str) -> None:
            api.down = api.down or (method == "PATCH" and "httproutes" in path)

        api.before = away
        with pytest.raises(ClusterError, match="cannot be reached"):
            split.set_route("flights", route({"v1": 0, "v2": 10_000}))
        api.before = lambda method, path: None
        api.down = False
        assert split.route("flights") == route({"v1": 9_000, "v2": 1_000})
        split.set_route("flights", route({"v1": 0, "v2": 10_000}))
        assert split.route("flights") == route({"v1": 0, "v2": 10_000})

    def test_a_lost_watch_and_a_forgotten_version_do_not_matter(
        self, split: KubeflowPlatform, api: FakeKubernetes, controllers: Controllers
    ) -> None:
        stop = threading.Event()

        def disturb() -> None:
            while not stop.wait(0.02):
                api.forget()
                api.drop_watches()

        thread = threading.Thread(target=disturb)
        thread.start()
        for weight in (2_000, 4_000, 10_000):
            split.set_route("flights", route({"v1": TOTAL_WEIGHT - weight, "v2": weight}))
        stop.set()
        thread.join()
        assert split.route("flights") == route({"v1": 0, "v2": TOTAL_WEIGHT})

    def test_a_removed_variant_leaves_no_backend_behind(self, split: KubeflowPlatform, api: FakeKubernetes) -> None:
        split.set_route("flights", route({"v1": 0, "v2": 10_000}))
        split.remove_variant("flights", "v1")
        found = api.get("HTTPRoute", "flights")
        assert found is not None
        assert [each["name"] for each in found["spec"]["rules"][0]["backendRefs"]] == ["flights-v2-predictor"]
        assert {each["metadata"]["name"] for each in api.all("HTTPRoute")} == {"flights", "flights-v2-forced"}

    def test_nothing_of_an_endpoint_is_left(self, split: KubeflowPlatform, api: FakeKubernetes) -> None:
        split.remove_endpoint("flights")
        kinds = ("InferenceService", "HTTPRoute", "BackendTrafficPolicy")
        assert [each for kind in kinds for each in api.all(kind)] == []

    def test_users_are_sticky_where_the_gateway_can(self, split: KubeflowPlatform, api: FakeKubernetes) -> None:
        def balancer() -> Any:
            found = api.get("BackendTrafficPolicy", "flights")
            return found and found["spec"].get("loadBalancer")

        assert balancer()["consistentHash"] == {
            "type": "Headers",
            "headers": [{"name": "x-user-id"}],
            "tableSize": 65537,
        }
        deploy(api, "envoy-gateway", "envoy-gateway-system", "envoyproxy/gateway:v1.8.3")
        split.set_route("flights", route({"v1": 5_000, "v2": 5_000}))
        assert balancer() is None

    def test_istio_gets_no_policy_of_envoy_gateway(self, split: KubeflowPlatform, api: FakeKubernetes) -> None:
        split.remove_endpoint("flights")
        with_surroundings(api, controller=ISTIO_CONTROLLER)
        ready(split, "flights", V1)
        split.set_route("flights", route({"v1": TOTAL_WEIGHT}))
        assert api.all("BackendTrafficPolicy") == []

    def test_addresses_carry_what_a_request_needs(self, split: KubeflowPlatform) -> None:
        assert split.address("flights").model_dump() == {
            "url": "http://10.0.0.1:80",
            "headers": {"host": "flights.models.example.com"},
        }
        assert split.address("flights", "v2").headers["x-variant"] == "v2"


class TestCheck:
    WANTED = route({"v1": 9_500, "v2": 500})

    def test_a_cluster_with_all_it_needs_passes(self, platform: KubeflowPlatform) -> None:
        platform.check("flights", self.WANTED, [V1, V2])

    def test_missing_kinds_are_named(self, platform: KubeflowPlatform, api: FakeKubernetes) -> None:
        api.absent |= {"InferenceService", "HTTPRoute"}
        with pytest.raises(ReleaseError) as refusal:
            platform.check("flights", self.WANTED, [V1, V2])
        assert "inferenceservices.serving.kserve.io, httproutes.gateway.networking.k8s.io" in refusal.value.problem
        assert "install KServe and the Gateway API" in (refusal.value.fix or "")

    def test_missing_rights_are_named(self, platform: KubeflowPlatform, api: FakeKubernetes) -> None:
        api.denied |= {("patch", "inferenceservices"), ("watch", "httproutes")}
        with pytest.raises(ReleaseError, match=r"may not patch inferenceservices\S+, watch httproutes\S+ in the"):
            platform.check("flights", self.WANTED, [V1, V2])

    def test_a_missing_runtime_is_named(self, platform: KubeflowPlatform, api: FakeKubernetes) -> None:
        api.remove("ServingRuntime", "headway", "models")
        with pytest.raises(ReleaseError, match="no ServingRuntime"):
            platform.check("flights", self.WANTED, [V1, V2])

    def test_a_missing_gateway_is_named(self, platform: KubeflowPlatform, api: FakeKubernetes) -> None:
        api.remove("Gateway", "kserve-ingress-gateway", "kserve")
        with pytest.raises(ReleaseError, match="no Gateway kserve/kserve-ingress-gateway"):
            platform.check("flights", self.WANTED, [V1, V2])

    def test_a_mirror_needs_a_gateway_that_mirrors(self, platform: KubeflowPlatform, api: FakeKubernetes) -> None:
        wanted = route({"v1": 10_000, "v2": 0}, mirror="v2", mirror_weight=2_000)
        platform.check("flights", wanted, [V1, V2])
        (kept,) = api.all("GatewayClass")
        kept["status"]["supportedFeatures"] = [{"name": "HTTPRouteRequestMirror"}]
        api.put(kept)
        with pytest.raises(ReleaseError, match="all requests to a shadow or none"):
            platform.check("flights", wanted, [V1, V2])
        platform.check("flights", route({"v1": 10_000, "v2": 0}, mirror="v2", mirror_weight=10_000), [V1, V2])
        kept["status"]["supportedFeatures"] = [{"name": "HTTPRouteResponseHeaderModification"}]
        api.put(kept)
        with pytest.raises(ReleaseError, match="cannot copy requests"):
            platform.check("flights", wanted, [V1, V2])

    def test_a_bundle_on_this_machine_is_refused_before_anything_starts(
        self, platform: KubeflowPlatform, api: FakeKubernetes
    ) -> None:
        local = V2.model_copy(update={"storage_uri": "file:///home/me/bundle"})
        with pytest.raises(ReleaseError, match="no cluster can read"):
            platform.check("flights", self.WANTED, [V1, local])
        with pytest.raises(ReleaseError, match="no cluster can read"):
            platform.ensure_variant("flights", local)
        assert api.all("InferenceService") == []

    def test_a_name_too_long_is_refused(self, platform: KubeflowPlatform) -> None:
        long = V1.model_copy(update={"name": "a" * 32})
        with pytest.raises(ReleaseError, match="too long for Kubernetes: 75 characters"):
            platform.check("b" * 32, route({long.name: TOTAL_WEIGHT}), [long])

    def test_canary_mode_is_refused_before_kserve_0_21(self, platform: KubeflowPlatform, api: FakeKubernetes) -> None:
        there = in_mode(platform, "canary")
        with pytest.raises(ReleaseError, match=r"KServe 0\.20 cannot split traffic by spec\.canary") as refusal:
            there.check("flights", self.WANTED, [V1, V2])
        assert "HEADWAY_SERVING_MODE" in (refusal.value.fix or "")
        with pytest.raises(ReleaseError):
            there.ensure_variant("flights", V1)
        assert api.all("InferenceService") == []

    def test_canary_mode_without_the_gateway_api_leaves_the_spec_as_it_was(
        self, platform: KubeflowPlatform, api: FakeKubernetes, controllers: Controllers
    ) -> None:
        deploy(api, "kserve-controller-manager", "kserve", "kserve-controller:v0.21.0")
        there = in_mode(platform, "canary", route_seconds=0.5)
        controllers.gateway_api = False
        ready(there, "flights", V1, V2)
        with pytest.raises(ClusterError, match="did not take the route") as refusal:
            there.set_route("flights", self.WANTED)
        assert "enableGatewayApi" in (refusal.value.fix or "")
        found = api.get("InferenceService", "flights")
        assert found is not None
        assert [each["trafficPercent"] for each in found["spec"]["canary"]] == [0]
        assert there.route("flights") is None

    def test_canary_mode_keeps_the_replicas_that_somebody_set(
        self, platform: KubeflowPlatform, api: FakeKubernetes
    ) -> None:
        deploy(api, "kserve-controller-manager", "kserve", "kserve-controller:v0.21.0")
        there = in_mode(platform, "canary")
        ready(there, "flights", V1)
        found = api.get("InferenceService", "flights")
        assert found is not None
        found["spec"]["predictor"]["minReplicas"] = 3
        api.put(found, manager="kubectl-scale")
        ready(there, "flights", V2)
        found = api.get("InferenceService", "flights")
        assert found is not None
        assert found["spec"]["predictor"]["minReplicas"] == 3
        assert found["spec"]["canary"][0]["predictor"]["minReplicas"] == 3
        (document,) = there._mode.documents("flights")
        assert document["spec"]["predictor"]["minReplicas"] == 3


class TestVersions:
    def test_kserve_by_its_deployment(self, api: FakeKubernetes) -> None:
        assert facts.kserve_version(cluster_of(api)) == (0, 20)
        deploy(api, "kserve-controller-manager", "kserve", "registry.example.com:5000/kserve-controller:v0.21.3")
        assert facts.kserve_version(cluster_of(api)) == (0, 21)

    def test_kserve_by_its_schema_where_deployments_may_not_be_read(self, api: FakeKubernetes) -> None:
        api.denied.add(("get", "deployments"))
        assert facts.kserve_version(cluster_of(api)) == (0, 20)
        with NewerKServe() as newer:
            with_surroundings(newer)
            newer.denied.add(("get", "deployments"))
            assert facts.kserve_version(cluster_of(newer)) == (0, 21)

    def test_kserve_by_its_schema_where_the_image_has_no_version(self, api: FakeKubernetes) -> None:
        deploy(api, "kserve-controller-manager", "kserve", "mirror/kserve-controller@sha256:" + "a" * 64)
        assert facts.kserve_version(cluster_of(api)) == (0, 20)

    def test_envoy_gateway_by_its_deployment_or_its_schema(self, api: FakeKubernetes) -> None:
        assert facts.envoy_gateway_is_sticky(cluster_of(api))
        deploy(api, "envoy-gateway", "envoy-gateway-system", "envoyproxy/gateway:v1.8.1")
        assert not facts.envoy_gateway_is_sticky(cluster_of(api))
        api.denied.add(("get", "deployments"))
        assert facts.envoy_gateway_is_sticky(cluster_of(api))  # the schema here is 1.9's
        api.absent.add("BackendTrafficPolicy")
        assert not facts.envoy_gateway_is_sticky(cluster_of(api))


class TestMeasuring:
    def test_a_shadows_requests_are_counted_where_they_go(
        self, split: KubeflowPlatform, prometheus: FakePrometheus
    ) -> None:
        split.set_route("flights", route({"v1": 10_000, "v2": 0}, mirror="v2", mirror_weight=10_000))
        cursor = split.read("flights", "v2").cursor
        cluster = "httproute/models/flights/rule/0-mirror-0"
        prometheus.add("envoy_cluster_upstream_rq_xx", 7, envoy_cluster_name=cluster, envoy_response_code_class="2")
        prometheus.add("headway_requests_total", 7, pod="x")
        assert split.read("flights", "v2", cursor).counts.requests == 7

    def test_istio_counts_by_workload(
        self, split: KubeflowPlatform, api: FakeKubernetes, prometheus: FakePrometheus
    ) -> None:
        with_surroundings(api, controller=ISTIO_CONTROLLER)
        cursor = split.read("flights", "v2").cursor
        labels = {"destination_workload": "flights-v2-predictor", "destination_workload_namespace": "models"}
        for reporter in ("source", "destination"):
            prometheus.add("istio_requests_total", 5, **labels, reporter=reporter, response_code="503")
        prometheus.add("headway_requests_total", 5, pod="x")
        counts = split.read("flights", "v2", cursor).counts
        assert (counts.requests, counts.server_errors) == (5, 5)

    def test_a_cluster_that_is_away_is_a_measurement_error(self, split: KubeflowPlatform, api: FakeKubernetes) -> None:
        api.down = True
        with pytest.raises(MeasurementError, match="cannot be reached"):
            split.read("flights", "v1")

    def test_no_prometheus_is_a_measurement_error(self, split: KubeflowPlatform, api: FakeKubernetes) -> None:
        settings = split.settings.model_copy(update={"prometheus_url": ""})
        with pytest.raises(MeasurementError, match="No address"):
            KubeflowPlatform(settings, cluster=cluster_of(api)).read("flights", "v1")


class TestManifests:
    @pytest.mark.parametrize("mode", MODES)
    def test_git_keeps_what_a_release_decided(
        self, platform: KubeflowPlatform, api: FakeKubernetes, tmp_path: Path, mode: str
    ) -> None:
        deploy(api, "kserve-controller-manager", "kserve", "kserve-controller:v0.21.0")
        settings = platform.settings.model_copy(update={"manifests_folder": tmp_path / "git", "serving_mode": mode})
        there = KubeflowPlatform(settings, cluster=cluster_of(api), route_seconds=5.0)
        ready(there, "flights", V1)
        ready(there, "flights", V2)
        path = tmp_path / "git" / "flights.yaml"
        texts = []
        for weight in (0, 1_000, 0):
            there.set_route("flights", route({"v1": TOTAL_WEIGHT - weight, "v2": weight}))
            texts.append(path.read_text(encoding="utf-8"))
        assert texts[0] == texts[2] != texts[1]  # a rollback is as exact as a release
        documents = list(yaml.safe_load_all(texts[2]))
        assert [problem for each in documents for problem in schemas.problems(each)] == []
        for document in documents:  # what stands in Git is what is there: applying it changes nothing
            before = api.get(document["kind"], document["metadata"]["name"])
            there.cluster.apply(document)
            assert before is not None
            after = api.get(document["kind"], document["metadata"]["name"])
            assert after is not None
            assert (after["spec"], after["metadata"]["generation"]) == (
                before["spec"],
                before["metadata"]["generation"],
            )
        assert [each.name for each in path.parent.iterdir()] == ["flights.yaml"]
        there.remove_variant("flights", "v2")
        assert "flights/2" not in path.read_text(encoding="utf-8")
        there.remove_endpoint("flights")
        assert not path.exists()


class TestOpening:
    def test_the_settings_choose_it(
        self, api: FakeKubernetes, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        user = {"name": "me", "user": {"token": TOKEN}}
        config = {
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "fake", "user": "me"}}],
            "clusters": [{"name": "fake", "cluster": {"server": api.url}}],
            "users": [user],
        }
        path = tmp_path / "config"
        path.write_text(yaml.safe_dump(config))
        monkeypatch.setenv("KUBECONFIG", str(path))
        platform = open_platform(settings)
        assert platform.name == "kubeflow"
        assert platform.endpoints() == []

    def test_every_mode_of_the_settings_is_there(self) -> None:
        from typing import get_args

        assert set(MODES) == set(get_args(Settings.model_fields["serving_mode"].annotation))
