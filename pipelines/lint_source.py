"""The lint rules that read a component's source.

kfp copies a component from its `def` on into a file of its own (`inspect.getsource`, cut at the first `def`), with only
`import kfp`, `from kfp import dsl`, `from kfp.dsl import *` and `from typing import *` above it. Whatever else the
module holds is not there when the step runs.
"""

import ast
import builtins
import copy
import symtable
import typing
from collections.abc import Iterator
from dataclasses import replace

from headway.pipelines.lint_rules import Finding

Function = ast.FunctionDef | ast.AsyncFunctionDef

_PLAIN_TYPES = {"str", "int", "float", "bool", "list", "dict", "List", "Dict"}
_ARTIFACT_FORMS = {"Input", "Output", "InputPath", "OutputPath", "EmbeddedInput"}
_PLATFORM_TYPES = {"PipelineTaskFinalStatus", "TaskConfig"}
_ARTIFACTS = {"Artifact", "Dataset", "Model", "Metrics", "ClassificationMetrics", "HTML", "Markdown"}
_KFP_NAMES = _ARTIFACTS | _ARTIFACT_FORMS | _PLATFORM_TYPES | {"SlicedClassificationMetrics", "get_uri", "kfp", "dsl"}
_ALWAYS_THERE = _KFP_NAMES | set(dir(builtins)) | set(typing.__all__) | {"__name__", "__file__"}
_OWN_DECORATOR = "headway.components.images"


def source_findings(text: str, *, where: str) -> Iterator[Finding]:
    """What the rules find in the source of one module.

    Args:
        text: The module's source.
        where: The file's name, which begins the place of each finding.

    Raises:
        SyntaxError: It is not Python.
    """
    module = ast.parse(text)
    own = _own_decorator_names(module)
    components = [
        (function, decorator)
        for function in ast.walk(module)
        if isinstance(function, Function)
        for decorator in function.decorator_list
        if _is_component(decorator, own)
    ]
    found = list(_future_annotations(module)) if components else []
    for function, decorator in components:
        found += _dropped_decorators(function, decorator)
        found += _types(function)
        found += _unknown_names(function, decorator)
        found += _decorator_settings(function, decorator, is_own=_name(decorator) in own)
        found += _sliced_metrics(function)
    for finding in found:
        yield replace(finding, place=f"{where}:{finding.place}")


def _own_decorator_names(module: ast.Module) -> set[str]:
    """The names under which the module imports the project's own `component` decorator."""
    return {
        alias.asname or alias.name
        for statement in ast.walk(module)
        if isinstance(statement, ast.ImportFrom) and statement.module == _OWN_DECORATOR
        for alias in statement.names
        if alias.name == "component"
    }


def _is_component(decorator: ast.expr, own: set[str]) -> bool:
    name = _name(decorator)
    return name in own or name.split(".")[-1] == "component"


def _name(expression: ast.expr) -> str:
    """The dotted name of a decorator or a type: `dsl.component` of `@dsl.component(...)`."""
    if isinstance(expression, ast.Call):
        return _name(expression.func)
    return ast.unparse(expression)


def _place(function: Function, line: int | None = None) -> str:
    return f"{line or function.lineno} {function.name}"


def _future_annotations(module: ast.Module) -> Iterator[Finding]:
    for statement in module.body:
        if not isinstance(statement, ast.ImportFrom) or statement.module != "__future__":
            continue
        if any(alias.name == "annotations" for alias in statement.names):
            yield Finding(
                "future-annotations",
                f"{statement.lineno}",
                "`from __future__ import annotations` turns the types into text, and kfp refuses every artifact",
                "Remove it",
            )


def _dropped_decorators(function: Function, decorator: ast.expr) -> Iterator[Finding]:
    below = function.decorator_list[function.decorator_list.index(decorator) + 1 :]
    for dropped in below:
        yield Finding(
            "dropped-decorator",
            _place(function, dropped.lineno),
            f"@{_name(dropped)} stands under @{_name(decorator)} and is cut off: it never runs in the step",
            "Call it inside the body",
        )


def _types(function: Function) -> Iterator[Finding]:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    for argument in arguments:
        if argument.annotation is None:
            yield _wrong_type(function, argument.lineno, f"parameter {argument.arg!r} has no type")
        elif not _is_carried(argument.annotation):
            text = ast.unparse(argument.annotation)
            yield _wrong_type(function, argument.lineno, f"parameter {argument.arg!r} has the type {text}")
    if function.returns is not None and not _is_returned(function.returns):
        yield _wrong_type(function, function.returns.lineno, f"the result has the type {ast.unparse(function.returns)}")


