"""The arguments of a run: checked against the compiled pipeline before anything is sent, and changed one key at a time.

Kubeflow Pipelines takes whatever arguments it is given and fails minutes later in a pod (an unknown name is not even an
error); so names, types and sizes are checked here, all at once.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from headway.components.config import parse_yaml
from headway.components.errors import ConfigError, UnknownNameError, UsageError, did_you_mean

MAX_ARGUMENT_BYTES = 64 * 1024
"""All arguments of a run together: they travel in the workflow object and on command lines, which end at 128 KiB."""

MAX_EXACT_INTEGER = 2**53
"""Kubeflow Pipelines carries numbers as doubles: a larger integer would arrive as another one."""

_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "STRING": ((str,), "text"),
    "NUMBER_INTEGER": ((int,), "an integer"),
    "NUMBER_DOUBLE": ((int, float), "a number"),
    "BOOLEAN": ((bool,), "true or false"),
    "LIST": ((list,), "a list"),
    "STRUCT": ((dict,), "a mapping"),
}


def parameters_of(spec: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The pipeline's parameters as the compiled document defines them, by name."""
    found: dict[str, dict[str, Any]] = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    return found


def check_arguments(spec: Mapping[str, Any], arguments: Mapping[str, Any], *, complete: bool = True) -> None:
    """Check the arguments of a run.

    Args:
        spec: The compiled pipeline's document.
        arguments: The values by parameter name.
        complete: Whether a parameter without a default must be among them.

    Raises:
        UsageError: All that is wrong, a line each.
    """
    definitions = parameters_of(spec)
    problems = [problem for name, value in arguments.items() if (problem := _problem(definitions, name, value))]
    if complete:
        problems += _missing(spec, arguments)
    if problems:
        raise UsageError(
            "\n".join(problems), expected=f"the pipeline's parameters: {', '.join(sorted(definitions)) or 'none'}"
        )
    size = len(json.dumps(dict(arguments)).encode())
    if size > MAX_ARGUMENT_BYTES:
        largest = max(arguments, key=lambda name: len(json.dumps(arguments[name])))
        raise UsageError(
            f"The arguments take {size:,} bytes, {largest!r} the most of them",
            expected=f"at most {MAX_ARGUMENT_BYTES:,} bytes together",
            fix="pass large things as the address of a file",
        )


def override(spec: Mapping[str, Any], arguments: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    r"""The arguments with single values changed.

    `name=value` sets a parameter; `section.key=value` sets a key inside a parameter that is a section of `model.yaml`,
    and `section.key.inner=value` one further inside. A value is read as YAML, but text for a parameter that is text.

    Args:
        spec: The compiled pipeline's document.
        arguments: The values to start from.
        assignments: What `--set` was given.

    Raises:
        UsageError: An assignment has no `=`, or names no parameter.

    Example:
        >>> from headway.pipelines.arguments import override
        >>> parameters = {"training": {"parameterType": "STRING"}, "rows": {"parameterType": "NUMBER_INTEGER"}}
        >>> spec = {"root": {"inputDefinitions": {"parameters": parameters}}}
        >>> override(spec, {"training": "seed: 1"}, ["training.seed=7", "rows=100"])
        {'training': 'seed: 7\n', 'rows': 100}
    """
    definitions = parameters_of(spec)
    changed = dict(arguments)
    for assignment in assignments:
        target, equals, value = assignment.partition("=")
        name, _, path = target.strip().partition(".")
        if not equals or not name:
            raise UsageError(f"--set {assignment!r} has no name or no value", expected="section.key=value")
        if name not in definitions:
            raise UnknownNameError("parameter", name, definitions)
        if path:
            text = changed.get(name, definitions[name].get("defaultValue", ""))
            changed[name] = _with_key(name, text, path, value)
        elif definitions[name]["parameterType"] == "STRING":
            changed[name] = value
        else:
            changed[name] = parse_yaml(value, where=f"--set {target}")
    return changed


def _with_key(name: str, text: Any, path: str, value: str) -> str:
    """A YAML section with one key changed."""
    if not isinstance(text, str):
        raise UsageError(f"Parameter {name!r} is one value", expected=f"--set {name}=value")
    try:
        section = parse_yaml(text, where=name) or {}
    except ConfigError:
        section = None
    if not isinstance(section, dict):
        raise UsageError(f"Parameter {name!r} is not a section with keys", expected=f"--set {name}=value")
    keys = path.split(".")
    place = section
    for key in keys[:-1]:
        inner = place.setdefault(key, {})
        if not isinstance(inner, dict):
            raise UsageError(f"{name}.{path}: {key!r} holds one value ({inner!r}), not keys")
        place = inner
    place[keys[-1]] = parse_yaml(value, where=f"--set {name}.{path}")
    return yaml.safe_dump(section, sort_keys=False, allow_unicode=True, width=120)


def _problem(definitions: Mapping[str, Any], name: str, value: Any) -> str | None:
    if name not in definitions:
        return f"Unknown parameter {name!r}{did_you_mean(name, definitions)}"
    kind = definitions[name]["parameterType"]
    if kind not in _KINDS:
        return f"Parameter {name!r} is set by the platform ({kind}), not by an argument"
    types, wanted = _KINDS[kind]
    if not isinstance(value, types) or (isinstance(value, bool) and kind != "BOOLEAN"):
        return f"Parameter {name!r}: got {_short(value)}, expected {wanted}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"Parameter {name!r}: got {value}, expected a finite number"
    if isinstance(value, int) and abs(value) > MAX_EXACT_INTEGER:
        return f"Parameter {name!r}: {value} is beyond 2**53 and would arrive as another number"
    return None


def _missing(spec: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[str]:
    required = [
        f"Parameter {name!r} has no default and was not given"
        for name, definition in parameters_of(spec).items()
        if name not in arguments and not definition.get("isOptional") and "defaultValue" not in definition
    ]
    artifacts = spec["root"].get("inputDefinitions", {}).get("artifacts", {})
    return required + [
        f"Input {name!r} is an artifact, which a run cannot be given; import it inside the pipeline"
        for name, definition in artifacts.items()
        if not definition.get("isOptional")
    ]


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return f"{text if len(text) <= limit else text[: limit - 1] + '…'} ({type(value).__name__})"
