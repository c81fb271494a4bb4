"""MLflow as the registry's store: its calls, its errors and its habits, in one place.

Reads are plain. Writes are meant for the registry, which orders and repeats them (intents.py).
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.components.errors import PlatformError, RegistryError, UnknownNameError
from headway.components.mlflow_store import open_client
from headway.components.register import names
from headway.components.register.ledger import without_secrets
from headway.components.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG = "headway."
"""What stands before the tags that Headway sets on a version."""
_PAGE = 1_000


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version of a model."""

    name: str
    version: int
    """The registry's number: 1, 2, 3, …"""
    semver: str
    """MAJOR.MINOR.PATCH; empty for a version that was not registered by Headway."""
    digest: str
    """The bundle's digest; empty for a version that was not registered by Headway."""
    aliases: tuple[str, ...]
    run_id: str
    source: str
    """Where its files lie, as MLflow has it."""
    decision: str
    """The gate's decision at registration."""
    contract_digest: str
    data_digest: str
    code_revision: str
    created: str
    """UTC, ISO 8601."""
    card: str
    """The model card, Markdown."""

    @property
    def label(self) -> str:
        """What messages call it: `flights 3 (1.2.0)`."""
        return f"{self.name} {self.version}" + (f" ({self.semver})" if self.semver else "")


