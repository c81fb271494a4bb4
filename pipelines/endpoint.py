"""Where Kubeflow Pipelines is, and who asks: one address and one way to authenticate, checked before anything is sent.

The address comes from `--endpoint`, then KF_PIPELINES_ENDPOINT, then the `kfp_endpoint` setting; inside a pod that has
a projected token it is the cluster's own service. A secret is never part of a message, a `repr` or a log line.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headway.components.errors import UsageError
from headway.components.settings import Settings, load_settings
from headway.pipelines.links import is_cluster_internal, with_scheme

PROJECTED_TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")
"""Where Kubeflow's PodDefault `access-ml-pipeline` projects a notebook's token."""
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
IN_CLUSTER_HOST = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"

HOST_ENV = "KF_PIPELINES_ENDPOINT"
UI_ENV = "KF_PIPELINES_UI_ENDPOINT"
TOKEN_PATH_ENV = "KF_PIPELINES_SA_TOKEN_PATH"  # noqa: S105 - a variable's name

_MODES = {
    "token": "kfp_token",
    "cookies": "kfp_cookies",
    "service_account_token": "kfp_service_account_token",
}


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An installation of Kubeflow Pipelines and the credentials for it; at most one of the three kinds is set.

    Raises:
        UsageError: More than one kind of credentials, or one that cannot work.
    """

    host: str
    """The API's address."""
    ui: str = ""
    """The address people open, where it differs."""
    namespace: str = ""
    """The profile namespace of a multi-user installation."""
    token: str = field(default="", repr=False)
    """A bearer token."""
    cookies: str = field(default="", repr=False)
    """A session cookie, `name=value`."""
    service_account_token: Path | None = None
    """A token file that the kubelet renews; read again for every request."""

    def __post_init__(self) -> None:
        if not self.host:
            raise UsageError("An endpoint needs the API's address")
        object.__setattr__(self, "host", with_scheme(self.host))
        object.__setattr__(self, "ui", with_scheme(self.ui))
        given = [setting for name, setting in _MODES.items() if getattr(self, name)]
        if len(given) > 1:
            raise UsageError(
                f"Two ways to authenticate at once: {' and '.join(given)}",
                expected="exactly one",
                fix="unset all but one; `headway config` shows where each comes from",
            )
        self._check_credentials()

    @property
    def auth(self) -> str:
        """How requests are authenticated, by the setting's name; empty for not at all."""
        return next((setting for name, setting in _MODES.items() if getattr(self, name)), "")

    @classmethod
    def from_settings(
        cls,
        *,
        host: str | None = None,
        ui: str | None = None,
        namespace: str | None = None,
        settings: Settings | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> "Endpoint":
        """The endpoint that flags, environment and settings say, in that order.

        Args:
            host: The API's address from a flag.
            ui: The UI's address from a flag.
            namespace: The namespace from a flag.
            settings: The settings in force when not given.
            environ: The process's environment when not given.

        Raises:
            UsageError: No address, or credentials that contradict each other.
        """
        settings = settings or load_settings()
        environ = os.environ if environ is None else environ
        address = host or environ.get(HOST_ENV) or settings.kfp_endpoint or _in_cluster_host(environ)
        if not address:
            raise _no_address(settings)
        return cls(
            host=address,
            ui=ui or environ.get(UI_ENV) or settings.kfp_ui,
            namespace=namespace or settings.kfp_namespace or _pod_namespace(),
            token=settings.kfp_token.get_secret_value(),
            cookies=settings.kfp_cookies.get_secret_value(),
            service_account_token=_token_file(settings, environ, address),
        )

    def configuration(self) -> Any:
        """The generated client's configuration: address, certificates, and the token for each request."""
        import kfp_server_api

        configuration = kfp_server_api.Configuration(host=self.host)
        configuration.ssl_ca_cert = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
        # Retries are the caller's, who knows which requests may be sent twice.
        configuration.retries = False
        if self.token or self.service_account_token:
            configuration.api_key["authorization"] = self.token
            configuration.api_key_prefix["authorization"] = "Bearer"
        if self.service_account_token:
            configuration.refresh_api_key_hook = self._refresh
        return configuration

    def client(self) -> Any:
        """A `kfp.Client` for what Headway has no command for, authenticated the same way.

        `kfp` reads the projected token by itself only when it is given no host, so it is handed over explicitly.
        """
        import kfp
        from kfp.client import ServiceAccountTokenVolumeCredentials

        token_file = self.service_account_token
        return kfp.Client(
            host=self.host,
            ui_host=self.ui or self.host,
            namespace=self.namespace or "kubeflow",
            existing_token=self.token or None,
            cookies=self.cookies,
            credentials=ServiceAccountTokenVolumeCredentials(str(token_file)) if token_file else None,
        )

    def _refresh(self, configuration: Any) -> None:
        configuration.api_key["authorization"] = _read_token(self.service_account_token)

    def _check_credentials(self) -> None:
        if self.cookies and "=" not in self.cookies:
            raise UsageError(
                "kfp_cookies has no name", expected="name=value, such as authservice_session=…, as the browser sends it"
            )
        if self.token and any(character.isspace() for character in self.token):
            raise UsageError("kfp_token has white space in it", expected="the token alone, without `Bearer`")
        if self.service_account_token:
            _read_token(self.service_account_token)


def _in_cluster_host(environ: Mapping[str, str]) -> str:
    """The cluster's own service, for a pod that was given a token for it."""
    return IN_CLUSTER_HOST if environ.get(TOKEN_PATH_ENV) or PROJECTED_TOKEN.is_file() else ""


def _token_file(settings: Settings, environ: Mapping[str, str], host: str) -> Path | None:
    """The token file to use: the one a person set, else the pod's own, which goes to the cluster's service only."""
    if settings.kfp_service_account_token:
        return settings.kfp_service_account_token
    if settings.kfp_token.get_secret_value() or settings.kfp_cookies.get_secret_value():
        return None
    if environ.get(TOKEN_PATH_ENV):
        return Path(environ[TOKEN_PATH_ENV])
    return PROJECTED_TOKEN if is_cluster_internal(host) and PROJECTED_TOKEN.is_file() else None


def _pod_namespace() -> str:
    return POD_NAMESPACE.read_text(encoding="utf-8").strip() if POD_NAMESPACE.is_file() else ""


def _read_token(path: Path | None) -> str:
    try:
        token = path.read_text(encoding="utf-8").strip() if path else ""
    except OSError as error:
        raise UsageError(
            f"kfp_service_account_token: cannot read {path}: {error.strerror}",
            fix="inside a pod, ask for the PodDefault access-ml-pipeline; elsewhere use kfp_token or kfp_cookies",
        ) from None
    if not token:
        raise UsageError(f"kfp_service_account_token: {path} is empty", expected="a token")
    return token


def _no_address(settings: Settings) -> UsageError:
    set_without = [setting for setting in (*_MODES.values(), "kfp_ui") if _is_set(settings, setting)]
    alone = f" ({' and '.join(set_without)} given, but not where to)" if set_without else ""
    return UsageError(
        f"No address of Kubeflow Pipelines{alone}",
        fix=(
            "give one of --endpoint https://…, the environment variable KF_PIPELINES_ENDPOINT, or "
            "kfp_endpoint in headway.yaml; `headway run` needs none"
        ),
    )


def _is_set(settings: Settings, name: str) -> bool:
    value = getattr(settings, name)
    return bool(value.get_secret_value() if hasattr(value, "get_secret_value") else value)
