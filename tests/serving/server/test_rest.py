"""A real server, over REST: three forms, one status matrix, one shape of errors."""

import json
import struct
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.serving.server.conftest import Running

GOOD = {"distance": 1200.0, "carrier": "AA"}
LATE = {"distance": 4900.0, "carrier": "AA"}
EARLY = {"distance": 10.0, "carrier": "UA"}
INFER = "/v2/models/flights/infer"
PREDICT_V1 = "/v1/models/flights:predict"


def tensor(name: str, datatype: str, values: list[Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(values)], "data": values, **more}


def tensors(*rows: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        tensor("distance", "FP64", [row["distance"] for row in rows]),
        tensor("carrier", "BYTES", [row["carrier"] for row in rows]),
    ]


class TestForms:
    def test_the_simple_form(self, flights: Running) -> None:
        with flights.client() as client:
            answer = client.post("/predict", json={"features": LATE}, headers={"x-request-id": "mine"})
        told = answer.json()
        assert answer.status_code == 200
        assert told["prediction"] is True
        assert 0.5 < told["prediction_probability"] <= 1
        assert (told["model_version"], told["prediction_id"]) == ("1.2.0", "mine")
        assert told["processing_time_ms"] > 0
        assert answer.headers["x-variant"] == "v3"
        assert answer.headers["x-request-id"] == "mine"

    def test_a_list_is_answered_in_its_order(self, flights: Running) -> None:
        with flights.client() as client:
            told = client.post("/predict", json={"features": [LATE, EARLY, LATE], "id": "b"}).json()
        assert [row["prediction"] for row in told["predictions"]] == [True, False, True]
        assert [row["prediction_id"] for row in told["predictions"]] == ["b-0", "b-1", "b-2"]

    def test_every_prediction_has_an_id(self, flights: Running) -> None:
        with flights.client() as client:
            ids = {client.post("/predict", json={"features": GOOD}).json()["prediction_id"] for _ in range(3)}
        assert len(ids) == 3

    def test_v1_takes_objects_and_lists(self, flights: Running) -> None:
        with flights.client() as client:
            objects = client.post(PREDICT_V1, json={"instances": [LATE, EARLY]}).json()
            lists = client.post(PREDICT_V1, json={"instances": [[4900.0, "AA"], [10.0, "UA"]]}).json()
        assert objects["predictions"] == lists["predictions"] == [True, False]
        assert objects["probabilities"] == lists["probabilities"]
        assert (objects["model_name"], objects["model_version"]) == ("flights", "1.2.0")

    def test_v2_with_a_tensor_for_each_feature(self, flights: Running) -> None:
        with flights.client() as client:
            told = client.post(INFER, json={"id": "abc", "inputs": tensors(LATE, EARLY)}).json()
        assert (told["model_name"], told["model_version"], told["id"]) == ("flights", "1.2.0", "abc")
        prediction, probability = told["outputs"]
        assert prediction == {"name": "prediction", "datatype": "BOOL", "shape": [2], "data": [True, False]}
        assert (probability["name"], probability["datatype"], probability["shape"]) == ("probability", "FP64", [2])

    def test_v2_gives_the_outputs_that_are_asked_for(self, flights: Running) -> None:
        body = {"inputs": tensors(LATE), "outputs": [{"name": "probability"}]}
        with flights.client() as client:
            told = client.post("/v2/models/flights/versions/3/infer", json=body).json()
        assert [output["name"] for output in told["outputs"]] == ["probability"]

    def test_v2_in_the_binary_form_both_ways(self, flights: Running) -> None:
        distances = np.array([4900.0, 10.0]).tobytes()
        carriers = b"".join(struct.pack("<I", 2) + carrier for carrier in (b"AA", b"UA"))
        inputs = [
            {"name": "distance", "datatype": "FP64", "shape": [2, 1], "parameters": {"binary_data_size": 16}},
            {"name": "carrier", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 12}},
        ]
        head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
        with flights.client() as client:
            answer = client.post(INFER, content=head + distances + carriers, headers=headers)
            as_json = client.post(INFER, json={"inputs": tensors(LATE, EARLY)}).json()
        split = int(answer.headers["inference-header-content-length"])
        told, raw = json.loads(answer.content[:split]), answer.content[split:]
        assert [output["parameters"]["binary_data_size"] for output in told["outputs"]] == [2, 16]
        assert raw[:2] == b"\x01\x00"
        assert np.frombuffer(raw[2:]).tolist() == as_json["outputs"][1]["data"]

    def test_all_forms_agree(self, flights: Running) -> None:
        with flights.client() as client:
            simple = client.post("/predict", json={"features": GOOD}).json()["prediction_probability"]
            v1 = client.post(PREDICT_V1, json={"instances": [GOOD]}).json()["probabilities"][0]
            v2 = client.post(INFER, json={"inputs": tensors(GOOD)}).json()["outputs"][1]["data"][0]
        assert simple == v1 == v2


