"""What the three REST forms say: a body to checked rows, and a prediction to a body.

    V2       POST /v2/models/NAME/infer      {"inputs": [{"name", "shape", "datatype", "data"}, …]}, or binary tensors
    V1       POST /v1/models/NAME:predict    {"instances": [{"field": value, …}, …]}
    simple   POST /predict                   {"features": {"field": value, …}}, or a list of such objects

A form is a class that reads one body; its object remembers what the answer depends on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, Protocol

import orjson

from headway.components.bundle import Port
from headway.components.errors import did_you_mean
from headway.serving.server.refusal import ContractRefusal, bad, too_many_rows
from headway.serving.server.rows import Checker, Rows, checked
from headway.serving.server.scoring import Scored
from headway.serving.server.tensors import (
    COLUMN_DATATYPES,
    SHOWN,
    Tensor,
    fits,
    from_json,
    from_json_and_bytes,
    to_bytes,
)

JSON = b"application/json"
OCTETS = b"application/octet-stream"
BINARY_HEADER = b"inference-header-content-length"
MAX_ID = 128
"""Characters of a request's id."""
Headers = Mapping[bytes, bytes]
_NUMPY = orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True, kw_only=True)
class Card:
    """What the forms need to know of the served model."""

    name: str
    version: str
    """What answers call its version: the semantic one, else the registry's number, else the digest's beginning."""
    checker: Checker
    kinds: Mapping[str, Any]
    """The contract's features and their column types."""
    outputs: list[Port]
    max_rows: int


@dataclass(slots=True)
class Body:
    """An answer's body."""

    content: bytes
    type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Form(Protocol):
    """One request in one of the forms."""

    rows: Rows
    id: str | None
    """The id that the body gives; None when it gives none."""

    def __init__(self, card: Card, body: bytes, headers: Headers) -> None: ...

    def answer(self, scored: Scored, id: str, seconds: float) -> Body:
        """The body with the prediction."""


class V2:
    """The Open Inference Protocol."""

    def __init__(self, card: Card, body: bytes, headers: Headers) -> None:
        self._card = card
        header = headers.get(BINARY_HEADER)
        raw: memoryview | None = None
        if header is not None:
            split = _header_length(header, len(body))
            raw, body = memoryview(body)[split:], body[:split]
        document = parse(body)
        self.id = _id(document)
        inputs = document.get("inputs")
        if not isinstance(inputs, list) or not inputs:
            raise bad("`inputs` is missing", field="inputs", expected="a list of tensors", got=_got(document, "inputs"))
        self._read_outputs(document)
        found = [from_json(item) for item in inputs] if raw is None else from_json_and_bytes(inputs, raw)
        self.rows = tensor_rows(card, found)

    def _read_outputs(self, document: dict[str, Any]) -> None:
        """Which outputs are wanted, and which of them in the binary form."""
        parameters = document.get("parameters")
        all_binary = type(parameters) is dict and parameters.get("binary_data_output") is True
        known = {port.name: port for port in self._card.outputs}
        wanted = document.get("outputs")
        if not wanted and wanted in (None, []):
            self._outputs = [(port, all_binary) for port in self._card.outputs]
            return
        self._outputs = []
        for item in wanted if isinstance(wanted, list) else [None]:
            output = item if isinstance(item, dict) else {}
            name, own = output.get("name"), output.get("parameters")
            if not isinstance(name, str) or name not in known:
                shown = repr(name[:SHOWN]) if isinstance(name, str) else "no name of an output"
                raise bad("Unknown output", field="outputs", expected=f"some of {', '.join(known)}", got=shown)
            binary = own.get("binary_data", all_binary) is True if isinstance(own, dict) else all_binary
            self._outputs.append((known[name], binary))

    def answer(self, scored: Scored, id: str, seconds: float) -> Body:
        """`outputs` with the tensors that the signature names."""
        outputs: list[dict[str, Any]] = []
        binary: list[bytes] = []
        for port, as_bytes in self._outputs:
            values = scored.labels if port.name == "prediction" else scored.probability
            if values is None:
                continue
            datatype = COLUMN_DATATYPES[port.type]
            tensor: dict[str, Any] = {"name": port.name, "datatype": datatype, "shape": [len(values)]}
            if as_bytes:
                binary.append(to_bytes(values, datatype))
                tensor["parameters"] = {"binary_data_size": len(binary[-1])}
            else:
                tensor["data"] = values.tolist() if datatype == "BYTES" else values
            outputs.append(tensor)
        card = self._card
        content = orjson.dumps(
            {"model_name": card.name, "model_version": card.version, "id": id, "outputs": outputs}, option=_NUMPY
        )
        if not binary:
            return Body(content)
        length = (BINARY_HEADER, str(len(content)).encode())
        return Body(b"".join([content, *binary]), OCTETS, (length,))


