"""V2 over gRPC: the same checks, answers, counts and log as REST.

kserve's own servicer is not used: grpc answers INTERNAL for bytes that are no message, and kserve for most mistakes of
a client. Here every method gets the bytes as they came, and whoever sent nonsense is told INVALID_ARGUMENT.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import numpy as np
import orjson
from google.protobuf.message import DecodeError, Message

from headway.serving.server.answers import Answering, usable
from headway.serving.server.exchange import MAX_ID, tensor_rows
from headway.serving.server.imports import kserve_imports
from headway.serving.server.logs import LOGGER
from headway.serving.server.model import HeadwayModel
from headway.serving.server.refusal import Refusal, bad
from headway.serving.server.scoring import Scored
from headway.serving.server.tensors import (
    COLUMN_DATATYPES,
    SHOWN,
    Tensor,
    check_head,
    from_bytes,
    from_values,
    texts_of,
    to_bytes,
)

with kserve_imports():
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

SERVICE = "inference.GRPCInferenceService"
FIELDS_KEY = "headway-error-bin"
"""The trailing metadata that carries the JSON document of a refusal."""
_OVERHEAD = 1 << 16
"""What names and framing may add to the largest body."""
_MAX_METADATA = 4_096
"""Bytes of that document: gRPC refuses answers whose metadata has more than 8 KiB."""
_MAX_SENTENCE = 500
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_CONTENTS: dict[str, tuple[str, Any]] = {
    "BOOL": ("bool_contents", np.bool_),
    "UINT8": ("uint_contents", np.int64),
    "UINT16": ("uint_contents", np.int64),
    "UINT32": ("uint_contents", np.int64),
    "UINT64": ("uint64_contents", np.uint64),
    "INT8": ("int_contents", np.int64),
    "INT16": ("int_contents", np.int64),
    "INT32": ("int_contents", np.int64),
    "INT64": ("int64_contents", np.int64),
    "FP32": ("fp32_contents", np.float32),
    "FP64": ("fp64_contents", np.float64),
    "BYTES": ("bytes_contents", object),
}
"""Where the values of each datatype stand, and as what; FP16 has only the raw form."""

Context = Any
Method = Callable[[Any, Context], Awaitable[Message]]


def make_server(model: HeadwayModel) -> Any:
    """A gRPC server of one model; it does not listen yet."""
    largest = model.settings.max_body + _OVERHEAD
    options = [("grpc.max_receive_message_length", largest), ("grpc.max_send_message_length", largest)]
    # Two servers at one port would share its requests unseen.
    server = grpc.aio.server(options=[*options, ("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((_handlers(Service(model)),))
    return server


class Service:
    """The methods of the Open Inference Protocol."""

    def __init__(self, model: HeadwayModel) -> None:
        self._model = model

    async def server_live(self, request: Any, context: Context) -> Message:
        """The process runs."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: Any, context: Context) -> Message:
        """The model answers."""
        return pb.ServerReadyResponse(ready=self._model.ready)

    async def server_metadata(self, request: Any, context: Context) -> Message:
        """Who serves."""
        from importlib.metadata import version

        return pb.ServerMetadataResponse(name="headway", version=version("headway"))

    async def model_ready(self, request: Any, context: Context) -> Message:
        """Whether a model answers."""
        if self._model.answers:
            self._model.require(request.name, request.version)
        return pb.ModelReadyResponse(ready=self._model.ready)

    async def model_metadata(self, request: Any, context: Context) -> Message:
        """What a model takes and gives."""
        self._model.require(request.name, request.version)
        told = self._model.metadata()
        return pb.ModelMetadataResponse(
            **{key: told[key] for key in ("name", "versions", "platform", "inputs", "outputs")}
        )

    async def closed(self, request: Any, context: Context) -> Message:
        """Loading and unloading of models."""
        raise Refusal(403, "The model repository is closed: this server serves one bundle")

    async def infer(self, request: Any, context: Context) -> Message:
        """Predict."""
        model = self._model
        model.require(request.model_name, request.model_version)
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        answering = Answering(
            model, id=_header(metadata, "x-request-id"), user=_header(metadata, "x-user-id"), host=None
        )
        try:
            await context.send_initial_metadata((("x-variant", model.settings.variant_name),))
            model.admit()
            answering.id = _own_id(request) or answering.id
            answering.rows = tensor_rows(model.card, _tensors(request))
            wanted = _wanted(request, [port.name for port in model.card.outputs])
            answering.scored = await model.score(answering.rows)
            return self._response(request, answering, wanted)
        except Refusal as refusal:
            answering.refusal, answering.code = refusal, refusal.status
            raise
        except Exception:
            answering.code = 500
            LOGGER.exception("a request failed", extra={"fields": {"request_id": answering.id}})
            raise Refusal(500, f"The server failed; its log has the request {answering.id}") from None
        finally:
            answering.finish()

    def _response(self, request: Any, answering: Answering, wanted: list[str]) -> Message:
        card = self._model.card
        response = pb.ModelInferResponse(model_name=card.name, model_version=card.version, id=answering.id)
        scored: Scored = answering.scored  # type: ignore[assignment]
        kinds = {port.name: COLUMN_DATATYPES[port.type] for port in card.outputs}
        for name in wanted:
            values = scored.labels if name == "prediction" else scored.probability
            if values is None:
                continue
            datatype = kinds[name]
            output = response.outputs.add(name=name, datatype=datatype, shape=[len(values)])
            if request.raw_input_contents:
                # An answer in the form of the question.
                response.raw_output_contents.append(to_bytes(values, datatype))
                continue
            plain = [str(value).encode() for value in values] if datatype == "BYTES" else values.tolist()
            getattr(output.contents, _CONTENTS[datatype][0]).extend(plain)
        return response


