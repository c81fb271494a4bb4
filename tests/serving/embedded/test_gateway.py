"""What the gateway answers: whose path it is, which variant, and what it says by itself."""

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psutil
import pytest

from headway.components.errors import GatewayError
from headway.serving.embedded import routes
from headway.serving.embedded.envoy import PROGRAM
from headway.serving.embedded.lifecycle import up
from headway.serving.embedded.platform import EmbeddedPlatform
from headway.serving.embedded.state import write_atomically
from headway.serving.platform import TOTAL_WEIGHT, Variant
from tests.serving.embedded.conftest import fresh_name, program_pid, serve, split
from tests.serving.embedded.load import wait_until

VariantMaker = Callable[..., Variant]


@pytest.fixture(scope="module")
def served(shared: EmbeddedPlatform, bundles: Any) -> Iterator[str]:
    """An endpoint with two variants, half and half."""
    from tests.serving.embedded.conftest import make_variant

    name = fresh_name()
    serve(shared, name, make_variant(bundles, 1), make_variant(bundles, 2), route=split(5_000, 5_000))
    yield name
    shared.remove_endpoint(name)


@pytest.fixture
def client(shared: EmbeddedPlatform) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shared.address("").url, timeout=20) as client:
        yield client


def error_of(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == "application/json"
    return str(answer.json()["error"])


class TestPaths:
    @pytest.mark.parametrize(
        ("path", "arrives"),
        [
            ("/v2/models/NAME/infer", "/v2/models/NAME/infer"),
            ("/v2/models/NAME/versions/1/infer", "/v2/models/NAME/versions/1/infer"),
            ("/v1/models/NAME:predict", "/v1/models/NAME:predict"),
            ("/v1/models/NAME", "/v1/models/NAME"),
            ("/NAME/predict", "/predict"),
            ("/NAME/model/info", "/model/info"),
            ("/NAME/openapi.json", "/openapi.json"),
            ("/NAME/predict?x=1", "/predict?x=1"),
        ],
    )
    def test_each_form_reaches_the_server(self, client: httpx.Client, served: str, path: str, arrives: str) -> None:
        answer = client.post(path.replace("NAME", served), json={})
        assert answer.status_code == 200
        assert answer.json()["path"] == arrives.replace("NAME", served)

    def test_metadata_and_health(self, client: httpx.Client, served: str) -> None:
        assert client.get(f"/v2/models/{served}").json()["name"] == served
        assert client.get(f"/v2/models/{served}/ready").json() == {"ready": True}
        assert client.get(f"/{served}/health").json()["status"] == "ok"

    def test_the_server_speaks_for_itself(self, client: httpx.Client) -> None:
        assert client.get("/v2").json()["name"] == "headway"
        assert client.get("/v2/health/live").json() == {"live": True}
        assert client.get("/v2/health/ready").json() == {"ready": True}

    @pytest.mark.parametrize(
        "path",
        [
            "/v2/repository/index",
            "/v2/repository/models/NAME/load",
            "/v2//repository/models/NAME/unload",
            "/v2/models/../repository/index",
        ],
    )
    def test_the_repository_is_closed(self, client: httpx.Client, served: str, path: str) -> None:
        answer = client.post(path.replace("NAME", served), json={})
        assert answer.status_code == 403
        assert "repository" in error_of(answer)

    def test_no_detour_through_escaped_slashes(self, client: httpx.Client) -> None:
        assert client.post("/v2%2Frepository/index").status_code == 400

    @pytest.mark.parametrize(
        "path",
        ["/", "/metrics", "/NAME", "/NAME/", "/NAME/metrics", "/NAME/seen", "/NAMEx/predict", "/v2/models/other/infer"],
    )
    def test_nothing_else_is_there(self, client: httpx.Client, served: str, path: str) -> None:
        answer = client.get(path.replace("NAME", served))
        assert answer.status_code == 404
        assert error_of(answer) == "no such path here"


class TestVariants:
    def test_the_answer_names_its_variant(self, client: httpx.Client, served: str) -> None:
        for number in range(50):
            answer = client.post(f"/{served}/predict", json={}, headers={"x-user-id": str(number)})
            assert answer.headers["x-variant"] == answer.json()["variant"]

    def test_a_request_may_name_it(self, client: httpx.Client, served: str) -> None:
        for name in ("v1", "v2"):
            answer = client.post(f"/{served}/predict", json={}, headers={"x-variant": name, "x-user-id": "ada"})
            assert answer.json()["variant"] == answer.headers["x-variant"] == name

    def test_the_platform_does_so(self, shared: EmbeddedPlatform, served: str) -> None:
        address = shared.address(served, "v2")
        assert httpx.post(f"{address.url}/{served}/predict", headers=address.headers, json={}).json()["variant"] == "v2"

    def test_an_unknown_one_is_an_error_and_no_lottery(self, client: httpx.Client, served: str) -> None:
        answer = client.post(f"/{served}/predict", json={}, headers={"x-variant": "v9"})
        assert answer.status_code == 404
        assert error_of(answer) == f"{served} has no such variant"

    @pytest.mark.slow
    def test_an_unreachable_one_is_named_and_counted(self, own: EmbeddedPlatform, variant: VariantMaker) -> None:
        """Version 8 ends as soon as it starts: Envoy answers for it."""
        serve(own, "flights", variant(1), route=split(TOTAL_WEIGHT))
        own.ensure_variant("flights", variant(8))
        address = own.address("flights", "v8")
        answer = httpx.post(f"{address.url}/flights/predict", headers=address.headers, json={}, timeout=60)
        assert answer.status_code == 503
        assert answer.headers["x-variant"] == "v8"
        assert error_of(answer) == "the model cannot be reached now; try again"
        pattern = "cluster.flights__v8.upstream_rq_5xx"
        assert own.installation.envoy(own.installation.store.read()).stats(pattern)[pattern] == 1

    def test_a_failing_answer_is_not_asked_for_twice(
        self, client: httpx.Client, shared: EmbeddedPlatform, served: str
    ) -> None:
        cursor = shared.read(served, "v1").cursor
        answer = client.post(f"/{served}/predict", json={}, headers={"x-variant": "v1", "x-answer": "500"})
        assert answer.status_code == 500
        counts = shared.read(served, "v1", cursor).counts
        assert (counts.requests, counts.server_errors) == (1, 1)

    def test_copies_go_to_the_mirror_and_their_answers_to_nobody(
        self, shared: EmbeddedPlatform, client: httpx.Client, endpoint: str, variant: VariantMaker
    ) -> None:
        serve(shared, endpoint, variant(1), variant(2))
        shared.set_route(endpoint, split(TOTAL_WEIGHT, 0, mirror="v2", mirror_weight=5_000))
        cursor = shared.read(endpoint, "v2").cursor
        for _ in range(200):
            answer = client.post(f"/{endpoint}/predict", json={}, headers={"x-answer": "200"})
            assert answer.json()["variant"] == "v1"
            client.get(f"/v2/models/{endpoint}/ready")  # only what is asked by POST is copied
        wait_until(lambda: shared.read(endpoint, "v2", cursor).counts.requests > 60, 10, "copies are counted")
        assert shared.read(endpoint, "v2", cursor).counts.requests == pytest.approx(100, abs=40)
        seen = self.seen_by(shared, endpoint, "v2")
        assert {headers["host"] for headers in seen} == {f"{endpoint}-shadow"}

    def test_a_client_cannot_pass_for_a_copy(self, shared: EmbeddedPlatform, client: httpx.Client, served: str) -> None:
        client.post(f"/{served}/predict", json={}, headers={"host": "x-shadow", "x-variant": "v1"})
        assert self.seen_by(shared, served, "v1")[-1]["host"] == served

    def seen_by(self, platform: EmbeddedPlatform, endpoint: str, variant: str) -> list[dict[str, str]]:
        """The headers of the last requests that arrived at a server."""
        known = platform.installation.store.read().endpoint(endpoint).served(variant)
        assert known is not None
        found: list[dict[str, str]] = httpx.get(f"http://127.0.0.1:{known.ports[0]}/seen").json()
        return found


class TestRequests:
    def test_ids_are_kept_or_made(self, client: httpx.Client, served: str) -> None:
        kept = client.post(f"/{served}/predict", json={}, headers={"x-request-id": "order-4711"})
        assert kept.headers["x-request-id"] == kept.json()["id"] == "order-4711"
        uuid = "00000000-0000-4000-8000-000000000000"
        assert client.post(f"/{served}/predict", json={}, headers={"x-request-id": uuid}).json()["id"] == uuid
        made = client.post(f"/{served}/predict", json={})
        assert made.headers["x-request-id"] == made.json()["id"]
        assert len(made.json()["id"]) == 36

    def test_clients_do_not_steer_the_gateway(
        self, shared: EmbeddedPlatform, client: httpx.Client, served: str
    ) -> None:
        steering = {"x-envoy-upstream-rq-timeout-ms": "1", "x-envoy-max-retries": "0", "x-delay": "0.2"}
        assert client.post(f"/{served}/predict", json={}, headers=steering).status_code == 200

    def test_limits(self, own: EmbeddedPlatform, variant: VariantMaker) -> None:
        serve(own, "flights", variant(1), route=split(TOTAL_WEIGHT))
        limits = "request_timeout_seconds: 0.5\nmax_request_bytes: 2048\ndrain_seconds: 0\n"
        write_atomically(own.installation.layout.root / "gateway.yaml", limits)
        up(own)
        url = f"{own.address('flights').url}/flights/predict"
        assert httpx.post(url, content=b"x" * 2048).status_code == 200
        large = httpx.post(url, content=b"x" * 2049)
        assert (large.status_code, error_of(large)) == (413, "the request is too large")
        slow = httpx.post(url, json={}, headers={"x-delay": "2"})
        assert (slow.status_code, error_of(slow)) == (504, "the model took too long")
        assert slow.headers["x-variant"] == "v1"


class TestRefusedUpdates:
    def test_the_reason_is_shown_and_the_old_route_serves_on(
        self, own: EmbeddedPlatform, variant: VariantMaker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        serve(own, "flights", variant(1), variant(2), route=split(TOTAL_WEIGHT, 0))
        file = own.installation.envoy(own.installation.store.read()).file("rds")
        before = file.read_text()

        def broken(name: str, *_: object) -> dict[str, object]:
            return {"weighted_clusters": {"clusters": [{"name": "nowhere", "weight": 10_000}]}}

        monkeypatch.setattr(routes, "_split", broken)
        with pytest.raises(
            GatewayError, match="Envoy refused the new routes: route: unknown weighted cluster 'nowhere'"
        ):
            own.set_route("flights", split(0, TOTAL_WEIGHT))
        monkeypatch.undo()
        assert file.read_text() == before
        assert own.route("flights") == split(TOTAL_WEIGHT, 0)
        url = f"{own.address('flights').url}/flights/predict"
        assert {httpx.post(url, json={}).headers["x-variant"] for _ in range(20)} == {"v1"}
        own.set_route("flights", split(0, TOTAL_WEIGHT))
        assert httpx.post(url, json={}).headers["x-variant"] == "v2"

    @pytest.mark.parametrize(
        "text", ["{nope", '{"resources": [{"@type": "type.googleapis.com/nope"}]}', '{"resourcen": 1}']
    )
    def test_a_damaged_file_is_mended_by_the_next_change(
        self, shared: EmbeddedPlatform, endpoint: str, variant: VariantMaker, text: str
    ) -> None:
        serve(shared, endpoint, variant(1), variant(2), route=split(TOTAL_WEIGHT, 0))
        envoy = shared.installation.envoy(shared.installation.store.read())
        write_atomically(envoy.file("rds"), text, via=shared.installation.layout.xds / "new")
        url = f"{shared.address(endpoint).url}/{endpoint}/predict"
        assert httpx.post(url, json={}).headers["x-variant"] == "v1"
        shared.set_route(endpoint, split(0, TOTAL_WEIGHT))
        assert httpx.post(url, json={}).headers["x-variant"] == "v2"
        assert json.loads(envoy.file("rds").read_text())["version_info"]


def test_only_loopback_listens(shared: EmbeddedPlatform, served: str) -> None:
    """Gateway and servers on loopback; the admin interface on no port at all."""
    gateway = program_pid(shared, PROGRAM)
    connections = [each for each in psutil.net_connections("tcp") if each.pid == gateway]
    listening = {each.laddr for each in connections if each.status == psutil.CONN_LISTEN}
    port = shared.installation.store.read().gateway_port
    assert {tuple(address) for address in listening} == {("127.0.0.1", port)}
    state = shared.installation.store.read()
    assert state.sockets
    for name in ("envoy.sock", "supervisor.sock"):
        path = shared.installation.envoy(state).admin
        assert path is not None
        assert path.with_name(name).stat().st_mode & 0o077 == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) == 0