class Store:
    """Models, versions, aliases and files in one MLflow.

    Args:
        settings: Where MLflow is, and where artifacts of a new experiment go.
        client: A client to use; one for the settings' tracking URI by default.
    """

    def __init__(self, settings: Settings, *, client: "MlflowClient | None" = None) -> None:
        self.settings = settings
        self._client = client

    @property
    def client(self) -> "MlflowClient":
        """The MLflow client, made at first use: importing MLflow takes seconds."""
        if self._client is None:
            with self.errors(), quiet():
                self._client = open_client(self.settings.resolved_tracking_uri)
        return self._client

    # ---- reading

    def names(self) -> list[str]:
        """All models' names, in order."""
        with self.errors():
            return sorted(str(model.name) for model in _all_pages(self.client.search_registered_models))

    def aliases(self, name: str) -> dict[str, int] | None:
        """All aliases of a model, or None when there is no such model.

        They come from the model: MLflow's search for versions leaves them out.
        """
        model = self._unless_missing(lambda: self.client.get_registered_model(name))
        return None if model is None else {str(alias): int(version) for alias, version in model.aliases.items()}

    def require_aliases(self, name: str) -> dict[str, int]:
        """All aliases of a model.

        Raises:
            UnknownNameError: There is no such model; offers the near ones.
        """
        aliases = self.aliases(names.model_name(name))
        if aliases is None:
            raise UnknownNameError("model", name, self.names())
        return aliases

    def versions(self, name: str) -> list[Version]:
        """All versions of a model, the oldest first; none when there is no such model."""
        return self._search(name, f"name='{names.model_name(name)}'")

    def by_digest(self, name: str, digest: str) -> Version | None:
        """The version that a bundle is already registered as, if it is."""
        found = self._search(name, f"name='{names.model_name(name)}' and tags.`{TAG}digest`='{digest}'")
        return found[0] if found else None

    def by_number(self, name: str, number: int) -> Version | None:
        """One version by its number, or None."""
        found = self._unless_missing(lambda: self.client.get_model_version(names.model_name(name), str(number)))
        return None if found is None else _version(found, self.aliases(name) or {})

    def storage_uri(self, version: Version) -> str:
        """Where a version's files lie, as KServe's storage initialiser or fsspec reads it.

        Raises:
            RefusedNameError: The place has a form outside the allow-list.
        """
        with self.errors():
            uri = self.client.get_model_version_download_uri(version.name, str(version.version))
        return names.artifact_uri(uri)

    def fetch(self, version: Version, target: Path, file: str = "") -> Path:
        """Fetch all files of a version into a folder, or one file.

        Returns:
            The folder that holds the files, or the file.

        Raises:
            RegistryError: Headway did not register the version, or its files are gone.
        """
        import mlflow.artifacts
        from mlflow.exceptions import MlflowException

        if not version.digest:
            raise RegistryError(
                f"{version.label} has no digest: Headway did not register it", fix="register its bundle"
            )
        uri = self.storage_uri(version) + (f"/{names.relative_path(file)}" if file else "")
        try:
            with quiet():
                path = mlflow.artifacts.download_artifacts(
                    artifact_uri=uri, dst_path=str(target), tracking_uri=self.settings.resolved_tracking_uri
                )
        except (MlflowException, OSError) as error:
            raise RegistryError(
                f"{version.label}: its files cannot be fetched from {uri}: {_first_line(error)}",
                expected="the files that were registered",
            ) from None
        return Path(path)

    # ---- writing

    def set_alias(self, name: str, alias: str, number: int) -> None:
        """Point an alias at a version, wherever it pointed before."""
        with self.errors():
            self.client.set_registered_model_alias(names.model_name(name), names.alias(alias), str(number))

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove an alias; nothing happens when it is not there."""
        with self.errors():
            self.client.delete_registered_model_alias(names.model_name(name), names.alias(alias))

    def create(self, name: str, *, source: str, run_id: str, tags: Mapping[str, str], card: str) -> int:
        """Make a version with all its tags in one call, and the model before it if needed; return its number."""
        with self.errors(), quiet():
            _ignoring("RESOURCE_ALREADY_EXISTS", lambda: self.client.create_registered_model(names.model_name(name)))
            made = self.client.create_model_version(
                name, source=names.artifact_uri(source), run_id=run_id, tags=dict(tags), description=card
            )
        return int(made.version)

    def usable_run(self, run_id: str, name: str) -> str:
        """The run to register from; a new one in the model's experiment when none is given.

        Raises:
            RegistryError: There is no such run, or it failed.
        """
        if not run_id:
            with self.errors():
                return self._new_run(name)
        run = self._unless_missing(lambda: self.client.get_run(run_id))
        if run is None:
            raise RegistryError(f"There is no MLflow run {run_id!r}", expected="the run that trained the model")
        if run.info.status in ("FAILED", "KILLED") or run.info.lifecycle_stage == "deleted":
            state = "deleted" if run.info.lifecycle_stage == "deleted" else run.info.status
            raise RegistryError(f"MLflow run {run_id!r} is {state}", expected="a run that trained a model")
        return run_id

    def upload(self, folder: Path, place: str, run_id: str) -> str:
        """Put a folder among a run's artifacts and return its URI."""
        with self.errors(), quiet():
            self.client.log_artifacts(run_id, str(folder), names.relative_path(place))
            root = names.artifact_uri(self.client.get_run(run_id).info.artifact_uri)
        return names.artifact_uri(f"{root.rstrip('/')}/{place}")

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn MLflow's errors into ours, with its address and without its secrets.

        Raises:
            PlatformError: MLflow could not be reached, or said no.
        """
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            where = without_secrets(self.settings.resolved_tracking_uri)
            raise PlatformError(
                f"MLflow at {where} said no: {without_secrets(_first_line(error))}",
                fix="check HEADWAY_TRACKING_URI or MLFLOW_TRACKING_URI, and that MLflow is up",
            ) from error

    def _search(self, name: str, query: str) -> list[Version]:
        with self.errors():
            found = _all_pages(self.client.search_model_versions, filter_string=query)
        aliases = (self.aliases(name) or {}) if found else {}
        return sorted((_version(each, aliases) for each in found), key=lambda version: version.version)

    def _unless_missing(self, call: Callable[[], Any]) -> Any:
        with self.errors():
            return _ignoring("RESOURCE_DOES_NOT_EXIST", call)

    def _new_run(self, name: str) -> str:
        root = self.settings.resolved_artifact_root
        place = f"{root}/{name}" if root else None
        if self.client.get_experiment_by_name(name) is None:
            _ignoring("RESOURCE_ALREADY_EXISTS", lambda: self.client.create_experiment(name, artifact_location=place))
        experiment = self.client.get_experiment_by_name(name)
        run = self.client.create_run(experiment.experiment_id, run_name=f"register {name}")
        self.client.set_terminated(run.info.run_id)
        return str(run.info.run_id)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep MLflow's and Alembic's progress out of the step's log."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _version(found: Any, aliases: Mapping[str, int]) -> Version:
    tags = {key.removeprefix(TAG): value for key, value in found.tags.items() if key.startswith(TAG)}
    number = int(found.version)
    return Version(
        name=str(found.name),
        version=number,
        semver=tags.get("version", ""),
        digest=tags.get("digest", ""),
        aliases=tuple(sorted(alias for alias, version in aliases.items() if version == number)),
        run_id=found.run_id or "",
        source=found.source or "",
        decision=tags.get("decision", ""),
        contract_digest=tags.get("contract_digest", ""),
        data_digest=tags.get("data_digest", ""),
        code_revision=tags.get("code_revision", ""),
        created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
        card=found.description or "",
    )


def _all_pages(search: Callable[..., Any], **query: Any) -> list[Any]:
    page = search(max_results=_PAGE, **query)
    found = list(page)
    while page.token:
        page = search(max_results=_PAGE, page_token=page.token, **query)
        found += page
    return found


def _ignoring(code: str, call: Callable[[], Any]) -> Any:
    """The call's result, or None when MLflow answers with this code."""
    from mlflow.exceptions import MlflowException

    try:
        return call()
    except MlflowException as error:
        if error.error_code != code:
            raise
        return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