def _wrong_type(function: Function, line: int, message: str) -> Finding:
    return Finding(
        "parameter-type",
        _place(function, line),
        f"{message}, which kfp or its local runner cannot carry",
        "Use str, int, float, bool, list, dict or an artifact, with a value such as '' or -1 for nothing",
    )


def _is_carried(annotation: ast.expr) -> bool:
    if isinstance(annotation, ast.Subscript):
        outer = _name(annotation.value).split(".")[-1]
        return outer in _ARTIFACT_FORMS or outer in _PLAIN_TYPES
    if isinstance(annotation, ast.Call):
        return _name(annotation).split(".")[-1] in _ARTIFACT_FORMS
    return isinstance(annotation, (ast.Name, ast.Attribute)) and _name(annotation).split(".")[-1] in (
        _PLAIN_TYPES | _PLATFORM_TYPES
    )


def _is_returned(annotation: ast.expr) -> bool:
    name = _name(annotation).split(".")[-1]
    nothing = isinstance(annotation, ast.Constant) and annotation.value is None
    return nothing or name in _ARTIFACTS or name == "NamedTuple" or _is_carried(annotation)


def _unknown_names(function: Function, decorator: ast.expr) -> Iterator[Finding]:
    known = _ALWAYS_THERE | _pasted_functions(decorator)
    for name in sorted(_outer_names(function) - known):
        line = next(
            (node.lineno for node in ast.walk(function) if isinstance(node, ast.Name) and node.id == name), None
        )
        yield Finding(
            "unknown-name",
            _place(function, line),
            f"{name!r} comes from the module, and the step runs without the module: NameError",
            "Import or define it inside the body",
        )


def _outer_names(function: Function) -> set[str]:
    """The names that a function needs from outside itself: in its body, its defaults and its annotations."""
    alone = copy.copy(function)
    alone.decorator_list = []
    table = symtable.symtable(ast.unparse(alone), "component", "exec")
    return {name for name in _global_references(table) if name != function.name}


def _global_references(table: symtable.SymbolTable) -> Iterator[str]:
    at_top = table.get_type() == "module"
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (symbol.is_global() or at_top):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _global_references(child)


def _pasted_functions(decorator: ast.expr) -> set[str]:
    """The helpers that `additional_funcs=[...]` pastes above the component."""
    value = _settings(decorator).get("additional_funcs")
    return {_name(element) for element in value.elts} if isinstance(value, (ast.List, ast.Tuple)) else set()


def _settings(decorator: ast.expr) -> dict[str, ast.expr]:
    keywords = decorator.keywords if isinstance(decorator, ast.Call) else []
    return {keyword.arg: keyword.value for keyword in keywords if keyword.arg}


def _decorator_settings(function: Function, decorator: ast.expr, *, is_own: bool) -> Iterator[Finding]:
    settings = _settings(decorator)
    place = _place(function, decorator.lineno)
    packages = settings.get("packages_to_install")
    if packages is not None and not _is_constant(packages, None) and ast.unparse(packages) not in ("[]", "()"):
        yield Finding(
            "runtime-install",
            place,
            f"installs {ast.unparse(packages)} each time the step starts",
            "Put the packages into the image",
        )
    install_kfp = settings.get("install_kfp_package")
    if not _is_constant(install_kfp, False) and (install_kfp is not None or not is_own):
        yield Finding(
            "kfp-install",
            place,
            "installs kfp each time the step starts (a second, and a network)",
            "Use headway's @component, or give install_kfp_package=False",
        )
    if "base_image" not in settings and not is_own:
        yield Finding("default-image", place, "names no image, so it runs in kfp's default", "Use headway's @component")
    if "embedded_artifact_path" in settings:
        yield Finding(
            "embedded-artifact",
            place,
            "packs files into the pipeline, whose bytes then differ at each compile",
            "Put the files into the image",
        )


def _is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _sliced_metrics(function: Function) -> Iterator[Finding]:
    for node in ast.walk(function):
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        if name == "SlicedClassificationMetrics":
            yield Finding(
                "sliced-metrics",
                _place(function, getattr(node, "lineno", None)),
                "SlicedClassificationMetrics fails in every method and is shown nowhere",
                "Write the slices into an HTML report",
            )
