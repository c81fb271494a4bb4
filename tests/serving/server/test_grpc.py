"""A real server, over gRPC: the same checks as REST, told in gRPC's codes."""

import json
import random
import struct
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from headway.serving.server.grpc_service import FIELDS_KEY, pb
from tests.serving.server.conftest import Running

SERVICE = "/inference.GRPCInferenceService"
Tensor = pb.ModelInferRequest.InferInputTensor
Contents = pb.InferTensorContents
CLIENTS_FAULT = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED}


class Client:
    """Calls by method name, with messages or with plain bytes."""

    def __init__(self, port: int) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    def raw(self, method: str, request: bytes, **options: Any) -> tuple[bytes, dict[str, Any]]:
        answer, call = self._channel.unary_unary(f"{SERVICE}/{method}").with_call(request, timeout=30, **options)
        return answer, dict(call.initial_metadata())

    def code(self, method: str, request: bytes) -> grpc.StatusCode:
        try:
            self.raw(method, request)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    def infer(self, **request: Any) -> Any:
        request.setdefault("model_name", "flights")
        return pb.ModelInferResponse.FromString(
            self.raw("ModelInfer", pb.ModelInferRequest(**request).SerializeToString())[0]
        )

    def fails(self, **request: Any) -> tuple[grpc.StatusCode, str, dict[str, Any]]:
        with pytest.raises(grpc.RpcError) as caught:
            self.infer(**request)
        error: Any = caught.value
        document = dict(error.trailing_metadata())[FIELDS_KEY]
        return error.code(), error.details(), json.loads(document)

    def close(self) -> None:
        self._channel.close()


@pytest.fixture(scope="module")
def client(flights: Running) -> Iterator[Client]:
    client = Client(flights.grpc_port)
    yield client
    client.close()


def distance(*values: float, **more: Any) -> Any:
    return Tensor(
        name="distance", datatype="FP64", shape=[len(values)], contents=Contents(fp64_contents=values), **more
    )


def carrier(*values: bytes) -> Any:
    return Tensor(name="carrier", datatype="BYTES", shape=[len(values)], contents=Contents(bytes_contents=values))


class TestAnswers:
    def test_predictions_equal_those_of_rest(self, client: Client, flights: Running) -> None:
        told = client.infer(id="abc", inputs=[distance(4900, 10), carrier(b"AA", b"UA")])
        with flights.client() as rest:
            rows = [{"distance": 4900, "carrier": "AA"}, {"distance": 10, "carrier": "UA"}]
            expected = rest.post("/v1/models/flights:predict", json={"instances": rows}).json()
        assert (told.id, told.model_name, told.model_version) == ("abc", "flights", "1.2.0")
        prediction, probability = told.outputs
        assert list(prediction.contents.bool_contents) == expected["predictions"] == [True, False]
        assert list(probability.contents.fp64_contents) == expected["probabilities"]
        assert (prediction.datatype, list(prediction.shape)) == ("BOOL", [2])

    def test_raw_contents_are_answered_raw(self, client: Client) -> None:
        inputs = [
            Tensor(name="distance", datatype="FP32", shape=[2, 1]),
            Tensor(name="carrier", datatype="BYTES", shape=[2]),
        ]
        texts = b"".join(struct.pack("<I", 2) + text for text in (b"AA", b"UA"))
        told = client.infer(inputs=inputs, raw_input_contents=[np.array([4900, 10], "<f4").tobytes(), texts])
        assert told.raw_output_contents[0] == b"\x01\x00"
        assert 0.5 < np.frombuffer(told.raw_output_contents[1])[0] <= 1

    def test_integers_are_numbers(self, client: Client) -> None:
        for datatype, field in (("INT32", "int_contents"), ("INT64", "int64_contents"), ("UINT64", "uint64_contents")):
            whole = Tensor(name="distance", datatype=datatype, shape=[1], contents=Contents(**{field: [4900]}))
            told = client.infer(inputs=[whole, carrier(b"AA")])
            assert list(told.outputs[0].contents.bool_contents) == [True]

    def test_the_id_of_the_metadata_and_the_variant(self, client: Client) -> None:
        request = pb.ModelInferRequest(model_name="flights", inputs=[distance(1), carrier(b"AA")])
        answer, metadata = client.raw("ModelInfer", request.SerializeToString(), metadata=[("x-request-id", "mine")])
        assert pb.ModelInferResponse.FromString(answer).id == "mine"
        assert metadata["x-variant"] == "v3"

    def test_wanted_outputs(self, client: Client) -> None:
        wanted = [pb.ModelInferRequest.InferRequestedOutputTensor(name="probability")]
        told = client.infer(inputs=[distance(1), carrier(b"AA")], outputs=wanted)
        assert [output.name for output in told.outputs] == ["probability"]

    def test_health_and_metadata(self, client: Client) -> None:
        assert pb.ServerLiveResponse.FromString(client.raw("ServerLive", b"")[0]).live
        assert pb.ServerReadyResponse.FromString(client.raw("ServerReady", b"")[0]).ready
        named = pb.ModelReadyRequest(name="flights").SerializeToString()
        assert pb.ModelReadyResponse.FromString(client.raw("ModelReady", named)[0]).ready
        told = pb.ModelMetadataResponse.FromString(client.raw("ModelMetadata", named)[0])
        assert [(item.name, item.datatype) for item in told.inputs] == [("distance", "FP64"), ("carrier", "BYTES")]
        assert list(told.versions) == ["1.2.0", "3"]
        assert pb.ServerMetadataResponse.FromString(client.raw("ServerMetadata", b"")[0]).name == "headway"


