"""Where things are: typed settings with one order of precedence, default < file < environment < flag.

The file is `headway.yaml` in the current folder (or the one that HEADWAY_CONFIG names); an environment variable is the
setting's name in capitals behind `HEADWAY_`. `headway config` prints each setting, its value and where it came from.
"""

import os
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, SecretStr

from headway.components.config import Config, parse_yaml
from headway.components.errors import ConfigError, did_you_mean

ENV_PREFIX = "HEADWAY_"
CONFIG_ENV = "HEADWAY_CONFIG"
PROJECT_ENV = "HEADWAY_PROJECT"
"""The project's folder, where a step's relative paths start; a runner sets it for each step, so it is no setting."""
CONFIG_FILE = "headway.yaml"


class Settings(Config):
    """Settings of this installation, the same for every command, component and notebook."""

    document: ClassVar[str] = "settings file"

    home: Path = Path(".headway")
    """Where the embedded platform keeps runs, cache, registry, ledger and keys."""
    tracking_uri: str = ""
    """MLflow's address; empty means SQLite under `home`. MLFLOW_TRACKING_URI, when set, wins."""
    database_url: SecretStr = SecretStr("")
    """SQLAlchemy URL of the ledger; empty means SQLite under `home`."""
    policy: Path | None = None
    """The trust policy; empty means `policy.yaml` under `home`, made on first use."""
    signing_key: Path | None = None
    """The private key that signs bundles (PEM, EC); empty means one under `home`, made on first use."""
    artifact_root: str = ""
    """Where MLflow keeps artifacts of a new experiment; empty means a folder under `home`."""
    image: str = "headway-python:0.1.0"
    """The image that components run in. A release names it by digest."""
    kfp_endpoint: str = ""
    """The Kubeflow Pipelines API, for `headway submit`. KF_PIPELINES_ENDPOINT, when set, wins."""
    kfp_ui: str = ""
    """The address people open in a browser, where it is not the API's. KF_PIPELINES_UI_ENDPOINT, when set, wins."""
    kfp_namespace: str = ""
    """The profile namespace of a multi-user installation."""
    kfp_token: SecretStr = SecretStr("")
    """A bearer token for Kubeflow Pipelines."""
    kfp_cookies: SecretStr = SecretStr("")
    """A session cookie for Kubeflow Pipelines, such as `authservice_session=…`."""
    kfp_service_account_token: Path | None = None
    """A projected service-account token file for Kubeflow Pipelines."""
    platform: Literal["embedded", "kubeflow"] = "embedded"
    """Where endpoints are served: processes on this machine behind Envoy, or InferenceServices on a cluster."""
    gateway_port: int = Field(default=8080, ge=0, le=65_535)
    """The embedded gateway's port on 127.0.0.1; 0 takes a free one at the first start and keeps it."""
    serving_namespace: str = "default"
    """The Kubernetes namespace of InferenceServices."""
    serving_mode: Literal["gateway", "canary", "knative"] = "gateway"
    """How traffic is split on a cluster: weighted HTTPRoute, KServe's `spec.canary`, or `canaryTrafficPercent`."""
    serving_image: str = "headway-serving:0.1.0"
    """The image of the model server (serving/Containerfile). A release names it by digest."""
    serving_gateway: str = "kserve/kserve-ingress-gateway"
    """The Gateway that HTTPRoutes attach to, as NAMESPACE/NAME."""
    serving_domain: str = "example.com"
    """What an endpoint's host name ends in: NAME.NAMESPACE.DOMAIN."""
    prometheus_url: str = ""
    """The Prometheus that scrapes gateway and servers of a cluster."""
    serving_logger_url: str = ""
    """Where KServe's agent sends requests and answers as CloudEvents; empty means nowhere."""
    training_cluster: Path | None = None
    """What training jobs on several machines get: queue, volumes, tolerations (train_distributed/CLUSTER.md)."""
    payload_days: int = Field(default=90, ge=1)
    """How long the payload log is kept, in days."""
    manifests_folder: Path | None = None
    """A Git working folder that gets the manifests of each new route, so that GitOps keeps what a release decided."""
    threads: int = Field(default=0, ge=0)
    """Threads that a step may use; 0 means as many as there are cores for this process."""

    @property
    def resolved_tracking_uri(self) -> str:
        """MLflow's address after the environment and the default."""
        return (
            os.environ.get("MLFLOW_TRACKING_URI") or self.tracking_uri or f"sqlite:///{self._under_home('mlflow.db')}"
        )

    @property
    def resolved_artifact_root(self) -> str:
        """Where a new experiment's artifacts go; empty leaves it to the MLflow server."""
        if self.artifact_root:
            return self.artifact_root
        embedded = self.resolved_tracking_uri.startswith("sqlite:")
        return self._under_home("artifacts").as_uri() if embedded else ""

    @property
    def resolved_database_url(self) -> str:
        """The ledger's SQLAlchemy URL."""
        return self.database_url.get_secret_value() or f"sqlite:///{self._under_home('ledger.db')}"

    @property
    def resolved_policy(self) -> Path:
        """The trust policy's file."""
        return self.policy or self._under_home("policy.yaml")

    @property
    def resolved_signing_key(self) -> Path:
        """The private signing key's file."""
        return self.signing_key or self._under_home("keys") / "signing.pem"

    @property
    def embedded_keys(self) -> bool:
        """Whether key and policy are ours to make: only where nobody configured them."""
        return self.policy is None and self.signing_key is None

    def _under_home(self, name: str) -> Path:
        return self.home.expanduser().resolve() / name


def load_settings(**flags: Any) -> Settings:
    """The settings in force: default < file < environment < flag.

    Args:
        **flags: Settings given on the command line; None means not given.

    Raises:
        ConfigError: A key is unknown or a value is wrong; says where it came from.
    """
    values, _ = _collect(flags)
    return Settings.parse(values, where="settings")


def settings_sources(**flags: Any) -> dict[str, tuple[str, str]]:
    """Each setting as (value, where it came from); secrets are masked.

    Example:
        >>> settings_sources(threads=2)["threads"]
        ('2', 'flag')
    """
    values, sources = _collect(flags)
    settings = Settings.parse(values, where="settings")
    return {name: (str(getattr(settings, name)), sources.get(name, "default")) for name in Settings.model_fields}


def _collect(flags: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for found, source in (_from_file(), (_from_environment(), "environment"), (flags, "flag")):
        for name, value in found.items():
            if value is not None:
                values[name] = value
                sources[name] = source
    return values, sources


def _from_file() -> tuple[dict[str, Any], str]:
    named = os.environ.get(CONFIG_ENV)
    path = Path(named or CONFIG_FILE)
    if not path.is_file():
        if named:
            raise ConfigError(f"{path}: no such file", fix=f"correct or unset {CONFIG_ENV}")
        return {}, str(path)
    data = parse_yaml(path.read_text(encoding="utf-8"), where=str(path)) or {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: got a {type(data).__name__}", expected="a mapping of settings")
    Settings.parse(data, where=str(path))
    return data, str(path)


def _from_environment() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for variable, value in os.environ.items():
        if not variable.startswith(ENV_PREFIX) or variable in (CONFIG_ENV, PROJECT_ENV):
            continue
        name = variable.removeprefix(ENV_PREFIX).lower()
        if name not in Settings.model_fields:
            near = did_you_mean(name, Settings.model_fields)
            raise ConfigError(f"Environment variable {variable} names no setting{near}", fix=f"unset {variable}")
        found[name] = value
    return found
