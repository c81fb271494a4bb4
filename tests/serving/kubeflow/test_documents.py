"""What is rendered: equal to the golden files, allowed by the CRDs, and safe."""

import itertools

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from headway.components.errors import ReleaseError
from headway.components.kubernetes.kinds import KINDS
from headway.serving.inference_service import as_yaml, predictor, require_readable, serving_runtime, variant_of
from headway.serving.kubeflow.routing import http_route, variant_route
from headway.serving.platform import TOTAL_WEIGHT, Route, Share, Variant
from tests.components.kubernetes import schemas
from tests.serving.kubeflow import golden
from tests.serving.kubeflow.worlds import variant

DOCUMENTS = golden.documents()


class TestGolden:
    @pytest.mark.parametrize("name", DOCUMENTS)
    def test_documents_are_those_of_the_golden_file(self, name: str) -> None:
        text = (golden.FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
        assert list(yaml.safe_load_all(text)) == DOCUMENTS[name]

    def test_no_golden_file_is_left_over(self) -> None:
        assert {path.stem for path in golden.FOLDER.iterdir()} == set(DOCUMENTS)

    @pytest.mark.parametrize("name", DOCUMENTS)
    def test_the_cluster_would_take_them(self, name: str) -> None:
        assert {problem for document in DOCUMENTS[name] for problem in schemas.problems(document)} == set()

    def test_the_check_itself_sees_unknown_missing_and_mistyped_fields(self) -> None:
        document = yaml.safe_load(as_yaml(DOCUMENTS["canary"]))
        assert schemas.problems(document) == []
        document["spec"]["canary"][0]["trafficPercent"] = "25"
        document["spec"]["predictor"]["model"]["storageUrl"] = "s3://models"
        del document["spec"]["canary"][0]["predictor"]["model"]["name"]
        assert len(schemas.problems(document)) == 3

    def test_kinds_are_where_their_definitions_say(self) -> None:
        for kind, definition in schemas.definitions().items():
            spec, resource = definition["spec"], KINDS[kind]
            assert (spec["group"], spec["names"]["plural"]) == (resource.group, resource.plural)
            assert spec["versions"][0]["name"] == resource.version
            assert (spec["scope"] == "Namespaced") is resource.namespaced

    def test_a_file_has_no_aliases(self) -> None:
        assert "&id" not in as_yaml(DOCUMENTS["gateway"])


class TestSafety:
    def test_a_pod_may_do_nothing_that_serving_does_not_need(self) -> None:
        container = serving_runtime(golden.SETTINGS)["spec"]["containers"][0]
        context = container["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True
        assert context["runAsNonRoot"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")} == {"/tmp"}
        assert container["resources"]["limits"]
        body = predictor("flights", variant(1), golden.SETTINGS, standard=True)
        assert body["automountServiceAccountToken"] is False
        assert body["securityContext"]["runAsNonRoot"] is True

    def test_a_pod_is_ready_when_its_model_is(self) -> None:
        body = predictor("late-flights", variant(1), golden.SETTINGS, standard=True)
        assert body["model"]["readinessProbe"]["httpGet"]["path"] == "/v2/models/late-flights/ready"
        assert body["model"]["startupProbe"]["httpGet"] == body["model"]["readinessProbe"]["httpGet"]

    def test_a_pod_outlives_its_drain(self) -> None:
        body = predictor("flights", variant(1), golden.SETTINGS, standard=True)
        drain = body["model"]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert body["terminationGracePeriodSeconds"] > drain

    def test_knative_gets_only_what_its_pods_may_have(self) -> None:
        body = predictor("flights", variant(1), golden.SETTINGS, standard=False)
        refused = {"topologySpreadConstraints", "securityContext", "terminationGracePeriodSeconds"}
        assert refused & set(body) == set()
        assert {"lifecycle", "startupProbe"} & set(body["model"]) == set()

    def test_a_variant_is_reached_through_its_endpoint_only(self) -> None:
        services = [each for each in DOCUMENTS["gateway"] if each["kind"] == "InferenceService"]
        assert [each["metadata"]["labels"]["networking.kserve.io/visibility"] for each in services] == [
            "cluster-local",
            "cluster-local",
        ]

    def test_the_payload_logger_is_told_the_variant(self) -> None:
        body = predictor("flights", variant(2), golden.LOGGED, standard=True)
        assert body["labels"]["endpoint"] == "v2"
        assert "logger" not in predictor("flights", variant(2), golden.SETTINGS, standard=True)


class TestVariants:
    @given(
        st.builds(
            Variant,
            name=st.from_regex(r"\A[a-z]([a-z0-9-]{0,30}[a-z0-9])?\Z"),
            model=st.text(min_size=1, max_size=40),
            version=st.integers(1, 10**6),
            digest=st.from_regex(r"\A[0-9a-f]{64}\Z"),
            storage_uri=st.sampled_from(["s3://bucket/a b", "pvc://claim/x", "oci://registry/x:1"]),
            score_edges=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=5),
        )
    )
    def test_a_variant_is_read_back_as_it_was(self, wanted: Variant) -> None:
        document = yaml.safe_load(as_yaml([predictor("flights", wanted, golden.SETTINGS, standard=True)]))
        assert variant_of(document) == wanted

    @pytest.mark.parametrize(
        "place", ["file:///home/me/mlruns/1", "/home/me/1", "mlflow-artifacts:/1/artifacts", "models:/m-1", "runs:/1/m"]
    )
    def test_what_no_cluster_can_read_is_refused(self, place: str) -> None:
        with pytest.raises(ReleaseError, match="no cluster can read") as refusal:
            require_readable(variant(1).model_copy(update={"storage_uri": place}))
        assert "HEADWAY_ARTIFACT_ROOT" in str(refusal.value)

    @pytest.mark.parametrize("place", ["s3://bucket/1", "gs://bucket/1", "pvc://claim/1", "https://a.blob.core/1"])
    def test_what_kserve_can_fetch_is_taken(self, place: str) -> None:
        require_readable(variant(1).model_copy(update={"storage_uri": place}))


class TestRoutes:
    @given(st.lists(st.integers(0, TOTAL_WEIGHT), max_size=5))
    def test_weights_keep_their_order_and_their_total(self, cuts: list[int]) -> None:
        edges = [0, *sorted(cuts), TOTAL_WEIGHT]
        weights = [high - low for low, high in itertools.pairwise(edges)]
        route = Route(salt="s", shares=[Share(variant=f"v{n}", weight=w) for n, w in enumerate(weights, 1)])
        document = http_route("flights", route, golden.SETTINGS)
        backends = document["spec"]["rules"][0]["backendRefs"]
        assert [each["weight"] for each in backends] == weights
        assert sum(each["weight"] for each in backends) == TOTAL_WEIGHT
        assert schemas.problems(document) == []

    def test_each_backend_names_its_variant_by_a_filter_of_its_own(self) -> None:
        document = http_route("flights", golden.route(9_000, 1_000), golden.SETTINGS)
        for each, name in zip(document["spec"]["rules"][0]["backendRefs"], ("v1", "v2"), strict=True):
            assert each["name"] == f"flights-{name}-predictor"
            (only,) = each["filters"]
            assert only["responseHeaderModifier"] == {"set": [{"name": "x-variant", "value": name}]}

    def test_a_request_that_names_a_variant_gets_it(self) -> None:
        document = variant_route("flights", "v2", golden.SETTINGS)
        (rule,) = document["spec"]["rules"]
        assert rule["matches"][0]["headers"] == [{"type": "Exact", "name": "x-variant", "value": "v2"}]
        assert [each["name"] for each in rule["backendRefs"]] == ["flights-v2-predictor"]
        # KServe names its own routes after the service; ours must not be in their way.
        assert document["metadata"]["name"] not in ("flights-v2", "flights-v2-predictor")

    def test_a_gone_variant_without_weight_is_no_backend(self) -> None:
        document = http_route("flights", golden.route(10_000, 0), golden.SETTINGS, existing={"v1"})
        assert [each["name"] for each in document["spec"]["rules"][0]["backendRefs"]] == ["flights-v1-predictor"]

    def test_a_shadow_gets_its_share_exactly(self) -> None:
        split = golden.route(10_000, 0, mirror="v2", mirror_weight=1)
        mirror = http_route("flights", split, golden.SETTINGS)["spec"]["rules"][0]["filters"][0]["requestMirror"]
        assert mirror["fraction"] == {"numerator": 1, "denominator": TOTAL_WEIGHT}


def test_rendering_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    heavy = ["kubernetes", "requests", "kserve", "mlflow"]
    modules = ["headway.serving.inference_service", "headway.serving.kubeflow.platform"]
    code = f"import sys, {', '.join(modules)}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
