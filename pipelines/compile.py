"""Compile a pipeline to the YAML that Kubeflow Pipelines runs: the same bytes every time, written whole or not at all.

The text holds no time stamp and nothing of the machine, so that a compiled pipeline can be checked in and compared.
Changes that reach every step (another image, caching off) are made on the compiled document, in all of its DAGs:
`kfp.Client(enable_caching=False)` reaches the tasks of the root only (kubeflow/pipelines#10287).
"""

import difflib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from headway.components.errors import PipelineError, UsageError
from headway.pipelines.arguments import check_arguments, parameters_of

Spec = dict[str, Any]
"""One document of a compiled pipeline: the pipeline's own, or the platform's (the second one)."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,126}[a-z0-9])?")
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
_IMAGE = re.compile(r"[a-z0-9][\w.:-]*(/[a-z0-9][\w.-]*)*(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class CompiledPipeline:
    """A compiled pipeline on disk."""

    path: Path
    """Where it was written."""
    text: str
    """The YAML text: the pipeline's document, then the platform's when there is one."""
    digest: str
    """SHA-256 of what it says, whichever SDK version and whatever comments it was written with."""


def compile_pipeline(
    pipeline: Any,
    *,
    output: Path,
    name: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    image: str | None = None,
    cache: bool | None = None,
    release: bool = False,
) -> CompiledPipeline:
    """Compile a pipeline function to a YAML file.

    Args:
        pipeline: What `@dsl.pipeline` made.
        output: The file to write.
        name: Another name for the pipeline.
        parameters: New defaults of the pipeline's parameters, which are the values that the UI's form shows.
        image: The image that takes the place of Headway's own in every step.
        cache: Caching of every step, on or off; None leaves each step as it is written.
        release: Refuse an image that is not named by its digest.

    Raises:
        PipelineError: It does not compile, or a release has a step whose image can change.
        UsageError: A parameter or the image's name is wrong.
    """
    text = compile_text(pipeline, name=name, parameters=parameters, image=image, cache=cache)
    spec, platform = load_spec(text)
    if release:
        require_digests(spec)
    write_atomically(output, text)
    return CompiledPipeline(path=output, text=text, digest=spec_digest(spec, platform))


def compile_text(
    pipeline: Any,
    *,
    name: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    image: str | None = None,
    cache: bool | None = None,
) -> str:
    """The compiled YAML text of a pipeline function; see `compile_pipeline` for the arguments and the errors.

    The text is written here and not by `kfp.compiler.Compiler`, which puts the defaults into a comment at the top
    without escaping them: a default of two lines, such as a section of a document, makes its second line part of the
    YAML.
    """
    spec, platform = _documents(pipeline)
    if name is not None:
        _rename(spec, name)
    _set_defaults(spec, parameters or {})
    if image is not None:
        set_image(spec, image)
    if cache is not None:
        set_caching(spec, cache)
    return _header(spec) + dump_spec(spec, platform)


def load_spec(source: str | Path) -> tuple[Spec, Spec]:
    """Read a compiled pipeline.

    Args:
        source: The file (a `Path`) or its text.

    Returns:
        The pipeline's document and the platform's (empty when there is none).

    Raises:
        PipelineError: There is no such file, or it is not a compiled pipeline.
    """
    where, text = _read(source)
    try:
        documents = [document for document in yaml.load_all(text, Loader=_LOADER) if document is not None]
    except yaml.YAMLError as error:
        raise PipelineError(f"{where}: not valid YAML: {str(error).splitlines()[0]}") from None
    if not 1 <= len(documents) <= 2 or not all(isinstance(document, dict) for document in documents):
        raise PipelineError(f"{where}: {len(documents)} YAML documents", expected="a compiled pipeline (one or two)")
    spec, platform = documents[0], documents[1] if len(documents) == 2 else {}
    missing = [key for key in ("pipelineInfo", "root", "deploymentSpec") if key not in spec]
    if missing:
        raise PipelineError(
            f"{where}: not a compiled pipeline, it has no {', '.join(missing)}",
            fix="compile it with `headway compile`",
        )
    return spec, platform


def dump_spec(spec: Spec, platform: Spec) -> str:
    """The YAML text of a compiled pipeline, laid out as kfp itself lays it out."""
    return yaml.safe_dump_all([spec, platform] if platform else [spec], sort_keys=True)


def spec_digest(spec: Spec, platform: Spec) -> str:
    """SHA-256 of what a compiled pipeline says, as 64 hexadecimal digits; the SDK's version is not part of it."""
    said = {key: value for key, value in spec.items() if key != "sdkVersion"}
    return hashlib.sha256(json.dumps([said, platform], sort_keys=True).encode()).hexdigest()


def all_tasks(spec: Spec) -> Iterator[tuple[str, Spec]]:
    """Every task of every DAG, with its place: root, conditions, loops, exit handlers, nested pipelines."""
    dags = [("root", spec["root"]), *spec.get("components", {}).items()]
    for owner, component in dags:
        for name, task in component.get("dag", {}).get("tasks", {}).items():
            yield f"{owner.removeprefix('comp-')}/{name}", task


def executors(spec: Spec) -> dict[str, Spec]:
    """The executors by their label; those of nested pipelines are among them, kfp lifts them to the top."""
    found: dict[str, Spec] = spec["deploymentSpec"].get("executors", {})
    return found