def _tensors(request: Any) -> list[Tensor]:
    """The tensors of a request.

    Raises:
        Refusal: One of them is wrong.
    """
    raw = request.raw_input_contents
    if not request.inputs:
        raise bad("`inputs` is missing", field="inputs", expected="tensors", got="nothing")
    if raw and len(raw) != len(request.inputs):
        expected, got = f"{len(request.inputs)}, one for each input", str(len(raw))
        raise bad("Wrong number of raw_input_contents", field="raw_input_contents", expected=expected, got=got)
    found: list[Tensor] = []
    for place, given in enumerate(request.inputs):
        shape = list(given.shape)
        check_head(given.name, given.datatype, shape)
        if raw:
            found.append(from_bytes(given.name, given.datatype, shape, memoryview(raw[place])))
        else:
            found.append(from_values(given.name, given.datatype, shape, _contents(given)))
    return found


def _contents(given: Any) -> Any:
    name, datatype = given.name, given.datatype
    if datatype not in _CONTENTS:
        expected = "its bytes in raw_input_contents"
        raise bad(f"{datatype} has no contents field", field=name[:SHOWN], expected=expected, got="contents")
    field, dtype = _CONTENTS[datatype]
    values = getattr(given.contents, field)
    return texts_of(name, values) if datatype == "BYTES" else np.array(values, dtype)


def _wanted(request: Any, known: list[str]) -> list[str]:
    names = [output.name for output in request.outputs]
    for name in names:
        if name not in known:
            raise bad("Unknown output", field="outputs", expected=f"some of {', '.join(known)}", got=repr(name[:SHOWN]))
    return names or known


def _own_id(request: Any) -> str:
    if len(request.id) > MAX_ID:
        raise bad("`id` is too long", field="id", expected=f"at most {MAX_ID} characters", got=f"{len(request.id):,}")
    return str(request.id)


def _header(metadata: dict[str, str], name: str) -> str | None:
    value = metadata.get(name)
    return None if value is None else usable(value.encode("latin-1", "replace"))


def _document(refusal: Refusal) -> bytes:
    """The refusal's document with as many fields as gRPC's metadata, which is bounded, has room for."""
    fields = refusal.fields
    while len(found := orjson.dumps({"error": refusal.error[:_MAX_SENTENCE], "fields": fields})) > _MAX_METADATA:
        fields = fields[: len(fields) // 2]
    return found


def _handlers(service: Service) -> Any:
    methods: dict[str, tuple[Any, Method]] = {
        "ServerLive": (pb.ServerLiveRequest, service.server_live),
        "ServerReady": (pb.ServerReadyRequest, service.server_ready),
        "ServerMetadata": (pb.ServerMetadataRequest, service.server_metadata),
        "ModelReady": (pb.ModelReadyRequest, service.model_ready),
        "ModelMetadata": (pb.ModelMetadataRequest, service.model_metadata),
        "ModelInfer": (pb.ModelInferRequest, service.infer),
        "RepositoryModelLoad": (pb.RepositoryModelLoadRequest, service.closed),
        "RepositoryModelUnload": (pb.RepositoryModelUnloadRequest, service.closed),
    }
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            name: grpc.unary_unary_rpc_method_handler(
                _tolerant(kind, method), response_serializer=lambda message: message.SerializeToString()
            )
            for name, (kind, method) in methods.items()
        },
    )


def _tolerant(kind: Any, method: Method) -> Callable[[bytes, Context], Awaitable[Message]]:
    """A method that takes any bytes, and whose refusals become statuses."""

    async def call(raw: bytes, context: Context) -> Message:
        try:
            try:
                request = kind.FromString(raw)
            except DecodeError:
                raise bad(
                    f"The bytes are no {kind.__name__}", expected="a protobuf message", got="other bytes"
                ) from None
            return await method(request, context)
        except Refusal as refusal:
            context.set_trailing_metadata(((FIELDS_KEY, _document(refusal)),))
            await context.abort(_CODES.get(refusal.status, grpc.StatusCode.UNKNOWN), refusal.error[:_MAX_SENTENCE])
            raise AssertionError("abort raises") from None

    return call
