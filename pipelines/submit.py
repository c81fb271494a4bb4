"""Submit a compiled pipeline to Kubeflow Pipelines: upload it once, run it by its version, or on a schedule.

A version is named by its content, so that submitting the same pipeline twice makes two runs of one version, and a run's
page says which text it ran. Switches (image, caching) are made in the text before it is uploaded: kfp itself applies
`enable_caching` to the root's tasks only, and not at all to a run of an uploaded version.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headway.components.errors import PipelineError, UsageError
from headway.components.images import IMAGE
from headway.components.settings import load_settings
from headway.pipelines.api import Api, ConflictError, NotFoundError, connect
from headway.pipelines.arguments import check_arguments
from headway.pipelines.compile import dump_spec, load_spec, set_caching, set_image, spec_digest
from headway.pipelines.cron import check_cron
from headway.pipelines.endpoint import Endpoint
from headway.pipelines.links import link_problem, run_link, schedule_link
from headway.pipelines.lint_spec import MAX_SPEC_BYTES

EXPERIMENT = "headway"
DIGEST_DIGITS = 12
_DIGEST_MARK = "sha256:"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A run that was started."""

    run_id: str
    run_name: str
    pipeline_id: str
    version_id: str
    version_name: str
    """`<pipeline>-<first digits of the digest>` unless another was asked for."""
    reused_version: bool
    """Whether this very text had been uploaded before."""
    url: str
    """The run's page."""
    link_problem: str
    """Why the link will not open, and what to do; empty when nothing speaks against it."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A recurring run that was set up."""

    recurring_run_id: str
    name: str
    cron: str
    version_id: str
    url: str
    """The recurring run's page."""


def configured_image() -> str | None:
    """The image of the settings, where somebody set one."""
    configured = load_settings().image
    return configured if configured != IMAGE else None


def submit(
    source: str | Path,
    *,
    endpoint: Endpoint,
    arguments: Mapping[str, Any] | None = None,
    pipeline_name: str | None = None,
    version_name: str | None = None,
    experiment: str = EXPERIMENT,
    run_name: str | None = None,
    cache: bool | None = None,
    image: str | None = None,
    service_account: str | None = None,
    pipeline_root: str | None = None,
) -> Submission:
    """Run a compiled pipeline on a cluster.

    Args:
        source: The compiled pipeline: its file (a `Path`) or its text.
        endpoint: Where to, and as whom.
        arguments: Values of the pipeline's parameters; what is left out keeps its default.
        pipeline_name: Its name there; the compiled one when not given.
        version_name: A name for the version; one made from its content when not given.
        experiment: The experiment that the run belongs to; made when it is missing.
        run_name: The run's name; the pipeline's and the time when not given.
        cache: Caching of every step, on or off; None leaves each step as it was compiled.
        image: The image that takes the place of Headway's own.
        service_account: The Kubernetes service account of the steps.
        pipeline_root: Where the run's files go; the installation's default when not given.

    Raises:
        UsageError: An argument is unknown, missing, of the wrong type or too large; nothing was sent.
        PipelineError: The compiled pipeline cannot be run.
        PlatformError: Kubeflow Pipelines could not be reached, or said no.
    """
    package = _Package.prepare(source, arguments or {}, cache=cache, image=image)
    api = connect(endpoint)
    version = _ensure_version(api, package, pipeline_name or package.name, version_name)
    run = {
        "experiment_id": _ensure_experiment(api, experiment),
        "display_name": run_name or _name_with_time(pipeline_name or package.name),
        "pipeline_version_reference": version.reference,
        "runtime_config": _runtime_config(arguments, pipeline_root),
        "service_account": service_account,
    }
    body = {key: value for key, value in run.items() if value is not None}
    created = api.call(api.runs.run_service_create_run, body, repeatable=False)
    return Submission(
        run_id=created.run_id,
        run_name=created.display_name,
        pipeline_id=version.pipeline_id,
        version_id=version.version_id,
        version_name=version.name,
        reused_version=version.reused,
        url=run_link(endpoint.host, created.run_id, ui=endpoint.ui, namespace=api.namespace),
        link_problem=link_problem(endpoint.host, ui=endpoint.ui),
    )


def schedule(
    source: str | Path,
    *,
    cron: str,
    endpoint: Endpoint,
    arguments: Mapping[str, Any] | None = None,
    pipeline_name: str | None = None,
    experiment: str = EXPERIMENT,
    name: str | None = None,
    cache: bool | None = None,
    image: str | None = None,
    service_account: str | None = None,
) -> Schedule:
    """Run a compiled pipeline again and again, one run at a time, without catching up on what was missed.

    Args:
        source: The compiled pipeline: its file (a `Path`) or its text.
        cron: When, in six fields: second, minute, hour, day of month, month, day of week (UTC).
        endpoint: Where to, and as whom.
        arguments: Values of the pipeline's parameters.
        pipeline_name: Its name there; the compiled one when not given.
        experiment: The experiment that the runs belong to.
        name: The recurring run's name; the pipeline's and the time when not given.
        cache: Caching of every step, on or off.
        image: The image that takes the place of Headway's own.
        service_account: The Kubernetes service account of the steps.

    Raises:
        UsageError: The schedule or an argument is wrong; nothing was sent.
        PipelineError: The compiled pipeline cannot be run.
        PlatformError: Kubeflow Pipelines could not be reached, or said no.
    """
    check_cron(cron)
    package = _Package.prepare(source, arguments or {}, cache=cache, image=image)
    api = connect(endpoint)
    version = _ensure_version(api, package, pipeline_name or package.name, None)
    recurring = {
        "experiment_id": _ensure_experiment(api, experiment),
        "display_name": name or _name_with_time(pipeline_name or package.name),
        "pipeline_version_reference": version.reference,
        "runtime_config": _runtime_config(arguments, None),
        "trigger": {"cron_schedule": {"cron": cron}},
        "mode": "ENABLE",
        "max_concurrency": "1",
        "no_catchup": True,
        "service_account": service_account,
    }
    body = {key: value for key, value in recurring.items() if value is not None}
    create = api.recurring_runs.recurring_run_service_create_recurring_run
    created = api.call(create, body, repeatable=False)
    return Schedule(
        recurring_run_id=created.recurring_run_id,
        name=created.display_name,
        cron=cron,
        version_id=version.version_id,
        url=schedule_link(endpoint.host, created.recurring_run_id, ui=endpoint.ui, namespace=api.namespace),
    )


