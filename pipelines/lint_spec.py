"""The lint rules that read a compiled pipeline."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from headway.pipelines.compile import Spec, all_tasks, dump_spec, executors, mutable_images
from headway.pipelines.lint_rules import Finding

MAX_SPEC_BYTES = 500_000
"""A compiled pipeline larger than this is refused: it lies in the workflow object beside everything else, and etcd
takes 1.5 MiB for all of it (kubeflow/pipelines#13738)."""
LARGE_ARGUMENT_BYTES = 64 * 1024
LARGE_COMMAND_BYTES = 100 * 1024
"""One element of a command line ends at 128 KiB (MAX_ARG_STRLEN)."""

_CHANNEL = re.compile(r"inputs\.parameter_values\['([^']+)'\]")
_EMBEDDED = "__KFP_EMBEDDED_ARCHIVE_B64"


def spec_findings(spec: Spec, platform: Spec, *, release: bool) -> Iterator[Finding]:
    """What the rules find in a compiled pipeline."""
    yield from _size(spec, platform)
    yield from _control_flow(spec, "root", spec["root"], {})
    yield from _values(spec)
    yield from _artifact_types(spec)
    yield from _importers(spec)
    for label, executor in executors(spec).items():
        if "container" in executor:
            yield from _commands(label, executor["container"])
            yield from _resources(label, executor["container"])
    if release:
        yield from _mutable_images(spec)


def _size(spec: Spec, platform: Spec) -> Iterator[Finding]:
    size = len(dump_spec(spec, platform).encode())
    if size > MAX_SPEC_BYTES:
        yield Finding(
            "oversize",
            "pipeline",
            f"{size:,} bytes compiled, more than {MAX_SPEC_BYTES:,}",
            "Move code into the image and data into files",
        )


def _control_flow(spec: Spec, place: str, component: Spec, outputs: Mapping[str, str]) -> Iterator[Finding]:
    """Follow conditions and loops to the output that they rest on.

    `kfp.local` resolves a channel to a task's output only when that output is the single, unnamed one (`Output`).

    Args:
        spec: The pipeline's document.
        place: The path of this DAG, for messages.
        component: The DAG's component.
        outputs: For each input of the DAG that is a task's output: `task.output`.
    """
    for name, task in component.get("dag", {}).get("tasks", {}).items():
        inner = _outputs_behind(task, outputs)
        here = f"{place}/{name}"
        for channel in _CHANNEL.findall(task.get("triggerPolicy", {}).get("condition", "")):
            if _is_named(inner.get(channel)):
                yield _named("named-condition", here, "the condition tests", inner[channel])
        looped = task.get("parameterIterator", {}).get("items", {}).get("inputParameter", "")
        if _is_named(inner.get(looped)):
            yield _named("named-loop", here, "the loop runs over", inner[looped])
        child = spec.get("components", {}).get(task["componentRef"]["name"], {})
        if "dag" in child:
            yield from _control_flow(spec, here, child, inner)


def _outputs_behind(task: Spec, outputs: Mapping[str, str]) -> dict[str, str]:
    """For each input parameter of a task, the task's output that it carries, if it carries one."""
    found = {}
    for name, source in task.get("inputs", {}).get("parameters", {}).items():
        if "taskOutputParameter" in source:
            output = source["taskOutputParameter"]
            found[name] = f"{output['producerTask']}.{output['outputParameterKey']}"
        elif source.get("componentInputParameter") in outputs:
            found[name] = outputs[source["componentInputParameter"]]
    return found


def _is_named(output: str | None) -> bool:
    return output is not None and not output.endswith(".Output")


def _named(rule: str, place: str, what: str, output: str) -> Finding:
    return Finding(
        rule,
        place,
        f"{what} the named output {output!r}: on a cluster it works, on one machine it is silently left out",
        "Let a small component return that one value (`-> str`) and use its .output",
    )


def _values(spec: Spec) -> Iterator[Finding]:
    for place, value in _constants(spec):
        text = json.dumps(value)
        if len(text.encode()) > LARGE_ARGUMENT_BYTES:
            yield Finding(
                "large-argument", place, f"a value of {len(text.encode()):,} bytes", "Pass the address of a file"
            )
        if "python3" in text:
            yield Finding(
                "python-word",
                place,
                "the value has `python3` in it, and the local runner puts the interpreter's path there",
                "Write `python`",
            )


def _constants(spec: Spec) -> Iterator[tuple[str, Any]]:
    components = [("root", spec["root"]), *spec.get("components", {}).items()]
    for owner, component in components:
        for name, definition in component.get("inputDefinitions", {}).get("parameters", {}).items():
            if "defaultValue" in definition:
                yield f"{owner.removeprefix('comp-')} default of {name!r}", definition["defaultValue"]
    for place, task in all_tasks(spec):
        for name, source in task.get("inputs", {}).get("parameters", {}).items():
            if "constant" in source.get("runtimeValue", {}):
                yield f"{place} argument {name!r}", source["runtimeValue"]["constant"]


def _artifact_types(spec: Spec) -> Iterator[Finding]:
    for owner, component in spec.get("components", {}).items():
        for name, definition in component.get("outputDefinitions", {}).get("artifacts", {}).items():
            if definition.get("artifactType", {}).get("schemaTitle") == "system.SlicedClassificationMetrics":
                yield Finding(
                    "sliced-metrics",
                    f"{owner.removeprefix('comp-')} output {name!r}",
                    "SlicedClassificationMetrics fails in every method and is shown nowhere",
                    "Write the slices into an HTML report",
                )


def _importers(spec: Spec) -> Iterator[Finding]:
    components = spec.get("components", {})
    for place, task in all_tasks(spec):
        label = components.get(task["componentRef"]["name"], {}).get("executorLabel", "")
        importer = executors(spec).get(label, {}).get("importer")
        cached = task.get("cachingOptions", {}).get("enableCache", False)
        if importer is not None and cached and not importer.get("reimport"):
            yield Finding(
                "importer-cache",
                place,
                "the import is cached, and the cache's key does not see the data behind the address",
                "Give reimport=True or .set_caching_options(False)",
            )


def _commands(label: str, container: Spec) -> Iterator[Finding]:
    for element in [*container.get("command", []), *container.get("args", [])]:
        # An element may also be a placeholder document.
        text = element if isinstance(element, str) else json.dumps(element)
        if len(text.encode()) > LARGE_COMMAND_BYTES:
            yield Finding(
                "large-command", label, f"a command of {len(text.encode()):,} bytes", "Move code into the image"
            )
        if "pip install" in text:
            yield Finding(
                "runtime-install", label, "runs pip each time the step starts", "Put the packages into the image"
            )
        if _EMBEDDED in text:
            yield Finding("embedded-artifact", label, "carries packed files", "Put the files into the image")


def _resources(label: str, container: Spec) -> Iterator[Finding]:
    limits = container.get("resources", {})
    missing = [
        word
        for word, keys in {
            "CPU": ("cpuLimit", "resourceCpuLimit"),
            "memory": ("memoryLimit", "resourceMemoryLimit"),
        }.items()
        if not any(limits.get(key) for key in keys)
    ]
    if missing:
        yield Finding(
            "no-resources",
            label,
            f"no {' and no '.join(missing)} limit",
            "Apply headway.components.resources to the task",
        )


def _mutable_images(spec: Spec) -> Iterator[Finding]:
    for label, image in mutable_images(spec).items():
        yield Finding(
            "mutable-image",
            label,
            f"{image} can change under its tag",
            "Name it by digest: --image repository@sha256:…",
        )
