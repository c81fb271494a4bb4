"""Malformed requests by the hundred: whatever a client sends, it is the client who made the mistake."""

import json
import random
import socket
from collections import Counter
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.serving.server.conftest import Running

# What is fuzzed lies before the model: one kind of model file is enough.
pytestmark = pytest.mark.parametrize("flights", ["onnx"], indirect=True)

PATHS = ("/predict", "/v1/models/flights:predict", "/v2/models/flights/infer")
GOOD: dict[str, Any] = {
    "/predict": {"features": [{"distance": 1.0, "carrier": "AA"}, {"distance": 2.0, "carrier": "UA"}]},
    "/v1/models/flights:predict": {
        "instances": [{"distance": 1.0, "carrier": "AA"}, {"distance": 2.0, "carrier": "UA"}]
    },
    "/v2/models/flights/infer": {
        "inputs": [
            {"name": "distance", "datatype": "FP64", "shape": [2], "data": [1.0, 2.0]},
            {"name": "carrier", "datatype": "BYTES", "shape": [2], "data": ["AA", "UA"]},
        ]
    },
}
ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**63, 2**64, 1e308, -1e308, 5e-324, "", "x" * 10_000, "\u0000", "\ud83d\ude00", [], {}, [[]]),
    *([1] * 2_000, {"a": {"b": {"c": [None]}}}, "NaN", "FP64", [2**62] * 8, [-1], [0], [1.5]),
)
CHECKS = [
    *(not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance),
    unsupported_method,
]


def mutated(chance: random.Random, value: Any, depth: int = 0) -> Any:
    """A document with one or more places changed."""
    if chance.random() < 0.12 or depth > 6:
        return chance.choice(ODD)
    if isinstance(value, dict):
        found = {key: mutated(chance, inner, depth + 1) for key, inner in value.items()}
        if chance.random() < 0.1:
            found[chance.choice(["", "x", "name", "parameters", "é" * 50])] = chance.choice(ODD)
        if found and chance.random() < 0.1:
            del found[chance.choice(list(found))]
        return found
    if isinstance(value, list):
        found_items = [mutated(chance, inner, depth + 1) for inner in value]
        return found_items * chance.choice([1, 1, 1, 0, 2])
    return value


@pytest.mark.parametrize("path", PATHS)
def test_changed_documents(flights: Running, path: str) -> None:
    chance = random.Random(path)
    codes: Counter[int] = Counter()
    with flights.client() as client:
        for _ in range(300):
            answer = client.post(path, content=json.dumps(mutated(chance, GOOD[path])).encode())
            codes[answer.status_code] += 1
            assert answer.status_code in (200, 400, 413), answer.text
            assert answer.status_code == 200 or set(answer.json()) == {"error", "fields"}
    assert codes[400] > 100


@pytest.mark.parametrize("path", PATHS)
def test_random_bytes(flights: Running, path: str) -> None:
    chance = random.Random(path)
    good = json.dumps(GOOD[path]).encode()
    with flights.client() as client:
        for number in range(200):
            raw = bytearray(good if number % 2 else chance.randbytes(chance.randrange(300)))
            for _ in range(chance.randrange(1, 5)):
                at = chance.randrange(len(raw) + 1)
                raw[at : at + chance.randrange(4)] = chance.randbytes(chance.randrange(4))
            assert client.post(path, content=bytes(raw)).status_code in (200, 400)


def test_binary_tensors_with_lying_lengths(flights: Running) -> None:
    chance = random.Random(5)
    with flights.client() as client:
        for _ in range(300):
            inputs = []
            for name, datatype in (("distance", "FP64"), ("carrier", "BYTES")):
                size = chance.choice([0, 8, 16, 12, -1, 2**40, 1.5, "8", None, chance.randrange(64)])
                shape = chance.choice([[2], [2, 1], [0], [1], [2**60, 2**60], [-2], [chance.randrange(5)]])
                spelled = chance.choice([datatype, datatype, "BOOL", "INT8", "FP16"])
                given = {"name": name, "datatype": spelled, "shape": shape}
                inputs.append(given | ({} if size is None else {"parameters": {"binary_data_size": size}}))
            head = json.dumps({"inputs": inputs}).encode()
            length = chance.choice([len(head), len(head), len(head), len(head) - 1, len(head) + 8, 0, 2**31])
            headers = {"inference-header-content-length": str(length)}
            answer = client.post(PATHS[2], content=head + chance.randbytes(chance.randrange(40)), headers=headers)
            assert answer.status_code in (200, 400), answer.text


def test_numbers_and_depths_without_end(flights: Running) -> None:
    bodies = [
        *(b"[" * depth + b"]" * depth for depth in (10, 1_000, 100_000)),
        *(b'{"features":' * depth + b"1" + b"}" * depth for depth in (10, 1_000, 100_000)),
        *(
            b'{"features":{"distance":%s,"carrier":"AA"}}' % number
            for number in (b"9" * 5_000, b"1e99999", b"-0", b"0.1e-9999")
        ),
        b'{"features":{"distance":1,"distance":"x","carrier":"AA"}}',
        b'{"features":{"distance":1,"carrier":"\\ud800"}}',
        b"\xef\xbb\xbf{}",
        b"\x00" * 1_000,
    ]
    with flights.client() as client:
        for body in bodies:
            for path in PATHS:
                assert client.post(path, content=body).status_code in (200, 400), body[:60]


def test_headers_without_end(flights: Running) -> None:
    body = json.dumps({"features": {"distance": 1.0, "carrier": "AA"}})
    with flights.client() as client:
        for headers in (
            {"x-request-id": "x" * 5_000},
            {"x-user-id": b"\xff\xe9"},
            {"content-type": "text/plain; charset=utf-16"},
            {"host": "-shadow" * 100},
            {"inference-header-content-length": "9" * 5_000},
        ):
            assert client.post("/predict", content=body, headers=headers).status_code in (200, 400)
    for request in (
        b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: -5\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", flights.port), timeout=10) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            status = connection.recv(100)
            assert status == b"" or status.startswith(b"HTTP/1.1 4"), (request[:80], status)
    assert httpx.get(f"{flights.url}/health").status_code == 200


def test_the_openapi_document_is_true(flights: Running) -> None:
    """Schemathesis calls every operation with data that fits the document, and with data that does not."""
    schema = schemathesis.openapi.from_url(f"{flights.url}/openapi.json")
    seen: Counter[str] = Counter()
    for found in schema.get_all_operations():
        for mode in schemathesis.GenerationMode:
            call_with_data(found.ok(), mode, seen)
    assert seen["POST /predict 200"] > 5
    assert seen["POST /predict 400"] > 5
    assert not [key for key in seen if key.rsplit(" ", 1)[1].startswith("5")]


def call_with_data(operation: Any, mode: schemathesis.GenerationMode, seen: Counter[str]) -> None:
    # That values are as many as a shape says is beyond a JSON Schema: V2 refuses data that fits it.
    exact = [] if operation.path.endswith("/infer") else [negative_data_rejection, positive_data_acceptance]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def call(case: Any) -> None:
        response = case.call()
        case.validate_response(response, checks=[*CHECKS, *exact])
        seen[f"{case.method} {operation.path} {response.status_code}"] += 1

    try:
        call()
    except Unsatisfiable:
        # An operation without parameters has no data that does not fit.
        assert mode is schemathesis.GenerationMode.NEGATIVE
