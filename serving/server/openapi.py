"""The OpenAPI document of one served model: the routes that are there, with the contract as the schema of a request."""

from typing import TYPE_CHECKING, Any

from headway.components.data_validate.contract import ColumnType
from headway.components.data_validate.schema import to_json_schema
from headway.serving.server.exchange import MAX_ID
from headway.serving.server.tensors import DATATYPES

if TYPE_CHECKING:
    from headway.serving.server.model import HeadwayModel

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_LABELS: dict[ColumnType, Schema] = {
    ColumnType.BOOLEAN: {"type": "boolean"},
    ColumnType.INTEGER: {"type": "integer"},
    ColumnType.NUMBER: _NUMBER,
    ColumnType.STRING: _TEXT,
}


def document(model: "HeadwayModel") -> dict[str, Any]:
    """The document, version 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{model.name} {model.card.version}",
            "version": model.card.version,
            "description": "Every request is checked against the model's contract before the model sees it.",
        },
        "paths": _paths(model.name),
        "components": {"schemas": _schemas(model)},
    }


def _paths(name: str) -> Schema:
    bodies = {
        "/predict": ("SimpleRequest", "SimpleAnswer", "Predict for one object of features, or a list of them"),
        f"/v1/models/{name}:predict": ("V1Request", "V1Answer", "Predict in KServe's V1 form"),
        f"/v2/models/{name}/infer": ("V2Request", "V2Answer", "Predict in the Open Inference Protocol"),
    }
    reads = {
        "/health": ("Health", "Whether the model answers, and if not, why"),
        "/model/info": ("Object", "Who the model is, what it takes, what it gives"),
        "/openapi.json": ("Object", "This document"),
        "/v1/models": ("Object", "The served models"),
        f"/v1/models/{name}": ("Object", "Whether the model answers (V1)"),
        "/v2": ("Object", "Who serves"),
        "/v2/health/live": ("Object", "Whether the process answers"),
        "/v2/health/ready": ("Ready", "Whether the model answers"),
        "/v2/models": ("Object", "The served models"),
        f"/v2/models/{name}": ("Object", "Metadata: inputs, outputs, digest and version"),
        f"/v2/models/{name}/ready": ("Ready", "Whether the model answers"),
    }
    paths: Schema = {path: {"post": _post(*told)} for path, told in bodies.items()}
    paths |= {path: {"get": _get(*told)} for path, told in reads.items()}
    metrics = {"description": "Prometheus' text format", "content": {"text/plain": {"schema": _TEXT}}}
    paths["/metrics"] = {"get": {"summary": "The server's metrics", "responses": {"200": metrics}}}
    return paths


def _post(request: str, answer: str, summary: str) -> Schema:
    refusals = {
        "400": "The body cannot be read, or breaks the contract",
        "408": "The body did not come in time",
        "413": "The body is too large, or has too many rows",
        "415": "The body has a content encoding",
        "500": "The server failed",
        "503": "The model is not ready, or too many requests are in work",
        "504": "The prediction did not come in time",
    }
    return {
        "summary": summary,
        "parameters": [
            _header("x-request-id", "The prediction's id, where the body gives none"),
            _header("x-user-id", "Whose request it is"),
        ],
        "requestBody": {"required": True, "content": _json(request)},
        "responses": {
            "200": {
                "description": "The prediction",
                "headers": {"x-variant": {"description": "The variant that answered", "schema": _TEXT}},
                "content": _json(answer),
            },
            **{code: {"description": why, "content": _json("Error")} for code, why in refusals.items()},
        },
    }


def _get(answer: str, summary: str) -> Schema:
    unready = _json("Health" if answer == "Health" else "Error")
    return {
        "summary": summary,
        "responses": {
            "200": {"description": "As asked", "content": _json(answer)},
            "503": {"description": "The model is not ready", "content": unready},
        },
    }


def _schemas(model: "HeadwayModel") -> Schema:
    features = to_json_schema(model.bundle.contract)
    del features["$schema"]
    outputs = {port.name: _LABELS[port.type] for port in model.card.outputs}
    prediction, probable = outputs["prediction"], "probability" in outputs
    rows = {"minItems": 1, "maxItems": model.settings.max_rows}
    a_row = _ref("Features")
    values = _values([features["properties"][name] for name in model.card.kinds])
    identity = {"model_name": _TEXT, "model_version": _TEXT, "id": _TEXT}
    told = {"prediction": prediction} | ({"prediction_probability": _NUMBER} if probable else {})
    ending = {"model_version": _TEXT, "prediction_id": _TEXT, "processing_time_ms": _NUMBER}
    v1 = {"predictions": _list(prediction)} | ({"probabilities": _list(_NUMBER)} if probable else {})
    return {
        "Features": features,
        "SimpleRequest": _object_of(
            {"features": {"anyOf": [a_row, _list(a_row, **rows)]}, "id": _id()}, "features", closed=True
        ),
        "SimpleAnswer": {
            "anyOf": [
                _object_of(told | ending, *told, *ending),
                _object_of({"predictions": _list(_object_of(told)), **ending}, "predictions", *ending),
            ]
        },
        "V1Request": _object_of(
            {"instances": {"anyOf": [_list(a_row, **rows), _list(values, **rows)]}, "id": _id()}, "instances"
        ),
        "V1Answer": _object_of(v1 | identity, *v1, *identity),
        "V2Request": _object_of(
            {
                "id": _id(),
                "inputs": _list(_ref("Tensor"), minItems=1),
                "outputs": _list(_object_of({"name": {"enum": list(outputs)}}, "name")),
                "parameters": {"type": "object"},
            },
            "inputs",
        ),
        "V2Answer": _object_of(identity | {"outputs": _list(_ref("Tensor"))}, *identity, "outputs"),
        "Tensor": _object_of(
            {
                "name": {"type": "string", "minLength": 1},
                "datatype": {"enum": sorted(DATATYPES)},
                "shape": _list({"type": "integer", "minimum": 0}, minItems=1, maxItems=8),
                "data": {"type": "array"},
                "parameters": {"type": "object"},
            },
            *("name", "datatype", "shape"),
        ),
        "Health": _object_of({"status": _TEXT, "reason": _TEXT}, "status", "reason"),
        "Ready": _object_of({"name": _TEXT, "ready": {"const": True}}, "name", "ready"),
        "Object": {"type": "object"},
        "Error": _object_of({"error": _TEXT, "fields": _list(_ref("Field"))}, "error", "fields"),
        "Field": _object_of(
            {"field": _TEXT, "expected": _TEXT, "got": _TEXT, "row": {"type": "integer", "minimum": 0}},
            *("field", "expected", "got"),
        ),
    }


def _values(columns: list[Schema]) -> Schema:
    """A row as a list of values in the contract's order."""
    return {"type": "array", "prefixItems": columns, "minItems": len(columns), "maxItems": len(columns)}


def _id() -> Schema:
    return {"type": ["string", "null"], "maxLength": MAX_ID}


def _header(name: str, description: str) -> Schema:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": _TEXT}


def _object_of(properties: Schema, *required: str, closed: bool = False) -> Schema:
    found: Schema = {"type": "object", "properties": properties, "required": list(required)}
    return found | ({"additionalProperties": False} if closed else {})


def _list(items: Schema, **limits: int) -> Schema:
    return {"type": "array", "items": items, **limits}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(name: str) -> Schema:
    return {"application/json": {"schema": _ref(name)}}