@dataclass(frozen=True)
class _Package:
    """A compiled pipeline, ready to be uploaded."""

    name: str
    text: str
    digest: str

    @classmethod
    def prepare(
        cls, source: str | Path, arguments: Mapping[str, Any], *, cache: bool | None, image: str | None
    ) -> "_Package":
        """Apply the switches, then check the document and the arguments, before anything is sent."""
        spec, platform = load_spec(source)
        check_arguments(spec, arguments)
        if image is not None:
            set_image(spec, image)
        if cache is not None:
            set_caching(spec, cache)
        text = dump_spec(spec, platform)
        if len(text.encode()) > MAX_SPEC_BYTES:
            raise PipelineError(
                f"The compiled pipeline takes {len(text.encode()):,} bytes",
                expected=f"at most {MAX_SPEC_BYTES:,}: it lies in the workflow object beside everything else",
                fix="move code into the image and data into files",
            )
        return cls(name=spec["pipelineInfo"]["name"], text=text, digest=spec_digest(spec, platform))


@dataclass(frozen=True)
class _Version:
    pipeline_id: str
    version_id: str
    name: str
    reused: bool

    @property
    def reference(self) -> dict[str, str]:
        return {"pipeline_id": self.pipeline_id, "pipeline_version_id": self.version_id}


def _ensure_version(api: Api, package: _Package, pipeline_name: str, version_name: str | None) -> _Version:
    """Find the version with this content under this pipeline, or upload it."""
    pipeline_id = _ensure_pipeline(api, pipeline_name)
    name = version_name or f"{pipeline_name}-{package.digest[:DIGEST_DIGITS]}"
    found = _find_version(api, pipeline_id, name)
    if found is None:
        try:
            found = _upload(api, package, pipeline_id, name)
        except ConflictError:
            # Another submission of the same content was faster between our look and our upload.
            found = _find_version(api, pipeline_id, name)
            if found is None:
                raise
        else:
            return _Version(pipeline_id, found.pipeline_version_id, name, reused=False)
    if version_name and (found.description or "") != _DIGEST_MARK + package.digest:
        raise UsageError(
            f"Version {version_name!r} of pipeline {pipeline_name!r} exists with another content",
            fix="choose another version name, or leave it out: the name is then made from the content",
        )
    return _Version(pipeline_id, found.pipeline_version_id, name, reused=True)


def _ensure_pipeline(api: Api, name: str) -> str:
    """The id of the pipeline with this name; an empty one is made when there is none."""
    namespace = api.namespace or None
    try:
        return str(api.call(api.pipelines.pipeline_service_get_pipeline_by_name, name, namespace=namespace).pipeline_id)
    except NotFoundError:
        body = {"name": name, "display_name": name, **({"namespace": namespace} if namespace else {})}
    try:
        return str(api.call(api.pipelines.pipeline_service_create_pipeline, body).pipeline_id)
    except ConflictError:
        # Another submission made it between our look and our request.
        return str(api.call(api.pipelines.pipeline_service_get_pipeline_by_name, name, namespace=namespace).pipeline_id)


def _find_version(api: Api, pipeline_id: str, name: str) -> Any | None:
    return api.find(api.pipelines.pipeline_service_list_pipeline_versions, "pipeline_versions", name, pipeline_id)


def _upload(api: Api, package: _Package, pipeline_id: str, name: str) -> Any:
    with tempfile.TemporaryDirectory(prefix="headway-submit-") as folder:
        file = Path(folder) / "pipeline.yaml"
        file.write_text(package.text, encoding="utf-8")
        return api.call(
            api.uploads.upload_pipeline_version,
            str(file),
            name=name,
            pipelineid=pipeline_id,
            description=_DIGEST_MARK + package.digest,
        )


def _ensure_experiment(api: Api, name: str) -> str:
    namespace = api.namespace or None
    list_experiments = api.experiments.experiment_service_list_experiments
    found = api.find(list_experiments, "experiments", name, namespace=namespace)
    if found is None:
        body = {"display_name": name, **({"namespace": namespace} if namespace else {})}
        try:
            found = api.call(api.experiments.experiment_service_create_experiment, body)
        except ConflictError:
            found = api.find(list_experiments, "experiments", name, namespace=namespace)
            if found is None:
                raise
    return str(found.experiment_id)


def _runtime_config(arguments: Mapping[str, Any] | None, pipeline_root: str | None) -> dict[str, Any]:
    config: dict[str, Any] = {"parameters": dict(arguments or {})}
    if pipeline_root:
        config["pipeline_root"] = pipeline_root
    return config


def _name_with_time(name: str) -> str:
    return f"{name} {datetime.now(UTC):%Y-%m-%d %H-%M-%S}"