class TestDescription:
    def test_metadata_names_version_digest_and_schema(self, flights: Running) -> None:
        with flights.client() as client:
            told = client.get("/v2/models/flights").json()
        assert told["versions"] == ["1.2.0", "3"]
        assert told["inputs"] == [
            {"name": "distance", "datatype": "FP64", "shape": [-1]},
            {"name": "carrier", "datatype": "BYTES", "shape": [-1]},
        ]
        properties = told["properties"]
        assert (properties["version"], properties["semver"], properties["variant"]) == ("3", "1.2.0", "v3")
        assert len(properties["digest"]) == 64

    def test_info_has_the_contract_as_a_schema(self, flights: Running) -> None:
        with flights.client() as client:
            told = client.get("/model/info").json()
        assert told["schema"]["properties"]["carrier"]["enum"] == ["AA", "B6", "UA"]
        assert told["target"] == "late"
        assert told["classes"] == [False, True]

    @pytest.mark.parametrize(
        "path",
        [
            *("/health", "/v2/health/live", "/v2/health/ready", "/v2/models/flights/ready", "/v1/models/flights"),
            *("/v2", "/v2/models", "/v1/models", "/openapi.json", "/v2/models/flights/versions/1.2.0/ready"),
        ],
    )
    def test_what_can_be_read(self, flights: Running, path: str) -> None:
        with flights.client() as client:
            answer = client.get(path)
        assert answer.status_code == 200
        assert isinstance(answer.json(), dict)


def deep(levels: int) -> bytes:
    return b'{"features":' + b"[" * levels + b"]" * levels + b"}"


