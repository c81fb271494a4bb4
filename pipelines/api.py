"""The Kubeflow Pipelines API, with errors that say what to do.

This is `kfp_server_api`, the generated client below `kfp.Client`. `kfp.Client` itself has no time limits, tries a dead
address for half a minute, prints links to standard output and writes a file in the home folder.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from headway.components.errors import PlatformError, UsageError
from headway.pipelines.endpoint import Endpoint

T = TypeVar("T")

CONNECT_SECONDS = 3.0
READ_SECONDS = 30.0
ATTEMPTS = 5
PAUSE_SECONDS = 0.5
"""The pause before the second attempt; it doubles with each further one."""
PAGE_SIZE = 100

_NOT_DONE = {429, 503}
"""Answers of a busy or restarting server, which certainly did not do what was asked."""
_MAYBE_DONE = {502, 504}
"""Answers of a gateway that lost the server in between."""

_EQUALS = 1
_CONNECTION = re.compile(r"^<?\(?'?[\w.]*Connection(Pool)?[^)]*\)>?: |\(_ssl\.c:\d+\)$")


class Api:
    """One installation's API. Made by `connect`.

    Args:
        endpoint: Where it is and who asks.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        import kfp_server_api

        self.endpoint = endpoint
        self.namespace = ""
        """The namespace for every request; empty where the installation has one user."""
        client = kfp_server_api.ApiClient(endpoint.configuration(), cookie=endpoint.cookies or None)
        self.pipelines = kfp_server_api.PipelineServiceApi(client)
        self.uploads = kfp_server_api.PipelineUploadServiceApi(client)
        self.experiments = kfp_server_api.ExperimentServiceApi(client)
        self.runs = kfp_server_api.RunServiceApi(client)
        self.recurring_runs = kfp_server_api.RecurringRunServiceApi(client)
        self._health = kfp_server_api.HealthzServiceApi(client)

    def call(self, method: Callable[..., T], *arguments: Any, repeatable: bool = True, **options: Any) -> T:
        """Call one method of the API, again while it is not available.

        Args:
            method: A method of one of the services.
            *arguments: Its arguments.
            repeatable: Whether sending it twice is harmless. One that is not is sent again only when it was certainly
                not carried out.
            **options: Its options; None leaves one out.

        Raises:
            PlatformError: It could not be reached, or said no.
        """
        given = {name: value for name, value in options.items() if value is not None}
        return self._attempt(method, *arguments, repeatable=repeatable, attempts=ATTEMPTS, **given)

    def find(self, method: Callable[..., Any], items: str, name: str, *arguments: Any, **options: Any) -> Any | None:
        """The one entry of a list whose display name is `name`; None when there is none."""
        predicate = {"operation": _EQUALS, "key": "display_name", "stringValue": name}
        answer = self.call(method, *arguments, filter=json.dumps({"predicates": [predicate]}), **options)
        found = getattr(answer, items) or []
        return found[0] if found else None

    def pages(self, method: Callable[..., Any], items: str, **options: Any) -> Iterator[Any]:
        """Every entry of a list, page after page."""
        token = ""
        while True:
            answer = self.call(method, page_token=token, page_size=PAGE_SIZE, **options)
            yield from getattr(answer, items) or []
            token = answer.next_page_token or ""
            if not token:
                return

    def check(self) -> None:
        """Ask the installation how it is, and whether it has many users; takes less than ten seconds.

        Raises:
            PlatformError: Nothing answers there, or something else does.
            UsageError: It has many users, and no namespace is given.
        """
        probe = self._health.healthz_service_get_healthz
        quick = (CONNECT_SECONDS, CONNECT_SECONDS)
        try:
            response = self._attempt(probe, repeatable=True, attempts=2, seconds=quick, _preload_content=False)
            health = json.loads(response.data)
        except NotFoundError:
            raise PlatformError(
                f"{self.endpoint.host} answers, but has no Kubeflow Pipelines API (404)",
                expected="the API's address: https://host standalone, https://host/pipeline in a whole Kubeflow",
                fix="correct --endpoint, KF_PIPELINES_ENDPOINT or kfp_endpoint",
            ) from None
        except ValueError:
            raise PlatformError(
                f"{self.endpoint.host} answers with a page, not with the Kubeflow Pipelines API",
                expected="the API's address and, where a login stands before it, credentials",
                fix=self._login_fix(),
            ) from None
        if health.get("multi_user"):
            self.namespace = self.endpoint.namespace
            if not self.namespace:
                raise UsageError(
                    f"{self.endpoint.host} has many users and needs a namespace",
                    fix="give --namespace, or set kfp_namespace in headway.yaml",
                )

    def _attempt(
        self,
        method: Callable[..., T],
        *arguments: Any,
        repeatable: bool,
        attempts: int,
        seconds: tuple[float, float] = (CONNECT_SECONDS, READ_SECONDS),
        **options: Any,
    ) -> T:
        import kfp_server_api
        from urllib3.exceptions import HTTPError

        for attempt in range(1, attempts + 1):
            try:
                return method(*arguments, _request_timeout=seconds, **options)
            except kfp_server_api.ApiException as error:
                passes = error.status in _NOT_DONE or (repeatable and error.status in _MAYBE_DONE)
                if not passes or attempt == attempts:
                    raise self._refusal(error.status, error) from None
            except HTTPError as error:
                if attempt == attempts or not (repeatable or _was_not_sent(error)):
                    raise self._silence(error, repeatable=repeatable) from None
            except AttributeError as error:
                # The generated client stumbles over its own report of a failed TLS handshake, which has no body.
                if not isinstance(error.__context__, kfp_server_api.ApiException):
                    raise
                raise self._silence(error.__context__, repeatable=True) from None
            time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
        raise AssertionError("the last attempt returns or raises")

    def _refusal(self, status: int, error: Any) -> PlatformError:
        """The server's refusal as a message with its own words."""
        host, said = self.endpoint.host, _server_message(error)
        if 300 <= status < 400:
            said, status = f": it redirects to {error.headers.get('location', 'another page').split('?')[0]}", 401
        if status == 401:
            who = f"does not accept {self.endpoint.auth}" if self.endpoint.auth else "wants to know who asks"
            return PlatformError(f"{host} {who} (401){said}", fix=self._login_fix())
        if status == 403:
            namespace = self.namespace or self.endpoint.namespace
            where = f" in the namespace {namespace!r}" if namespace else ""
            fix = "check --namespace, and that you are a contributor of that profile"
            return PlatformError(f"{host} forbids this{where} (403){said}", fix=fix)
        if status == 404:
            return NotFoundError(f"{host} has no such thing (404){said}", fix="check the id and --namespace")
        if status == 409:
            return ConflictError(f"{host} has that already (409){said}")
        maybe = "it may or may not have been done: look with `headway runs list`" if status in _MAYBE_DONE else None
        return PlatformError(f"{host} refused ({status}){said}", fix=maybe)

    def _silence(self, error: Exception, *, repeatable: bool) -> PlatformError:
        """The message for no answer at all."""
        reason = _short_reason(error)
        if repeatable or _was_not_sent(error):
            return PlatformError(
                f"Nothing answers at {self.endpoint.host}: {reason}",
                fix="check the address and the network; for a cluster: kubectl port-forward svc/ml-pipeline-ui 8080:80",
            )
        return PlatformError(
            f"The connection to {self.endpoint.host} broke before the answer came: {reason}",
            expected="an answer; what was asked for may or may not have been done",
            fix="look with `headway runs list` before you send it again",
        )

    def _login_fix(self) -> str:
        if self.endpoint.auth:
            return f"renew {self.endpoint.auth}; a session or a token runs out"
        return "set one of kfp_token, kfp_cookies or kfp_service_account_token"


class NotFoundError(PlatformError):
    """The API has nothing under that name or id."""


class ConflictError(PlatformError):
    """The API has something under that name already."""


def connect(endpoint: Endpoint) -> Api:
    """An installation's API, checked to be there.

    Raises:
        PlatformError: Nothing answers there within ten seconds, or something else does.
        UsageError: It has many users, and no namespace is given.
    """
    api = Api(endpoint)
    api.check()
    return api


def _was_not_sent(error: Exception) -> bool:
    """Whether the request certainly never reached the server."""
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

    return isinstance(error, (ConnectTimeoutError, NewConnectionError))


def _short_reason(error: Exception) -> str:
    """The cause in one line, without the name of urllib3's connection before it."""
    text = str(getattr(error, "reason", None) or error).replace("\n", ": ")
    return _CONNECTION.sub("", text) or type(error).__name__


def _server_message(error: Any) -> str:
    """What the server said, from either of its two forms of error body; empty when it said nothing readable."""
    body = error.body or ""
    try:
        document = json.loads(body)
    except ValueError:
        document = {}
    said = document.get("message") or document.get("error_message") or "" if isinstance(document, dict) else ""
    said = str(said).split("\n", maxsplit=1)[0][:500]
    return f": {said}" if said else ""