class TestRefusals:
    @pytest.mark.parametrize(
        ("request_", "words"),
        [
            ({"inputs": []}, "`inputs` is missing"),
            ({"inputs": [distance(1e9), carrier(b"AA")]}, "from 0 to 5000; got 1000000000.0"),
            ({"inputs": [distance(float("nan")), carrier(b"AA")]}, "got nan"),
            ({"inputs": [distance(1)]}, "'carrier': expected"),
            ({"inputs": [distance(1), carrier(b"\xff\xfe")]}, "no text"),
            ({"inputs": [distance(1, 2), carrier(b"AA")]}, "shape"),
            ({"inputs": [distance(1), carrier(b"AA"), distance(1)]}, "Two tensors"),
            ({"inputs": [Tensor(name="distance", datatype="FP64", shape=[1]), carrier(b"AA")]}, "number of values"),
            ({"inputs": [Tensor(name="distance", datatype="FP16", shape=[1]), carrier(b"AA")]}, "no contents field"),
            ({"inputs": [Tensor(name="distance", datatype="FP64", shape=[-5])]}, "wrong shape"),
            ({"inputs": [distance(1), carrier(b"AA")], "raw_input_contents": [b"x"]}, "raw_input_contents"),
            ({"inputs": [distance(1)], "raw_input_contents": [b"1234567"]}, "number of bytes"),
            ({"inputs": [distance(1), carrier(b"AA")], "id": "x" * 200}, "too long"),
        ],
    )
    def test_mistakes_are_invalid_arguments(self, client: Client, request_: dict[str, Any], words: str) -> None:
        code, text, document = client.fails(**request_)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert words in text
        assert set(document) == {"error", "fields"}

    def test_unknown_model_and_version(self, client: Client) -> None:
        assert client.fails(model_name="trains")[0] is grpc.StatusCode.NOT_FOUND
        assert client.fails(model_version="9")[0] is grpc.StatusCode.NOT_FOUND

    def test_the_repository_is_closed(self, client: Client) -> None:
        for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
            with pytest.raises(grpc.RpcError) as caught:
                client.raw(method, b"")
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED

    def test_many_failures_fit_into_the_metadata(self, client: Client) -> None:
        code, text, document = client.fails(inputs=[distance(*[1e9] * 500), carrier(*[b"Z" * 80] * 500)])
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "and 99 more" in text
        assert 0 < len(document["fields"]) < 100

    def test_a_message_too_large(self, client: Client) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            client.raw("ModelInfer", b"\x00" * (20 << 20))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    def test_bytes_by_the_hundred(self, client: Client, flights: Running) -> None:
        """Random bytes, and good messages with bytes changed, cut off or put in."""
        chance = random.Random(7)
        good = pb.ModelInferRequest(
            model_name="flights", inputs=[distance(1), carrier(b"AA")], raw_input_contents=[b"12345678", b"\2\0\0\0AA"]
        ).SerializeToString()
        codes: dict[str, int] = {}
        for number in range(600):
            raw = bytearray(good if number % 2 else chance.randbytes(chance.randrange(200)))
            for _ in range(chance.randrange(1, 6)):
                at = chance.randrange(len(raw) + 1)
                raw[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(4))
            code = client.code("ModelInfer", bytes(raw))
            assert code is grpc.StatusCode.OK or code in CLIENTS_FAULT, bytes(raw)
            codes[code.name] = codes.get(code.name, 0) + 1
        assert codes["INVALID_ARGUMENT"] > 300
        with flights.client() as rest:
            assert rest.get("/v2/models/flights/ready").status_code == httpx.codes.OK