class V1:
    """KServe's and TensorFlow Serving's V1."""

    def __init__(self, card: Card, body: bytes, headers: Headers) -> None:
        self._card = card
        document = parse(body)
        self.id = _id(document)
        instances = document.get("instances")
        if not isinstance(instances, list):
            raise bad("`instances` is missing", field="instances", expected="a list", got=_got(document, "instances"))
        check_count(card, len(instances))
        if isinstance(instances[0], list):
            self.rows = checked(card.checker.lists, instances)
        elif len(instances) == 1:
            self.rows = checked(card.checker.record, instances[0])
        else:
            self.rows = checked(card.checker.records, instances)

    def answer(self, scored: Scored, id: str, seconds: float) -> Body:
        """`predictions`, one an instance, and beside them the probabilities."""
        answer: dict[str, Any] = {"predictions": scored.labels.tolist()}
        if scored.probability is not None:
            answer["probabilities"] = scored.probability
        answer |= {"model_name": self._card.name, "model_version": self._card.version, "id": id}
        return Body(orjson.dumps(answer, option=_NUMPY))


class Simple:
    """One object of features in, one prediction out."""

    _KEYS: ClassVar[frozenset[str]] = frozenset({"features", "id"})

    def __init__(self, card: Card, body: bytes, headers: Headers) -> None:
        self._card = card
        document = parse(body)
        self.id = _id(document)
        features = document.get("features")
        self._one = isinstance(features, dict)
        if not self._one and not isinstance(features, list):
            raise bad(
                f"`features` is missing{_near_key(document)}",
                field="features",
                expected="an object with a field for each feature, or a list of such objects",
                got=_got(document, "features"),
            )
        for key in document.keys() - self._KEYS:
            raise bad(
                "Unknown key beside `features`", field=key[:SHOWN], expected="only features and id", got="this key"
            )
        if isinstance(features, list):
            check_count(card, len(features))
            self.rows = checked(card.checker.records, features)
        else:
            self.rows = checked(card.checker.record, features)

    def answer(self, scored: Scored, id: str, seconds: float) -> Body:
        """The prediction, or for a list `predictions` in the same order."""
        labels = scored.labels.tolist()
        probabilities = None if scored.probability is None else scored.probability.tolist()
        ending = {
            "model_version": self._card.version,
            "prediction_id": id,
            "processing_time_ms": round(seconds * 1_000, 3),
        }
        if self._one:
            return Body(orjson.dumps({**_told(labels, probabilities, 0), **ending}))
        rows = [
            {**_told(labels, probabilities, row), "prediction_id": id if len(labels) == 1 else f"{id}-{row}"}
            for row in range(len(labels))
        ]
        return Body(orjson.dumps({"predictions": rows, **ending}))


def tensor_rows(card: Card, found: list[Tensor]) -> Rows:
    """Checked rows of decoded tensors: one for each feature, or one matrix for all of them.

    Raises:
        Refusal: They do not fit together, or break the contract.
    """
    first = found[0]
    if len(found) == 1 and _is_matrix(card, first):
        return _matrix_rows(card, first)
    columns: dict[str, Any] = {}
    count = first.shape[0]
    check_count(card, count)
    for tensor in found:
        _check_column(card, tensor, count, columns)
        columns[tensor.name] = tensor.values
    return checked(card.checker.columns, columns)


def _is_matrix(card: Card, tensor: Tensor) -> bool:
    if len(tensor.shape) != 2 or tensor.name in card.kinds:
        return False
    return card.checker.takes_matrix or tensor.shape[1] != 1


