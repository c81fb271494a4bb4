"""The CRDs' OpenAPI schemas, made as strict as server-side apply is: a field that no schema declares is refused."""

import copy
import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

FOLDER = Path(__file__).parent / "crds"


@cache
def definitions() -> dict[str, dict[str, Any]]:
    """All definitions by kind."""
    found = [json.loads(gzip.decompress(path.read_bytes())) for path in FOLDER.glob("*.json.gz")]
    return {each["spec"]["names"]["kind"]: each for each in found}


def schema(kind: str) -> dict[str, Any]:
    """A kind's schema as its definition has it."""
    found: dict[str, Any] = definitions()[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def problems(document: dict[str, Any]) -> list[str]:
    """What is wrong with a document, a line each; kinds without a definition here are taken as they are."""
    if document["kind"] not in definitions():
        return []
    return _said(_validator(document["kind"]), document)


def problems_by(document: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """The same by a schema of another version."""
    return _said(jsonschema.Draft202012Validator(_strict(schema)), document)


def _said(validator: jsonschema.Draft202012Validator, document: dict[str, Any]) -> list[str]:
    errors = validator.iter_errors(document)
    return [f"{'.'.join(map(str, each.absolute_path)) or 'the document'}: {each.message}" for each in errors]


def with_defaults(document: dict[str, Any]) -> dict[str, Any]:
    """A document as the API server stores it."""
    filled = copy.deepcopy(document)
    if document["kind"] in definitions():
        _fill(filled, schema(document["kind"]))
    return filled


@cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(_strict(schema(kind)))


def _strict(node: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in node.items() if not key.startswith("x-kubernetes")}
    if node.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
    if "properties" in node:
        found["properties"] = {name: _strict(each) for name, each in node["properties"].items()}
        open_ended = "additionalProperties" in node or node.get("x-kubernetes-preserve-unknown-fields")
        found.setdefault("additionalProperties", bool(open_ended))
    if isinstance(node.get("additionalProperties"), dict):
        found["additionalProperties"] = _strict(node["additionalProperties"])
    if isinstance(node.get("items"), dict):
        found["items"] = _strict(node["items"])
    return found


def _fill(value: Any, node: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for name, each in node.get("properties", {}).items():
            if name not in value and "default" in each:
                value[name] = copy.deepcopy(each["default"])
            if name in value:
                _fill(value[name], each)
    if isinstance(value, list):
        for item in value:
            _fill(item, node.get("items", {}))