REFUSED: dict[str, tuple[str, bytes | dict[str, Any], int, str]] = {
    "no JSON": ("/predict", b"{", 400, "not valid JSON (line 1, column 2)"),
    "no body": ("/predict", b"", 400, "empty"),
    "not UTF-8": ("/predict", b'{"features": {"carrier": "\xff"}}', 400, "not valid JSON"),
    "NaN": ("/predict", b'{"features": {"distance": NaN, "carrier": "AA"}}', 400, "NaN and Infinity are not JSON"),
    "a number as body": ("/predict", b"3", 400, "no object"),
    "too deep": ("/predict", deep(5_000), 400, "nested too deeply"),
    "no features": ("/predict", {"feature": GOOD}, 400, "is it 'feature'?"),
    "features of text": ("/predict", {"features": "AA"}, 400, "`features` is missing"),
    "another key": ("/predict", {"features": GOOD, "extra": 1}, 400, "Unknown key"),
    "no rows": ("/predict", {"features": []}, 400, "no rows"),
    "a row of text": ("/predict", {"features": ["AA"]}, 400, "an object with a field for each feature"),
    "id of a number": ("/predict", {"features": GOOD, "id": 3}, 400, "`id`"),
    "unknown field": ("/predict", {"features": {**GOOD, "distanse": 1}}, 400, "'distanse'"),
    "missing field": ("/predict", {"features": {"distance": 1}}, 400, "'carrier': expected"),
    "text for a number": (
        "/predict",
        {"features": {**GOOD, "distance": "far"}},
        400,
        "'distance': expected a finite number",
    ),
    "out of range": ("/predict", {"features": {**GOOD, "distance": 1e6}}, 400, "from 0 to 5000"),
    "huge number": ("/predict", b'{"features": {"distance": 1' + b"0" * 400 + b', "carrier": "AA"}}', 400, ""),
    "null": ("/predict", {"features": {**GOOD, "distance": None}}, 400, "got null"),
    "unknown category": ("/predict", {"features": {**GOOD, "carrier": "ZZ"}}, 400, "'AA', 'B6', 'UA'"),
    "known only later": ("/predict", {"features": {**GOOD, "late": True}}, 400, "'late'"),
    "v1 without instances": (PREDICT_V1, {"instance": [GOOD]}, 400, "`instances` is missing"),
    "v1 of nothing": (PREDICT_V1, {"instances": []}, 400, "no rows"),
    "v1 with a short list": (PREDICT_V1, {"instances": [[1.0]]}, 400, "a list of 2 values"),
    "v1 with a mixture": (PREDICT_V1, {"instances": [[1.0, "AA"], GOOD]}, 400, "a list of 2 values"),
    "v2 without inputs": (INFER, {"input": []}, 400, "`inputs` is missing"),
    "v2 with no tensor": (INFER, {"inputs": []}, 400, "`inputs` is missing"),
    "v2 with a text": (INFER, {"inputs": ["distance"]}, 400, "no tensor"),
    "v2 without a name": (INFER, {"inputs": [{"datatype": "FP64"}]}, 400, "no name"),
    "v2 of another datatype": (INFER, {"inputs": [tensor("distance", "FP65", [1.0])]}, 400, "no known datatype"),
    "v2 without a shape": (INFER, {"inputs": [{"name": "distance", "datatype": "FP64", "data": [1]}]}, 400, "no shape"),
    "v2 without data": (INFER, {"inputs": [{"name": "distance", "datatype": "FP64", "shape": [1]}]}, 400, "no data"),
    "v2 with a wrong shape": (INFER, {"inputs": [tensor("distance", "FP64", [1.0], shape=[2])]}, 400, "another number"),
    "v2 with a huge shape": (INFER, {"inputs": [tensor("distance", "FP64", [1.0], shape=[2**62] * 8)]}, 400, "another"),
    "v2 with a negative shape": (
        INFER,
        {"inputs": [tensor("distance", "FP64", [1.0], shape=[-1])]},
        400,
        "wrong shape",
    ),
    "v2 with two of one name": (INFER, {"inputs": [tensor("distance", "FP64", [1.0])] * 2}, 400, "Two tensors"),
    "v2 of unequal lengths": (
        INFER,
        {"inputs": [*tensors(GOOD)[:1], tensor("carrier", "BYTES", ["AA", "UA"])]},
        400,
        "[1]",
    ),
    "v2 with a text as FP64": (
        INFER,
        {"inputs": [tensor("distance", "FP64", ["far"]), tensors(GOOD)[1]]},
        400,
        "distance",
    ),
    "v2 with numbers for texts": (INFER, {"inputs": [tensors(GOOD)[0], tensor("carrier", "INT64", [1])]}, 400, "BYTES"),
    "v2 with an unknown tensor": (INFER, {"inputs": [*tensors(GOOD), tensor("speed", "FP64", [1.0])]}, 400, "'speed'"),
    "v2 with a matrix": (INFER, {"inputs": [tensor("x", "FP64", [1.0, 2.0], shape=[1, 2])]}, 400, "all numbers"),
    "v2 with an unknown output": (INFER, {"inputs": tensors(GOOD), "outputs": [{"name": "x"}]}, 400, "Unknown output"),
    "unknown model": ("/v2/models/flight/infer", {"inputs": tensors(GOOD)}, 404, "did you mean 'flights'?"),
    "unknown model in v1": ("/v1/models/trains:predict", {"instances": [GOOD]}, 404, "Unknown model 'trains'"),
    "unknown version": ("/v2/models/flights/versions/4/infer", {"inputs": tensors(GOOD)}, 404, "Unknown version '4'"),
    "no explainer": ("/v1/models/flights:explain", {"instances": [GOOD]}, 404, "no explainer"),
    "repository": ("/v2/repository/models/flights/unload", {}, 403, "closed"),
    "unknown path": ("/score", {}, 404, "/score"),
}