def _matrix_rows(card: Card, tensor: Tensor) -> Rows:
    count, width = tensor.shape
    check_count(card, count)
    expected = len(card.checker.names)
    if width != expected:
        wanted = f"the shape [rows, {expected}], a column for each feature in the contract's order"
        raise ContractRefusal.field(tensor.name[:SHOWN], wanted, f"the shape [{count}, {width}]")
    if tensor.datatype in ("BOOL", "BYTES"):
        raise ContractRefusal.field(tensor.name[:SHOWN], "a numeric datatype, such as FP64", tensor.datatype)
    return checked(card.checker.flat, tensor.values, count)


def _check_column(card: Card, tensor: Tensor, count: int, before: Mapping[str, Any]) -> None:
    name = tensor.name
    if name in before:
        raise bad("Two tensors have one name", field=name[:SHOWN], expected="one tensor a field", got="two")
    if tensor.shape not in ([count], [count, 1]):
        raise bad(
            f"The shape of {name[:SHOWN]!r} is wrong",
            field=name[:SHOWN],
            expected=f"[{count}] or [{count}, 1], as long as the first tensor",
            got=str(tensor.shape)[:SHOWN],
        )
    kind = card.kinds.get(name)
    if kind is not None and not fits(kind, tensor.datatype):
        wanted = f"a tensor of datatype {COLUMN_DATATYPES[kind]}, as the contract has a {kind} here"
        raise ContractRefusal.field(name[:SHOWN], wanted, tensor.datatype)


def check_count(card: Card, count: int) -> None:
    """Refuse no rows, and too many.

    Raises:
        Refusal: 400 or 413.
    """
    if count == 0:
        raise bad("The request has no rows", expected="at least one row", got="none")
    if count > card.max_rows:
        raise too_many_rows(count, card.max_rows)


def parse(body: bytes | memoryview) -> dict[str, Any]:
    """A JSON object.

    Raises:
        Refusal: The body is no JSON, nested too deeply, or no object.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        _refuse_json(bytes(body), error)
    if not isinstance(document, dict):
        raise bad("The body is no object", expected="a JSON object", got="another JSON value")
    return document


def _refuse_json(body: bytes, error: orjson.JSONDecodeError) -> NoReturn:
    if not body:
        raise bad("The body is empty", expected="a JSON object", got="nothing")
    if "depth" in error.msg or "recursion" in error.msg.lower():
        raise bad("The body is nested too deeply", expected="a flat JSON object", got="more than 1,000 levels")
    where = f"line {error.lineno}, column {error.colno}"
    hint = "; NaN and Infinity are not JSON" if b"NaN" in body or b"Infinity" in body else ""
    raise bad(f"The body is not valid JSON ({where}{hint})", expected="a JSON object", got="something else")


def _id(document: dict[str, Any]) -> str | None:
    given = document.get("id")
    if given is None or given == "":
        return None
    if not isinstance(given, str) or len(given) > MAX_ID:
        raise bad("`id` is no short text", field="id", expected=f"a text of at most {MAX_ID} characters", got="other")
    return given


def _header_length(header: bytes, size: int) -> int:
    if header.isdigit() and len(header) <= 12 and int(header) <= size:
        return int(header)
    raise bad(
        "The header Inference-Header-Content-Length is wrong",
        field="Inference-Header-Content-Length",
        expected=f"how many of the body's {size:,} bytes are JSON",
        got=repr(header[:40].decode("latin-1")),
    )


def _near_key(document: dict[str, Any]) -> str:
    unknown = next(iter(document), "")
    return did_you_mean("features", [unknown[:SHOWN]]) and f" - is it {unknown[:SHOWN]!r}?"


def _told(labels: list[Any], probabilities: list[float] | None, row: int) -> dict[str, Any]:
    told: dict[str, Any] = {"prediction": labels[row]}
    if probabilities is not None:
        told["prediction_probability"] = probabilities[row]
    return told


def _got(document: dict[str, Any], key: str) -> str:
    if key not in document:
        return "nothing: the key is missing"
    return "an empty list" if document[key] == [] else "something else"
