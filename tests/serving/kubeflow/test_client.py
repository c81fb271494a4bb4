"""The Kubernetes API: server-side apply, its conflicts, watches that break, and a server that is not there."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from headway.components.errors import ClusterError
from headway.components.kubernetes import client
from headway.components.kubernetes.client import Cluster, Document, ForbiddenError
from headway.serving.kubeflow.routing import http_route
from tests.components.kubernetes.fake_kubernetes import TOKEN, FakeKubernetes
from tests.serving.kubeflow import golden
from tests.serving.kubeflow.worlds import cluster_of

ROUTE = http_route("flights", golden.route(9_000, 1_000), golden.SETTINGS)


def weights(document: Document | None) -> list[int]:
    assert document is not None
    return [each["weight"] for each in document["spec"]["rules"][0]["backendRefs"]]


@pytest.fixture
def cluster(api: FakeKubernetes) -> Cluster:
    return cluster_of(api)


def somebody_edits(api: FakeKubernetes, manager: str = "kubectl-edit") -> None:
    """Change the weights as another manager."""
    found = api.get("HTTPRoute", "flights")
    assert found is not None
    for backend, weight in zip(found["spec"]["rules"][0]["backendRefs"], (5_000, 5_000), strict=True):
        backend["weight"] = weight
    api.put(found, manager=manager)


class TestApply:
    def test_it_makes_changes_and_leaves_alone(self, cluster: Cluster, api: FakeKubernetes) -> None:
        made = cluster.apply(ROUTE)
        assert made["metadata"]["generation"] == 1
        assert cluster.apply(ROUTE)["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
        changed = cluster.apply(http_route("flights", golden.route(0, 10_000), golden.SETTINGS))
        assert (weights(changed), changed["metadata"]["generation"]) == ([0, 10_000], 2)

    def test_fields_that_others_added_stay(self, cluster: Cluster, api: FakeKubernetes) -> None:
        cluster.apply(ROUTE)
        found = api.get("HTTPRoute", "flights")
        assert found is not None
        found["metadata"]["labels"]["team"] = "air"
        api.put(found, manager="kubectl-edit")
        changed = cluster.apply(http_route("flights", golden.route(0, 10_000), golden.SETTINGS))
        assert changed["metadata"]["labels"]["team"] == "air"

    def test_what_is_no_longer_said_goes(self, cluster: Cluster) -> None:
        cluster.apply({**ROUTE, "metadata": {**ROUTE["metadata"], "annotations": {"a": "1", "b": "2"}}})
        after = cluster.apply({**ROUTE, "metadata": {**ROUTE["metadata"], "annotations": {"b": "2"}}})
        assert after["metadata"]["annotations"] == {"b": "2"}

    def test_a_conflict_names_the_field_and_who_owns_it(self, cluster: Cluster, api: FakeKubernetes) -> None:
        cluster.apply(ROUTE)
        somebody_edits(api)
        with pytest.raises(ClusterError) as refusal:
            cluster.apply(ROUTE)
        assert ".spec.rules" in refusal.value.problem
        assert 'conflict with "kubectl-edit"' in refusal.value.problem
        assert "force=True" in (refusal.value.fix or "")
        assert weights(api.get("HTTPRoute", "flights")) == [5_000, 5_000]

    def test_force_takes_over_when_told(self, cluster: Cluster, api: FakeKubernetes) -> None:
        cluster.apply(ROUTE)
        somebody_edits(api)
        assert weights(cluster_of(api, force=True).apply(ROUTE)) == [9_000, 1_000]
        assert weights(cluster.apply(http_route("flights", golden.route(0, 10_000), golden.SETTINGS))) == [0, 10_000]

    def test_a_dry_run_changes_nothing(self, cluster: Cluster, api: FakeKubernetes) -> None:
        assert weights(cluster.apply(ROUTE, dry_run=True)) == [9_000, 1_000]
        assert api.get("HTTPRoute", "flights") is None

    def test_what_the_schema_does_not_know_is_refused(self, cluster: Cluster) -> None:
        broken = json.loads(json.dumps(ROUTE))
        broken["spec"]["rules"][0]["backendRefs"][0]["wieght"] = 3
        with pytest.raises(ClusterError, match=r"422.*wieght"):
            cluster.apply(broken)
        with pytest.raises(ClusterError, match=r"422.*wieght"):
            cluster.apply(broken, dry_run=True)


class TestReading:
    def test_what_is_not_there_is_none(self, cluster: Cluster) -> None:
        assert cluster.get("HTTPRoute", "flights") is None
        assert cluster.list("HTTPRoute", {"a": "b"}) == []
        assert cluster.delete("HTTPRoute", "flights") is False

    def test_objects_are_found_by_their_labels(self, cluster: Cluster) -> None:
        cluster.apply(ROUTE)
        labels = {"serving.headway/endpoint": "flights"}
        assert [each["metadata"]["name"] for each in cluster.list("HTTPRoute", labels)] == ["flights"]
        assert cluster.list("HTTPRoute", {"serving.headway/endpoint": "taxis"}) == []
        assert cluster.delete("HTTPRoute", "flights") is True

    def test_a_cluster_says_what_it_knows_and_what_we_may(self, cluster: Cluster, api: FakeKubernetes) -> None:
        assert cluster.serves("HTTPRoute")
        api.absent.add("HTTPRoute")
        api.denied.add(("patch", "inferenceservices"))
        assert not cluster.serves("HTTPRoute")
        assert cluster.serves("Gateway")
        assert not cluster.allowed("patch", "InferenceService")
        assert cluster.allowed("get", "InferenceService")

    def test_a_published_schema_is_read(self, cluster: Cluster) -> None:
        assert "canary" in cluster.schema("InferenceService")["properties"]["spec"]["properties"]
        with pytest.raises(ClusterError):
            cluster.schema("Revision")


class TestWaiting:
    def after(self, seconds: float, act: Callable[[], object]) -> threading.Timer:
        timer = threading.Timer(seconds, act)
        timer.start()
        return timer

    def watches(self, api: FakeKubernetes) -> list[dict[str, str]]:
        return [query for _, _, query in api.requests if query.get("watch") == "true"]

    def changed(self, document: Document | None) -> bool:
        return document is not None and weights(document) == [5_000, 5_000]

    def test_it_sees_a_change_at_once(self, cluster: Cluster, api: FakeKubernetes) -> None:
        cluster.apply(ROUTE)
        timer, began = self.after(0.2, lambda: somebody_edits(api)), time.monotonic()
        seen, done = cluster.wait("HTTPRoute", "flights", self.changed, 10)
        timer.join()
        assert done
        assert weights(seen) == [5_000, 5_000]
        assert time.monotonic() - began < 3
        assert len(self.watches(api)) == 1

    def test_it_sees_what_comes_and_what_goes(self, cluster: Cluster, api: FakeKubernetes) -> None:
        timer = self.after(0.1, lambda: cluster_of(api).apply(ROUTE))
        assert cluster.wait("HTTPRoute", "flights", lambda found: found is not None, 10)[1]
        timer.join()
        timer = self.after(0.1, lambda: cluster_of(api).delete("HTTPRoute", "flights"))
        assert cluster.wait("HTTPRoute", "flights", lambda found: found is None, 10) == (None, True)
        timer.join()

    def test_a_deadline_ends_it(self, cluster: Cluster) -> None:
        cluster.apply(ROUTE)
        began = time.monotonic()
        seen, done = cluster.wait("HTTPRoute", "flights", self.changed, 1)
        assert (weights(seen), done) == ([9_000, 1_000], False)
        assert 0.9 < time.monotonic() - began < 4

    def test_a_lost_watch_goes_on_where_it_was(self, cluster: Cluster, api: FakeKubernetes) -> None:
        cluster.apply(ROUTE)
        version = api.version

        def change_while_nobody_watches() -> None:
            with api.changed:
                api.drop_watches()
                somebody_edits(api)

        timer = self.after(0.2, change_while_nobody_watches)
        _, done = cluster.wait("HTTPRoute", "flights", self.changed, 10)
        timer.join()
        assert done
        assert [query["resourceVersion"] for query in self.watches(api)] == [str(version)] * 2
        lists = [query for method, path, query in api.requests if method == "GET" and "fieldSelector" in query]
        assert len([query for query in lists if "watch" not in query]) == 1

    def test_a_forgotten_version_is_read_anew(self, cluster: Cluster, api: FakeKubernetes) -> None:
        cluster.apply(ROUTE)

        def forget(method: str, path: str) -> None:
            if any(query.get("watch") for _, _, query in api.requests[-1:]):
                api.before = lambda method, path: None
                somebody_edits(api)
                api.forget()  # the change itself is no longer in the history

        api.before = forget
        seen, done = cluster.wait("HTTPRoute", "flights", self.changed, 10)
        assert done
        assert weights(seen) == [5_000, 5_000]

    def test_a_server_that_restarts_meanwhile_is_waited_for(self, cluster: Cluster, api: FakeKubernetes) -> None:
        cluster.apply(ROUTE)

        def down() -> None:
            api.down = True
            api.drop_watches()

        def up() -> None:
            somebody_edits(api)
            api.down = False

        timers = [self.after(0.2, down), self.after(0.8, up)]
        _, done = cluster.wait("HTTPRoute", "flights", self.changed, 10)
        for timer in timers:
            timer.join()
        assert done

    def test_a_watch_that_is_refused_is_an_error(self, cluster: Cluster, api: FakeKubernetes) -> None:
        cluster.apply(ROUTE)

        def refuse(method: str, path: str) -> None:
            if api.requests[-1][2].get("watch"):
                api.failures.append(("GET", 403))

        api.before = refuse
        with pytest.raises(ForbiddenError, match="WATCH"):
            cluster.wait("HTTPRoute", "flights", self.changed, 10)


class TestFailing:
    def test_a_busy_server_is_asked_again(self, cluster: Cluster, api: FakeKubernetes) -> None:
        api.failures += [("PATCH", 503), ("PATCH", 429)]
        assert weights(cluster.apply(ROUTE)) == [9_000, 1_000]

    def test_a_broken_server_is_named(self, cluster: Cluster, api: FakeKubernetes) -> None:
        api.failures.append(("GET", 500))
        with pytest.raises(ClusterError, match=r"said no \(500\): planned failure"):
            cluster.get("HTTPRoute", "flights")

    def test_a_server_that_is_away_is_named(self, api: FakeKubernetes) -> None:
        cluster = cluster_of(api)
        api.down = True
        with pytest.raises(ClusterError, match="cannot be reached") as refusal:
            cluster.apply(ROUTE)
        assert api.url in refusal.value.problem
        api.down = False
        assert cluster.get("HTTPRoute", "flights") is None

    def test_no_message_carries_the_token(self, cluster: Cluster, api: FakeKubernetes) -> None:
        api.denied.add(("get", "httproutes"))
        with pytest.raises(ForbiddenError) as refusal:  # the fake's message repeats the token, as proxies do
            cluster.get("HTTPRoute", "flights")
        assert TOKEN not in str(refusal.value)
        assert "httproutes.gateway.networking.k8s.io" in refusal.value.problem

    def test_wrong_credentials_are_refused(self, api: FakeKubernetes) -> None:
        from kubernetes import client as kubernetes

        stranger = Cluster("models", configuration=kubernetes.Configuration(host=api.url))
        with pytest.raises(ForbiddenError, match="Unauthorized"):
            stranger.get("HTTPRoute", "flights")


class TestCredentials:
    def test_a_kubeconfig_is_read(self, api: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "fake", "user": "me"}}],
            "clusters": [{"name": "fake", "cluster": {"server": api.url}}],
            "users": [{"name": "me", "user": {"token": TOKEN}}],
        }
        path = tmp_path / "config"
        path.write_text(json.dumps(config))
        monkeypatch.setenv("KUBECONFIG", str(path))
        assert Cluster("models").get("ServingRuntime", "headway") is not None

    def test_none_at_all_says_what_to_do(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
        with pytest.raises(ClusterError, match="No credentials") as refusal:
            Cluster("models")
        assert "KUBECONFIG" in (refusal.value.fix or "")

    def test_a_pod_uses_its_own(self, api: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from kubernetes.config import incluster_config

        token, ca = tmp_path / "token", tmp_path / "ca.crt"
        token.write_text(TOKEN)
        ca.write_text("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
        monkeypatch.setattr(client, "_IN_CLUSTER_TOKEN", token)
        monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
        monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(ca))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
        configuration = client._configuration()
        assert configuration.host == "https://127.0.0.1:6443"
        assert configuration.get_api_key_with_prefix("authorization") == f"bearer {TOKEN}"