class TestRefusals:
    @pytest.mark.parametrize("case", REFUSED)
    def test_the_status_matrix(self, flights: Running, case: str) -> None:
        path, body, status, words = REFUSED[case]
        with flights.client() as client:
            answer = client.post(path, content=body if isinstance(body, bytes) else json.dumps(body))
            again = client.post("/predict", json={"features": GOOD})
        told = answer.json()
        assert answer.status_code == status, told
        assert set(told) == {"error", "fields"}
        assert words in json.dumps(told, ensure_ascii=False), told
        assert all(
            {"field", "expected", "got"} <= set(field) <= {"field", "expected", "got", "row"}
            for field in told["fields"]
        )
        assert again.status_code == 200

    def test_a_failure_names_field_expectation_value_and_row(self, flights: Running) -> None:
        with flights.client() as client:
            told = client.post("/predict", json={"features": [GOOD, {**GOOD, "carrier": "XX"}]}).json()
        assert told["fields"] == [
            {"field": "carrier", "expected": "one of 'AA', 'B6', 'UA'", "got": "'XX'", "row": 1},
        ]

    @pytest.mark.parametrize("path", ["/predict", INFER, PREDICT_V1])
    def test_other_methods(self, flights: Running, path: str) -> None:
        with flights.client() as client:
            for method in ("GET", "PUT", "DELETE", "PATCH"):
                answer = client.request(method, path)
                assert (answer.status_code, answer.headers["allow"]) == (405, "POST"), method
                assert "not possible" in answer.json()["error"]

    def test_too_many_bytes_and_rows(self, flights: Running) -> None:
        with flights.client() as client:
            large = client.post("/predict", content=b"[" * (17 << 20))
            streamed = client.post("/predict", content=(b"[" * (1 << 20) for _ in range(17)))
            many = client.post("/predict", json={"features": [GOOD] * 10_001})
        assert [answer.status_code for answer in (large, streamed, many)] == [413, 413, 413]
        assert "10,001 rows" in many.json()["error"]

    def test_a_body_far_too_large_is_cut_off(self, flights: Running) -> None:
        with flights.client() as client:
            try:
                status = client.post("/predict", content=(b"[" * (1 << 20) for _ in range(200))).status_code
            except httpx.TransportError:
                status = 413  # the connection was closed while we wrote
            assert status == 413
            assert client.post("/predict", json={"features": GOOD}).status_code == 200

    def test_an_encoded_body(self, flights: Running) -> None:
        with flights.client() as client:
            answer = client.post("/predict", content=b"\x1f\x8b", headers={"content-encoding": "gzip"})
        assert answer.status_code == 415

    @pytest.mark.parametrize("length", ["x", "-1", "99999999", "1e3", ""])
    def test_a_wrong_header_length(self, flights: Running, length: str) -> None:
        with flights.client() as client:
            answer = client.post(INFER, content=b"{}", headers={"Inference-Header-Content-Length": length})
        assert (answer.status_code, answer.json()["fields"][0]["field"]) == (400, "Inference-Header-Content-Length")

    def test_nothing_of_this_machine_is_told(self, flights: Running) -> None:
        with flights.client() as client:
            for path, body, _, _ in REFUSED.values():
                text = client.post(path, content=body if isinstance(body, bytes) else json.dumps(body)).text
                assert "Traceback" not in text
                assert str(Path.home()) not in text
                assert ".py" not in text


class TestMetrics:
    def test_they_count_what_happened(self, flights: Running) -> None:
        before = scrape(flights)
        with flights.client() as client:
            client.post("/predict", json={"features": [LATE, EARLY]})
            client.post("/predict", json={"features": {**GOOD, "carrier": "XX", "more": 1}})
            client.post("/predict", content=b"{")
            client.get("/health")
        after = scrape(flights)
        grown = {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)}
        assert grown['headway_requests_total{code="200",model="flights",variant="v3"}'] == 1
        assert grown['headway_requests_total{code="400",model="flights",variant="v3"}'] == 2
        assert grown['headway_rejected_requests_total{model="flights",variant="v3"}'] == 1
        assert grown['headway_rejected_fields_total{field="carrier",model="flights",variant="v3"}'] == 1
        assert grown['headway_rejected_fields_total{field="<unknown>",model="flights",variant="v3"}'] == 1
        assert grown['headway_prediction_score_count{model="flights",variant="v3"}'] == 2
        assert grown['headway_request_seconds_bucket{le="+Inf",model="flights",variant="v3"}'] == 3
        assert grown['headway_batch_rows_bucket{le="2.0",model="flights",variant="v3"}'] == 1

    def test_their_buckets(self, flights: Running) -> None:
        found = scrape(flights)
        assert 'headway_request_seconds_bucket{le="0.001",model="flights",variant="v3"}' in found
        edges = [key for key in found if key.startswith("headway_prediction_score_bucket")]
        assert len(edges) == 20
        assert found['headway_ready{model="flights",variant="v3"}'] == 1


def scrape(running: Running) -> dict[str, float]:
    with running.client() as client:
        text = client.get("/metrics").text
    rows = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("headway_")]
    return {name: float(value) for name, value in rows}
