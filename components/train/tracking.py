"""The MLflow run of a training step: made before the fit, marked FAILED when the step raises.

A run that already exists (MLFLOW_RUN_ID) is written into and otherwise left alone: not ended, not renamed. Whether the
tracking server can be reached is known within seconds, before the fit begins, and not after it.
"""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.components.errors import PlatformError
from headway.components.mlflow_store import open_client
from headway.components.settings import Settings

RUN_ID_ENV = "MLFLOW_RUN_ID"
BUNDLE_ARTIFACT = "bundle"
"""Where a run keeps its bundle."""
_MAX_PARAM = 6_000
"""MLflow's own limit of a parameter's length, in characters."""
_BATCH = 100
"""Parameters or tags that MLflow takes in one request."""
_POINTS = 1_000
"""Metric values that MLflow takes in one request."""
_IMPATIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
}
"""For the first request only; MLflow's defaults try a wrong address for minutes."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """An MLflow run that is being written."""

    client: Any
    """The `MlflowClient`."""
    run_id: str
    experiment_id: str
    uri: str
    """The tracking address, without credentials."""

    @property
    def link(self) -> str:
        """The run's page; empty where nothing serves one."""
        if not self.uri.startswith("http"):
            return ""
        return f"{self.uri.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{self.run_id}"

    def log(
        self,
        *,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        """Log values.

        Args:
            params: Parameters; a long one is cut at MLflow's limit.
            metrics: Finite numbers.
            tags: Tags; an empty one is left out.

        Raises:
            PlatformError: MLflow did not take them.
        """
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        rows = [Param(key, str(value)[:_MAX_PARAM]) for key, value in (params or {}).items()]
        notes = [RunTag(key, str(value)) for key, value in (tags or {}).items() if value != ""]
        numbers = [Metric(key, float(value), now, 0) for key, value in (metrics or {}).items()]
        with _explained(self.uri):
            for start in range(0, max(len(rows), len(notes), len(numbers)), _BATCH):
                piece = slice(start, start + _BATCH)
                self.client.log_batch(self.run_id, metrics=numbers[piece], params=rows[piece], tags=notes[piece])

    def log_points(self, points: Sequence[tuple[str, float, int]]) -> None:
        """Log curves.

        Args:
            points: Name, finite value and step of each point.

        Raises:
            PlatformError: MLflow did not take them.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        rows = [Metric(name, float(value), now, step) for name, value, step in points]
        with _explained(self.uri):
            for start in range(0, len(rows), _POINTS):
                self.client.log_batch(self.run_id, metrics=rows[start : start + _POINTS])

    def log_bundle(self, bundle: Path) -> None:
        """Log a bundle's folder.

        Raises:
            PlatformError: The artifact store did not take it.
        """
        with _explained(self.uri):
            self.client.log_artifacts(self.run_id, str(bundle), BUNDLE_ARTIFACT)


@contextmanager
def tracked_run(name: str, settings: Settings) -> Iterator[Run]:
    """The run of this step, in the experiment named after the model.

    Args:
        name: The model's name.
        settings: Where MLflow is.

    Raises:
        PlatformError: MLflow cannot be reached or refuses; names its address.
    """
    run, ours = _begin(name, settings)
    try:
        yield run
    except BaseException as error:
        if ours:
            _end(run, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    if ours:
        with _explained(run.uri):
            run.client.set_terminated(run.run_id, "FINISHED")


def existing_run(run_id: str, settings: Settings) -> Run:
    """A run that another process has made and will end.

    Raises:
        PlatformError: MLflow cannot be reached, or has no such run.
    """
    uri = settings.resolved_tracking_uri
    shown = without_credentials(uri)
    with _explained(shown), _impatient():
        client = open_client(uri)
        return Run(client=client, run_id=run_id, experiment_id=client.get_run(run_id).info.experiment_id, uri=shown)


def code_revision(folder: Path | None = None) -> str:
    """The git commit of a folder, with `-dirty` when files that git knows have changes; empty outside a repository."""
    folder = folder or Path.cwd()
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit}-dirty" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _begin(name: str, settings: Settings) -> tuple[Run, bool]:
    """The run and whether it is ours to end."""
    uri = settings.resolved_tracking_uri
    shown = without_credentials(uri)
    existing = os.environ.get(RUN_ID_ENV, "")
    with _explained(shown), _impatient():
        client = open_client(uri)
        if existing:
            experiment_id = client.get_run(existing).info.experiment_id
            return Run(client=client, run_id=existing, experiment_id=experiment_id, uri=shown), False
        experiment_id = _experiment(client, name, settings)
        run_id = client.create_run(experiment_id, run_name=name).info.run_id
    return Run(client=client, run_id=run_id, experiment_id=experiment_id, uri=shown), True


def _experiment(client: Any, name: str, settings: Settings) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        root = settings.resolved_artifact_root
        try:
            return str(client.create_experiment(name, artifact_location=f"{root.rstrip('/')}/{name}" if root else None))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            # Another step made it between the look and the attempt.
            found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage == "deleted":
        raise PlatformError(
            f"MLflow's experiment {name!r} is deleted",
            fix="restore it (`mlflow experiments restore`) or rename the model",
        )
    return str(found.experiment_id)


def _end(run: Run, status: str) -> None:
    """Mark a run whose step failed; the step's own error matters more than one of this mark."""
    import logging

    try:
        with _explained(run.uri), _impatient():
            run.client.set_terminated(run.run_id, status)
    except PlatformError as error:
        logging.getLogger(__name__).warning("the run %s could not be marked %s: %s", run.run_id, status, error)


def without_credentials(uri: str) -> str:
    """An address as it may be shown.

    Example:
        >>> without_credentials("https://me:secret@mlflow.example.com/a")
        'https://mlflow.example.com/a'
    """
    scheme, separator, rest = uri.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"


@contextmanager
def _impatient() -> Iterator[None]:
    """Short time limits for MLflow's requests, where the environment sets none."""
    added = {key: value for key, value in _IMPATIENT.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise PlatformError(
            f"MLflow at {uri}: {str(error).strip().splitlines()[0]}",
            expected="a tracking server or database that answers",
            fix="set MLFLOW_TRACKING_URI, or tracking_uri in headway.yaml, to the right address",
        ) from error
