"""The Kubernetes API as this package needs it: server-side apply, reads, and waits by watch.

Everything is asked for by kind, in one namespace unless another is named. A request that reached no server, or a server
that was too busy, is sent again: every request here may be sent twice.
"""

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from headway.components.errors import ClusterError
from headway.components.kubernetes.kinds import KINDS
from headway.components.register.ledger import without_secrets

Document = dict[str, Any]
"""An object as the API has it."""
Documents = list[Document]

FIELD_MANAGER = "headway"
CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 30.0
WATCH_SECONDS = 60
"""How long one watch is asked for before it is opened again."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between a lost watch and the next one, doubled each time."""
_IN_CLUSTER_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_BEARER = re.compile(r"Bearer \S+")
_BUSY = frozenset({429, 502, 503, 504})


class NotFoundError(ClusterError):
    """There is no such object, or no such kind."""


class ForbiddenError(ClusterError):
    """These credentials may not do that."""


class ConflictError(ClusterError):
    """The object is not what the call takes it for."""


class ExistsError(ConflictError):
    """There is an object of that name already."""


class GoneError(Exception):
    """The server has forgotten the version from which a watch should go on."""


class DroppedError(Exception):
    """The connection of a watch or of a log broke."""


class Cluster:
    """One namespace of one cluster.

    Args:
        namespace: Where objects are, unless a call names another namespace.
        configuration: A `kubernetes.client.Configuration`; the pod's own credentials by default, else the kubeconfig.
        force: Whether `apply` takes over fields that others own.

    Raises:
        ClusterError: There are no credentials.
    """

    def __init__(self, namespace: str, *, configuration: Any = None, force: bool = False) -> None:
        from kubernetes import client
        from urllib3.util import Retry

        configuration = configuration or _configuration()
        # 410 and 409 are answers, not accidents; these are accidents.
        configuration.retries = Retry(
            total=3, backoff_factor=0.2, status_forcelist=_BUSY, allowed_methods=None, raise_on_status=False
        )
        self.namespace = namespace
        self.host = configuration.host
        self._force = force
        self._api = client.ApiClient(configuration)

    def get(self, kind: str, name: str, *, namespace: str | None = None) -> Document | None:
        """One object, or None when it is not there."""
        try:
            return self._request("GET", KINDS[kind].path(namespace or self.namespace, name))
        except NotFoundError:
            return None

    def list(self, kind: str, labels: Mapping[str, str], *, namespace: str | None = None) -> list[Document]:
        """All objects of a kind with these labels, the oldest first."""
        query = {"labelSelector": ",".join(f"{key}={value}" for key, value in labels.items())}
        found = self._request("GET", KINDS[kind].path(namespace or self.namespace), query=query)["items"]
        return sorted(found, key=lambda item: (item["metadata"]["creationTimestamp"], item["metadata"]["name"]))

    def apply(self, document: Document, *, dry_run: bool = False) -> Document:
        """Make an object what a document says, by server-side apply; fields that it does not name stay.

        Args:
            document: The object.
            dry_run: Only ask whether the cluster would take it.

        Raises:
            ClusterError: The cluster refused it, or another manager owns a field with another value: which, and who.
        """
        head = document["metadata"]
        path = KINDS[document["kind"]].path(head.get("namespace", self.namespace), head["name"])
        query = {"fieldManager": FIELD_MANAGER, "force": str(self._force).lower()}
        query |= {"dryRun": "All"} if dry_run else {}
        return self._request("PATCH", path, query=query, body=document, content="application/apply-patch+yaml")

    def create(self, document: Document) -> Document:
        """Make a new object; a field that the cluster does not know is refused, not dropped.

        Raises:
            ExistsError: There is one of that name, perhaps made by this very call when its answer was lost.
            ClusterError: The cluster refused it.
        """
        path = KINDS[document["kind"]].path(document["metadata"].get("namespace", self.namespace))
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        return self._request("POST", path, query=query, body=document)

    def delete(self, kind: str, name: str, *, uid: str = "") -> bool:
        """Delete an object and what it owns; it stays until all that it owns is gone.

        Args:
            kind: Its kind.
            name: Its name.
            uid: Delete only the object with this uid, not another one that has got its name since.

        Returns:
            Whether it was there.
        """
        only = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}} if uid else None
        query = {"propagationPolicy": "Foreground"}
        try:
            self._request("DELETE", KINDS[kind].path(self.namespace, name), query=query, body=only)
        except (NotFoundError, ConflictError):
            return False
        return True

    def wait(
        self, kind: str, name: str, done: Callable[[Document | None], bool], seconds: float
    ) -> tuple[Document | None, bool]:
        """Follow an object until it is as wanted.

        Watches resume where they broke off; a version that the server has forgotten (410) is read anew.

        Args:
            kind: The object's kind.
            name: Its name.
            done: Whether it is as wanted; gets None while it is not there.
            seconds: How long to wait at most.

        Returns:
            How it was last seen, and whether that is as wanted.
        """
        deadline = time.monotonic() + seconds
        pause, version = FIRST_PAUSE, ""
        seen: Document | None = None
        only = {"fieldSelector": f"metadata.name={name}"}
        while True:
            if not version:
                items, version = self.read(kind, only)
                seen = items[0] if items else None
            if done(seen):
                return seen, True
            left = deadline - time.monotonic()
            if left <= 0:
                return seen, False
            try:
                for change, found in self.watch(kind, only, version, left):
                    seen, version = None if change == "DELETED" else found, found["metadata"]["resourceVersion"]
                    pause = FIRST_PAUSE
                    if done(seen) or time.monotonic() >= deadline:
                        break
            except GoneError:
                version = ""
            except DroppedError:
                time.sleep(max(0.0, min(pause, deadline - time.monotonic())))
                pause = min(2 * pause, LONGEST_PAUSE)

    def read(self, kind: str, query: Mapping[str, str]) -> tuple[Documents, str]:
        """Objects that selectors choose, and the version of the collection from which a watch goes on."""
        found = self._request("GET", KINDS[kind].path(self.namespace), query=query)
        return found["items"], found["metadata"]["resourceVersion"]

    def watch(
        self, kind: str, query: Mapping[str, str], version: str, seconds: float
    ) -> Iterator[tuple[str, Document]]:
        """What becomes of objects after a version, as (`ADDED`, `MODIFIED` or `DELETED`, object), until the watch ends.

        Raises:
            GoneError: The server has forgotten that version.
            DroppedError: The connection broke.
        """
        from kubernetes import watch
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        path, lasts = KINDS[kind].path(self.namespace), max(1, min(WATCH_SECONDS, round(seconds)))
        headers = {"Accept": "application/json"}

        def opened(*, resource_version: str, **_: Any) -> Any:
            asked = {**query, "watch": "true", "timeoutSeconds": lasts, "resourceVersion": resource_version}
            return self._call("GET", path, asked, headers, None, (CONNECT_SECONDS, lasts + CONNECT_SECONDS))

        try:
            for event in watch.Watch().stream(opened, resource_version=version, timeout_seconds=lasts):
                yield event["type"], event["raw_object"]
        except ApiException as error:
            if error.status == 410:
                raise GoneError from None
            _refused(error, f"WATCH {path}")
        except (HTTPError, json.JSONDecodeError, OSError) as error:
            raise DroppedError from error

    def logs(self, pod: str, query: Mapping[str, Any], *, quiet: float) -> Iterator[str]:
        """A pod's log, line by line, until it ends.

        Args:
            pod: Its name.
            query: What is asked for: `container`, `follow`, `timestamps`, `sinceTime`.
            quiet: Seconds without a line after which the connection counts as broken.

        Raises:
            DroppedError: The connection broke.
            ClusterError: There is no such log, or not yet.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        path = f"{KINDS['Pod'].path(self.namespace, pod)}/log"
        try:
            response = self._call("GET", path, query, {"Accept": "*/*"}, None, (CONNECT_SECONDS, quiet))
            with contextlib.closing(response):
                rest = b""
                for chunk in response.stream(amt=None, decode_content=False):
                    *lines, rest = (rest + chunk).split(b"\n")
                    yield from (line.decode(errors="replace") for line in lines)
                if rest:
                    yield rest.decode(errors="replace")
        except ApiException as error:
            _refused(error, f"GET {path}")
        except (HTTPError, OSError) as error:
            raise DroppedError from error

    def allowed(self, verb: str, kind: str, *, part: str = "", namespace: str | None = None) -> bool:
        """Whether these credentials may do that; RBAC is asked, nothing is tried.

        Args:
            verb: `get`, `list`, `watch`, `create`, `patch` or `delete`.
            kind: The kind.
            part: A subresource such as `log`.
            namespace: Another namespace.
        """
        resource = KINDS[kind]
        attributes = {"verb": verb, "group": resource.group, "resource": resource.plural}
        attributes |= {"subresource": part} if part else {}
        attributes |= {"namespace": namespace or self.namespace} if resource.namespaced else {}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = self._request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=review)
        return bool(answer["status"]["allowed"])

    def serves(self, kind: str) -> bool:
        """Whether the cluster knows this kind."""
        resource = KINDS[kind]
        try:
            found = self._request("GET", resource.api)
        except NotFoundError:
            return False
        return any(each["name"] == resource.plural for each in found["resources"])

    def schema(self, kind: str) -> Document:
        """A kind's OpenAPI schema, which every authenticated caller may read.

        Raises:
            ClusterError: The cluster does not publish it.
        """
        resource = KINDS[kind]
        schemas = self._request("GET", f"/openapi/v3{resource.api}")["components"]["schemas"]
        wanted = {"group": resource.group, "kind": kind, "version": resource.version}
        for schema in schemas.values():
            if wanted in schema.get("x-kubernetes-group-version-kind", []):
                found: Document = schema
                return found
        raise NotFoundError(f"The cluster publishes no schema of {resource.full_name}")

    # ---- requests

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Document | None = None,
        content: str = "application/json",
    ) -> Document:
        headers = {"Accept": "application/json"} | ({"Content-Type": content} if body is not None else {})
        with self._errors(f"{method} {path}"):
            response = self._call(method, path, query, headers, body, (CONNECT_SECONDS, ANSWER_SECONDS))
            answer: Document = json.loads(response.data)
            return answer

    def _call(self, method: str, path: str, query: Any, headers: Any, body: Any, timeout: tuple[float, float]) -> Any:
        response, *_ = self._api.call_api(
            path,
            method,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=timeout,
        )
        return response

    @contextlib.contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ApiException as error:
            _refused(error, action)
        except (HTTPError, json.JSONDecodeError, OSError) as error:
            reason = _masked(str(getattr(error, "reason", None) or error)).splitlines()[0]
            raise ClusterError(
                f"The Kubernetes API at {self.host} cannot be reached for {action}: {reason}",
                fix="check the network and `kubectl cluster-info`, then do it again: nothing is done twice",
            ) from None


def _configuration() -> Any:
    from kubernetes import client, config

    configuration = client.Configuration()
    try:
        if _IN_CLUSTER_TOKEN.is_file():
            config.load_incluster_config(client_configuration=configuration)
        else:
            config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=configuration)
    except config.ConfigException as error:
        raise ClusterError(
            f"No credentials for a cluster: {_masked(str(error)).splitlines()[0]}",
            expected="a pod's service account, or a kubeconfig",
            fix="set KUBECONFIG, or run where `kubectl get pods` works",
        ) from None
    return configuration


def _refused(error: Any, action: str) -> NoReturn:
    """The API's own words as our error."""
    status = _status(error)
    message = _masked(str(status.get("message") or error.reason or f"HTTP {error.status}"))
    causes = status.get("details", {}).get("causes", [])
    owned = [cause for cause in causes if cause.get("reason") == "FieldManagerConflict"]
    if error.status == 404:
        raise NotFoundError(f"{action}: {message}") from None
    if error.status in (401, 403):
        raise ForbiddenError(
            f"{action}: {message}", fix="give the service account the role of manifests/serving"
        ) from None
    if status.get("reason") == "AlreadyExists":
        raise ExistsError(f"{action}: {message}") from None
    if owned:
        fields = "; ".join(f"{cause['field']}: {cause['message']}" for cause in owned)
        raise ClusterError(
            f"{action}: somebody else owns what should change: {fields}",
            expected=f"only {FIELD_MANAGER!r} sets these fields",
            fix="let the other manager go of them (`kubectl get -o yaml --show-managed-fields` shows it), "
            "or open the platform with force=True to take them over",
        ) from None
    kind = ConflictError if error.status == 409 else ClusterError
    raise kind(f"{action}: the cluster said no ({error.status}): {message}") from None


def _masked(message: str) -> str:
    """A message without the credentials that servers and libraries sometimes repeat."""
    masked: str = without_secrets(_BEARER.sub("Bearer ***", message))
    return masked


def _status(error: Any) -> Document:
    try:
        status = json.loads(error.body or "{}")
    except ValueError:
        return {}
    return status if isinstance(status, dict) else {}
