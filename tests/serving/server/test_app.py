"""The application in this process: limits, faults, cache, mirrored requests, and what reaches metrics and log."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI

from headway.serving.server.app import App
from headway.serving.server.model import HeadwayModel
from headway.serving.server.settings import ServerSettings
from tests.serving.server.conftest import Sign

GOOD = {"distance": 1200.0, "carrier": "AA"}
Answer = tuple[int, dict[str, str], Any]


class Server:
    """An application and its model, called without a network."""

    def __init__(self, **settings: Any) -> None:
        self.model = HeadwayModel(ServerSettings(**settings))
        self.app = App(self.model, FastAPI())

    def load(self) -> "Server":
        assert self.model.load(), self.model.reason
        return self

    async def ask(
        self, path: str, body: Any = None, *, method: str = "POST", pieces: list[Any] | None = None, **headers: str
    ) -> Answer:
        """Send one request; `pieces` are what the client sends, one after the other, or seconds that it waits."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = list(pieces) if pieces is not None else [content]
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            while given:
                piece = given.pop(0)
                if isinstance(piece, bytes):
                    return {"type": "http.request", "body": piece, "more_body": bool(given)}
                await asyncio.sleep(piece)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        encoded = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "path": path, "method": method, "headers": encoded, "query_string": b""}
        await self.app(scope | {"root_path": "", "raw_path": path.encode(), "scheme": "http"}, receive, send)
        if not sent:
            return 0, {}, None
        start, *rest = sent
        told = {name.decode(): value.decode() for name, value in start["headers"]}
        return start["status"], told, json.loads(b"".join(message.get("body", b"") for message in rest))

    def asks(self, *arguments: Any, **options: Any) -> Answer:
        return asyncio.run(self.ask(*arguments, **options))