def images(spec: Spec) -> dict[str, str]:
    """The image of each container step, by the executor's label."""
    return {
        label: executor["container"]["image"] for label, executor in executors(spec).items() if "container" in executor
    }


def difference(old: str, new: str, *, limit: int = 20) -> list[str]:
    """How two compiled pipelines differ, as the lines of a short diff; empty when only the SDK's version does.

    Args:
        old: The first text.
        new: The second text.
        limit: How many changed lines at most.
    """
    before, after = (_comparable(text) for text in (old, new))
    changed = list(difflib.unified_diff(before, after, "checked in", "compiled now", lineterm="", n=0))
    more = [f"… and {len(changed) - limit} lines more"] if len(changed) > limit else []
    return changed[:limit] + more


def set_caching(spec: Spec, enabled: bool) -> None:
    """Switch caching on or off for every step, whatever the pipeline's author wrote; changes the document in place."""
    components = spec.get("components", {})
    for _, task in all_tasks(spec):
        runs_a_step = "executorLabel" in components.get(task["componentRef"]["name"], {})
        if runs_a_step or "cachingOptions" in task:
            task.setdefault("cachingOptions", {})["enableCache"] = enabled


def set_image(spec: Spec, image: str, *, replaces: str | None = None) -> list[str]:
    """Put an image in the place of another; changes the document in place.

    Args:
        spec: The pipeline's document.
        image: The image to run.
        replaces: The image that it takes the place of; Headway's own when not given.

    Returns:
        The labels of the executors that changed.

    Raises:
        UsageError: That is not an image's name.
        PipelineError: No step runs in the image to be replaced.
    """
    if not _IMAGE.fullmatch(image):
        raise UsageError(
            f"{image!r} is not an image's name", expected="repository/name:tag or repository/name@sha256:<64 digits>"
        )
    replaces = replaces or _own_image()
    changed = [label for label, present in images(spec).items() if present == replaces]
    if not changed:
        present = ", ".join(sorted(set(images(spec).values()))) or "none"
        raise PipelineError(f"No step runs in {replaces}, so {image} has nothing to replace; images: {present}")
    for label in changed:
        executors(spec)[label]["container"]["image"] = image
    return changed


def mutable_images(spec: Spec) -> dict[str, str]:
    """The images that are not named by digest, by the executor's label."""
    return {label: image for label, image in images(spec).items() if not _DIGEST.search(image)}


def require_digests(spec: Spec) -> None:
    """Check that no image of a release can change under its name.

    Raises:
        PipelineError: An image has no digest; names the executors.
    """
    mutable = mutable_images(spec)
    if mutable:
        named = "\n".join(f"  {label}: {image}" for label, image in mutable.items())
        raise PipelineError(
            f"A release needs every image by its digest; these are not:\n{named}",
            expected="repository/name@sha256:<64 digits>: a tag can move, and the cache's key sees only the name",
            fix="give the pushed image with --image repository/name@sha256:…",
        )


def write_atomically(path: Path, text: str) -> None:
    """Write a text file whole or not at all; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's loader where it is built in: ten times as fast. Dumping stays in Python, whose layout is kfp's."""


def _documents(pipeline: Any) -> tuple[Spec, Spec]:
    """The two documents of a pipeline function."""
    from google.protobuf import json_format
    from kfp.dsl import base_component

    if not isinstance(pipeline, base_component.BaseComponent):
        raise PipelineError(
            f"{pipeline!r} is not a pipeline", expected="a function under @dsl.pipeline", fix="decorate it"
        )
    return json_format.MessageToDict(pipeline.pipeline_spec), json_format.MessageToDict(pipeline.platform_spec)


def _rename(spec: Spec, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a pipeline", expected="lower-case letters, digits and hyphens, at most 128 of them"
        )
    spec["pipelineInfo"]["name"] = name


def _set_defaults(spec: Spec, parameters: Mapping[str, Any]) -> None:
    check_arguments(spec, parameters, complete=False)
    for name, value in parameters.items():
        definition = parameters_of(spec)[name]
        # A number is a double in this format, and is written as kfp writes it.
        number = definition["parameterType"] in ("NUMBER_INTEGER", "NUMBER_DOUBLE")
        definition.update(defaultValue=float(value) if number else value, isOptional=True)


def _comparable(text: str) -> list[str]:
    spec, platform = load_spec(text)
    return dump_spec({**spec, "sdkVersion": ""}, platform).splitlines()


def _read(source: str | Path) -> tuple[str, str]:
    if isinstance(source, str):
        return "compiled pipeline", source
    if not source.is_file():
        raise PipelineError(f"{source}: no such file", fix="compile it first with `headway compile`")
    return str(source), source.read_text(encoding="utf-8")


def _header(spec: Spec) -> str:
    """The comment above the first document, for people and for kfp, which reads the description from its third line."""
    info = spec["pipelineInfo"]
    lines = ["PIPELINE DEFINITION", f"Name: {info['name']}"]
    if info.get("description"):
        first, *rest = info["description"].splitlines()
        lines += [f"Description: {first}", *(" " * 13 + line for line in rest)]
    inputs = [f"   {name}: {definition['parameterType']}" for name, definition in sorted(parameters_of(spec).items())]
    lines += ["Inputs:", *inputs] if inputs else []
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _own_image() -> str:
    from headway.components.images import IMAGE

    return IMAGE