@pytest.fixture
def bundle(make_bundle: Callable[..., Path], signed: Sign, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADWAY_HOME", str(home))
    return signed(make_bundle())


@pytest.fixture
def serve(bundle: Path) -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(**settings: Any) -> Server:
        made.append(Server(bundle=bundle, **settings).load())
        return made[-1]

    yield make
    for server in made:
        server.model.close()


def slow(server: Server, seconds: float) -> None:
    """Make every model call take that long, off the loop."""
    import time

    scorer = server.model.calls._scorer
    score = scorer.score

    def slowly(numbers: Any, texts: Any) -> Any:
        time.sleep(seconds)
        return score(numbers, texts)

    scorer.score = slowly  # type: ignore[method-assign]
    server.model.calls._seconds = [float("inf")] * len(server.model.calls._seconds)


class TestLimits:
    def test_busy_is_503_with_a_time_to_come_again(self, serve: Callable[..., Server]) -> None:
        server = serve(max_requests=2)
        slow(server, 0.2)

        async def ask() -> list[Answer]:
            return await asyncio.gather(*[server.ask("/predict", {"features": GOOD}) for _ in range(5)])

        answers = asyncio.run(ask())
        assert sorted(status for status, _, _ in answers) == [200, 200, 503, 503, 503]
        assert all(headers["retry-after"] == "1" for status, headers, _ in answers if status == 503)
        assert server.model.in_work == 0
        assert server.asks("/predict", {"features": GOOD})[0] == 200

    def test_too_slow_is_504(self, serve: Callable[..., Server]) -> None:
        server = serve(timeout=0.05)
        slow(server, 0.2)
        status, _, told = server.asks("/predict", {"features": GOOD})
        assert (status, told["error"]) == (504, "No prediction within 0.05 s")

    def test_a_body_that_does_not_come_is_408(self, serve: Callable[..., Server]) -> None:
        server = serve(timeout=0.05)
        for pieces in ([0.2], [b'{"features', 0.2, b'":']):
            status, headers, told = server.asks("/predict", pieces=pieces)
            assert (status, headers["connection"]) == (408, "close")
            assert "did not come" in told["error"]

    def test_a_body_in_pieces_is_one_body(self, serve: Callable[..., Server]) -> None:
        content = json.dumps({"features": GOOD}).encode()
        pieces: list[Any] = [content[:5], 0.001, content[5:9], content[9:]]
        assert serve().asks("/predict", pieces=pieces)[0] == 200

    def test_a_client_that_leaves_is_no_request(self, serve: Callable[..., Server]) -> None:
        server = serve()
        assert server.asks("/predict", pieces=[])[0] == 0
        assert server.asks("/predict", pieces=[b"{", 0.0])[0] == 0
        assert server.model.metrics.requests == {}
        assert server.model.in_work == 0

    def test_too_large_in_one_piece_and_in_many(self, serve: Callable[..., Server]) -> None:
        server = serve(max_body=100)
        assert server.asks("/predict", b"x" * 101)[0] == 413
        assert server.asks("/predict", pieces=[b"x" * 60, b"x" * 60])[0] == 413
        status, headers, _ = server.asks("/predict", pieces=[b"x" * 60] * 20)
        assert (status, headers["connection"]) == (413, "close")

    def test_too_many_rows_in_every_form(self, serve: Callable[..., Server]) -> None:
        server = serve(max_rows=2)
        tensor = {"name": "distance", "datatype": "FP64", "shape": [3], "data": [1, 2, 3]}
        for path, body in (
            ("/predict", {"features": [GOOD] * 3}),
            ("/v1/models/flights:predict", {"instances": [GOOD] * 3}),
            ("/v2/models/flights/infer", {"inputs": [tensor]}),
        ):
            status, _, told = server.asks(path, body)
            assert (status, told["error"]) == (413, "3 rows in one request; at most 2 are taken"), path


class TestFaults:
    def test_a_fault_of_ours_tells_an_id_and_nothing_else(
        self, serve: Callable[..., Server], caplog: pytest.LogCaptureFixture
    ) -> None:
        server = serve()

        def broken(*arguments: Any) -> Any:
            raise RuntimeError("/secret/path.py")

        server.model.calls._scorer.score = broken  # type: ignore[method-assign]
        status, headers, told = server.asks("/predict", {"features": GOOD}, x_request_id="abc")
        assert status == 500
        assert told == {"error": "The server failed; its log has the request abc", "fields": []}
        assert headers["x-request-id"] == "abc"
        assert "/secret/path.py" in caplog.text
        assert server.model.metrics.requests == {500: 1}

    def test_a_route_that_fails_tells_nothing(
        self, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = serve()
        monkeypatch.setattr(server.model, "info", lambda: 1 / 0)

        async def ask() -> list[Any]:
            sent: list[Any] = []

            async def send(message: Any) -> None:
                sent.append(message)

            scope = {"type": "http", "path": "/model/info", "method": "GET", "headers": [], "query_string": b""}
            with pytest.raises(ZeroDivisionError):  # for the listener's log, after the answer
                await server.app(scope | {"root_path": ""}, send, send)  # type: ignore[arg-type]
            return sent

        start, body = asyncio.run(ask())
        assert start["status"] == 500
        assert json.loads(body["body"]) == {"error": "The server failed; its log has more", "fields": []}


class TestReadiness:
    def test_before_the_model_is_there(self, bundle: Path) -> None:
        server = Server(bundle=bundle, name="flights")
        for path in ("/predict", "/v1/models/flights:predict", "/v2/models/flights/infer"):
            status, headers, told = server.asks(path, {})
            assert (status, headers["retry-after"]) == (503, "1"), path
            assert told["error"] == "Not ready: the model is being loaded"
        for path in ("/health", "/v2/health/ready", "/v2/models/flights/ready", "/model/info", "/openapi.json"):
            assert server.asks(path, method="GET")[0] == 503, path

    def test_the_first_request_after_it_became_ready(self, bundle: Path) -> None:
        server = Server(bundle=bundle)
        assert server.asks("/predict", {"features": GOOD})[0] == 503
        assert server.model.load()
        assert server.asks("/predict", {"features": GOOD})[0] == 200

    def test_on_its_way_out_it_answers_but_is_not_ready(self, serve: Callable[..., Server]) -> None:
        server = serve()
        server.model.drain()
        status, headers, _ = server.asks("/predict", {"features": GOOD})
        assert (status, headers["connection"]) == (200, "close")
        assert server.asks("/v2/models/flights/ready", method="GET")[0] == 503
        assert server.asks("/health", method="GET")[2] == {
            "status": "draining",
            "reason": "the server is about to stop",
        }

    def test_a_bad_bundle_is_named_without_its_path(self, tmp_path: Path, home: Path) -> None:
        server = Server(bundle=tmp_path / "nowhere", name="flights")
        assert not server.model.load()
        status, _, told = server.asks("/health", method="GET")
        assert (status, told["status"]) == (503, "failed")
        assert told["reason"] == "HW700: the bundle: no such folder (expected a bundle folder that `train` wrote)"

    def test_another_digest_is_refused(self, bundle: Path) -> None:
        server = Server(bundle=bundle, digest="0" * 64)
        assert not server.model.load()
        assert "digest" in server.model.reason
        assert server.asks("/v2/models/flights/ready", method="GET")[0] == 503

    def test_an_unsigned_bundle_is_refused(self, make_bundle: Callable[..., Path], bundle: Path) -> None:
        server = Server(bundle=make_bundle())
        assert not server.model.load()
        assert "bundle.sig" in server.model.reason

    def test_masking_a_field_that_is_none(self, bundle: Path) -> None:
        server = Server(bundle=bundle, mask=["distanse"])
        assert not server.model.load()
        assert "did you mean 'distance'" in server.model.reason


class TestCache:
    def test_equal_requests_are_answered_alike_without_the_model(self, serve: Callable[..., Server]) -> None:
        server = serve(cache=2)
        first = server.asks("/predict", {"features": {"distance": 1200, "carrier": "AA"}})[2]
        calls = sum(server.model.metrics.batch_rows.counts)
        again = server.asks("/predict", {"features": GOOD})[2]
        assert again["prediction_probability"] == first["prediction_probability"]
        assert again["prediction_id"] != first["prediction_id"]
        assert sum(server.model.metrics.batch_rows.counts) == calls
        assert server.model.metrics.cache == {"hit": 1, "miss": 1}

    def test_the_one_asked_for_longest_ago_leaves(self, serve: Callable[..., Server]) -> None:
        server = serve(cache=2)
        for distance in (1, 2, 1, 3, 1, 2):
            server.asks("/predict", {"features": {**GOOD, "distance": distance}})
        assert server.model.metrics.cache == {"hit": 2, "miss": 4}

    def test_batches_and_refused_requests_stay_out(self, serve: Callable[..., Server]) -> None:
        server = serve(cache=2)
        server.asks("/predict", {"features": [GOOD, GOOD]})
        server.asks("/predict", {"features": {}})
        assert server.model.metrics.cache == {"hit": 0, "miss": 0}


class TestPayloads:
    @pytest.fixture
    def entries(self, serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        self.server = serve(payload_log=tmp_path / "payloads")
        found: list[Any] = []
        monkeypatch.setattr(self.server.model.payloads, "put", found.append)
        return found

    def test_who_asked_and_what_was_answered(self, entries: list[Any]) -> None:
        asked = {"features": GOOD, "id": "body"}
        told = self.server.asks("/predict", asked, x_request_id="header", x_user_id="ann", host="a")[2]
        row = json.loads(entries[0])
        assert len(entries) == 1
        assert (row["id"], row["user"], row["mirrored"], row["code"]) == ("body", "ann", False, 200)
        assert row["prediction"] == json.dumps(told["prediction"])
        assert row["score"] == row["probability"] == told["prediction_probability"]
        assert json.loads(row["features"]) == GOOD
        assert row["latency_ms"] > 0

    @pytest.mark.parametrize(
        ("host", "mirrored"),
        [
            ("api-shadow", True),
            ("api-shadow:8080", True),
            ("api:8080", False),
            ("api-shadow.com", False),
            ("shadow", False),
        ],
    )
    def test_mirrored_requests_are_told_by_their_host(self, entries: list[Any], host: str, mirrored: bool) -> None:
        self.server.asks("/predict", {"features": GOOD}, host=host)
        assert json.loads(entries[0])["mirrored"] is mirrored

    def test_refused_requests_have_no_features(self, entries: list[Any]) -> None:
        self.server.asks("/predict", {"features": {"distance": "x"}}, x_request_id="r")
        row = json.loads(entries[0])
        assert (len(entries), row["id"], row["code"]) == (1, "r", 400)
        assert [row[name] for name in ("prediction", "score", "probability", "features")] == [None] * 4

    def test_an_id_that_could_break_a_header_is_not_one(self, entries: list[Any]) -> None:
        for bad in ("x\r\ny", "é", "x" * 200, ""):
            _, headers, _ = self.server.asks("/predict", {"features": GOOD}, x_request_id=bad)
            assert headers["x-request-id"] not in ("", bad)
        _, headers, told = self.server.asks("/predict", {"features": GOOD, "id": "zwölf\n"})
        assert told["prediction_id"] == "zwölf\n"
        assert "x-request-id" not in headers


class TestModels:
    def test_regression_has_values_and_no_probability(
        self, make_bundle: Callable[..., Path], signed: Sign, bundle: Path
    ) -> None:
        contract = {
            "name": "speeds",
            "target": "speed",
            "columns": {"distance": {"type": "number"}, "carrier": {"type": "string"}, "speed": {"type": "number"}},
        }
        path = signed(make_bundle(contract=contract, estimator="ridge", name="speeds"))
        server = Server(bundle=path, score_edges=[350.0, 450.0]).load()
        told = server.asks("/predict", {"features": GOOD})[2]
        assert 300 < told["prediction"] < 500
        assert "prediction_probability" not in told
        inputs = [
            {"name": "distance", "datatype": "FP64", "shape": [1], "data": [1200.0]},
            {"name": "carrier", "datatype": "BYTES", "shape": [1], "data": ["AA"]},
        ]
        outputs = server.asks("/v2/models/speeds/infer", {"inputs": inputs})[2]["outputs"]
        assert [output["name"] for output in outputs] == ["prediction"]
        assert server.model.metrics.scores.counts == [0, 2, 0]

    def test_kserves_own_data_plane_gets_the_same_answers(self, serve: Callable[..., Server]) -> None:
        from kserve import InferInput, InferRequest
        from kserve.errors import InvalidInput

        server = serve(version=3)
        expected = server.asks("/predict", {"features": GOOD})[2]
        distance = InferInput("distance", [1], "FP64")
        distance.set_data_from_numpy(np.array([1200.0]), binary_data=False)
        request = InferRequest("flights", [distance, InferInput("carrier", [1], "BYTES", ["AA"])], request_id="k")

        async def ask() -> None:
            headers: dict[str, str] = {}
            found = await server.model.predict(request, None, headers)
            assert found.id == "k"
            assert found.outputs[1].data == [expected["prediction_probability"]]
            assert headers == {"x-variant": "v3"}
            v1 = await server.model.predict({"instances": [GOOD]})
            assert v1 == {"predictions": [expected["prediction"]]}
            with pytest.raises(InvalidInput, match="carrier"):
                await server.model.predict({"instances": [{"distance": 1}]})

        asyncio.run(ask())
