"""A Kubernetes API server on 127.0.0.1: real HTTP, versions, watches, and server-side apply with owners of fields.

It keeps what it is given, refuses what the CRDs' schemas do not allow, and does nothing by itself: controllers
(`fake_controllers`) move the objects. Faults come from outside: `down`, `failures`, `drop_watches`, `forget`.
"""

import copy
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from headway.components.kubernetes.kinds import KINDS
from tests.components.kubernetes import schemas

Object = dict[str, Any]
Path = tuple[str, ...]
Key = tuple[str, str, str]
TOKEN = "a-token-for-tests"


class RefusalError(Exception):
    """An answer that is no success."""

    def __init__(self, code: int, reason: str, message: str, causes: list[Object] | None = None) -> None:
        super().__init__(message)
        details = {"details": {"causes": causes}} if causes else {}
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
        self.body = status | {"reason": reason, "message": message} | details
        self.code = code


class PodLog:
    """What a container has written, line by line with its time."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.ended = False


_ENDED = PodLog()
_ENDED.ended = True


class FakeKubernetes:
    """One cluster."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.objects: dict[Key, Object] = {}
        self.owners: dict[Key, dict[str, set[Path]]] = {}
        self.events: list[tuple[int, Key, str, Object]] = []
        self.version = 100
        self.forgotten = 0
        self.epoch = 0
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.logs: dict[str, PodLog] = {}
        """By pod."""
        self.lingering = {"InferenceService", "TrainJob", "PyTorchJob"}
        """Kinds whose objects stay, marked as going, until a controller has taken away what they own."""
        self.absent: set[str] = set()
        """Kinds that this cluster does not know."""
        self.denied: set[tuple[str, str]] = set()
        """Verb and plural that the caller may not use."""
        self.down = False
        """Whether connections are closed without an answer."""
        self.failures: list[tuple[str, int]] = []
        """Method and status of the next answers of that method."""
        self.before: Callable[[str, str], None] = lambda method, path: None
        """Called with each request, before it is answered."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.drop_watches()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    # ---- what tests and controllers do

    def get(self, kind: str, name: str, namespace: str = "models") -> Object | None:
        with self.changed:
            found = self.objects.get(key(kind, name, namespace))
            return copy.deepcopy(found)

    def all(self, kind: str) -> list[Object]:
        with self.changed:
            return [copy.deepcopy(found) for at, found in self.objects.items() if at[0] == KINDS[kind].plural]

    def put(self, document: Object, *, manager: str = "controller") -> Object:
        """Store an object as it is; who puts it owns all it has changed."""
        head = document["metadata"]
        at = key(document["kind"], head["name"], head.get("namespace", ""))
        with self.changed:
            before = self.objects.get(at)
            changed = {
                path for path, value in _leaves(document).items() if before is None or _at(before, path) != value
            }
            for paths in self.owners.get(at, {}).values():
                paths.difference_update(changed)
            self.owners.setdefault(at, {}).setdefault(manager, set()).update(changed)
            return self._store(at, copy.deepcopy(document))

    def set_status(self, kind: str, name: str, namespace: str, status: Object) -> None:
        """What a controller reports; nothing happens when it says nothing new."""
        with self.changed:
            at = key(kind, name, namespace)
            found = self.objects.get(at)
            if found is not None and found.get("status") != status:
                self._store(at, copy.deepcopy(found) | {"status": copy.deepcopy(status)})

    def remove(self, kind: str, name: str, namespace: str) -> None:
        with self.changed:
            at = key(kind, name, namespace)
            found = self.objects.pop(at, None)
            self.owners.pop(at, None)
            if found is not None:
                self.version += 1
                found = copy.deepcopy(found)
                found["metadata"]["resourceVersion"] = str(self.version)
                self._tell(at, "DELETED", found)

    def write(self, pod: str, text: str, *, at: str = "", ended: bool = False) -> None:
        """Let a pod's container write a line, or end."""
        with self.changed:
            log = self.logs.setdefault(pod, PodLog())
            if text:
                log.lines.append((at or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z"), text))
            log.ended = ended
            self.changed.notify_all()

    def drop_watches(self) -> None:
        """Close all watches and logs in the middle."""
        with self.changed:
            self.epoch += 1
            self.changed.notify_all()

    def forget(self) -> None:
        """Forget all that has happened so far: watches from there get 410."""
        with self.changed:
            self.version += 1
            self.forgotten = self.version
            self.events.clear()

    # ---- the API

    def answer(self, method: str, path: str, query: dict[str, str], body: Object | None) -> Object:
        if path.startswith("/openapi/v3/"):
            return self._openapi(path)
        if path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews":
            assert body is not None
            wanted = body["spec"]["resourceAttributes"]
            resource = "/".join(filter(None, (wanted["resource"], wanted.get("subresource"))))
            return body | {"status": {"allowed": (wanted["verb"], resource) not in self.denied}}
        kind, namespace, name = self._find(path)
        if not kind:
            return self._discover(path)
        verb = {"PATCH": "patch", "DELETE": "delete", "POST": "create"}.get(method, "get" if name else "list")
        if (verb, KINDS[kind].plural) in self.denied:
            where = f'"{KINDS[kind].full_name}" in the namespace "{namespace}"'
            raise RefusalError(403, "Forbidden", f"cannot {verb} resource {where}: Bearer {TOKEN}")
        if verb == "list":
            return self._listed(kind, namespace, query)
        if verb == "create":
            assert body is not None
            return self._create(key(kind, body["metadata"]["name"], namespace), body, query)
        return self._one(method, key(kind, name, namespace), query, body)

    def _one(self, method: str, at: Key, query: dict[str, str], body: Object | None) -> Object:
        if method == "PATCH":
            assert body is not None
            return self._apply(at, body, query)
        with self.changed:
            if at not in self.objects:
                raise RefusalError(404, "NotFound", f'{at[0]} "{at[2]}" not found')
            if method == "DELETE":
                if body and body["preconditions"]["uid"] != self.objects[at]["metadata"]["uid"]:
                    raise RefusalError(409, "Conflict", "the UID in the precondition is another one")
                return self._delete(at)
            return copy.deepcopy(self.objects[at])

    def log(self, path: str, query: dict[str, str]) -> Iterator[str]:
        """A pod's log as the kubelet sends it; `sinceTime` counts in whole seconds."""
        pod = path.split("/")[-2]
        if pod not in self.logs:
            raise RefusalError(
                400, "BadRequest", f'container "{query["container"]}" in pod "{pod}" is waiting to start'
            )
        return self._log_lines(pod, query)

    def _log_lines(self, pod: str, query: dict[str, str]) -> Iterator[str]:
        since, sent, epoch = query.get("sinceTime", "")[:19], 0, self.epoch
        while True:
            with self.changed:
                if self.epoch != epoch:
                    raise ConnectionAbortedError
                log = self.logs.get(pod) or _ENDED
                new, ended = log.lines[sent:], log.ended or "follow" not in query
                sent += len(new)
                if not new and not ended:
                    self.changed.wait(0.5)
                    continue
            for at, text in new:
                if at[:19] >= since:
                    yield f"{at} {text}\n" if "timestamps" in query else f"{text}\n"
            if ended:
                return

    def watch(self, path: str, query: dict[str, str]) -> Iterator[Object]:
        kind, namespace, _ = self._find(path)
        after, deadline = int(query["resourceVersion"]), time.monotonic() + int(query["timeoutSeconds"])
        epoch = self.epoch
        while True:
            with self.changed:
                if self.epoch != epoch:
                    raise ConnectionAbortedError
                if after < self.forgotten:
                    yield {"type": "ERROR", "object": RefusalError(410, "Expired", "too old resource version").body}
                    return
                found = [
                    (version, change, item)
                    for version, at, change, item in self.events
                    if version > after and at[:2] == (KINDS[kind].plural, namespace) and _selected(item, query)
                ]
                if not found and time.monotonic() < deadline:
                    self.changed.wait(max(0.0, min(0.5, deadline - time.monotonic())))
                    continue
            for version, change, item in found:
                after = version
                yield {"type": change, "object": item}
            if time.monotonic() >= deadline:
                return

    def _listed(self, kind: str, namespace: str, query: dict[str, str]) -> Object:
        with self.changed:
            items = [
                copy.deepcopy(found)
                for at, found in self.objects.items()
                if at[:2] == (KINDS[kind].plural, namespace) and _selected(found, query)
            ]
            return {"kind": f"{kind}List", "items": items, "metadata": {"resourceVersion": str(self.version)}}

    def problems(self, document: Object) -> list[str]:
        """What is wrong with a document for the versions of this cluster."""
        return schemas.problems(document)

    def _create(self, at: Key, document: Object, query: dict[str, str]) -> Object:
        if query.get("fieldValidation") != "Strict":
            raise RefusalError(500, "InternalError", "this fake does not drop unknown fields: ask for Strict")
        if wrong := self.problems(document):
            raise RefusalError(400, "BadRequest", f"strict decoding error: {'; '.join(wrong[:3])}")
        with self.changed:
            if found := self.objects.get(at):
                going = "object is being deleted: " if "deletionTimestamp" in found["metadata"] else ""
                raise RefusalError(409, "AlreadyExists", f'{going}{at[0]} "{at[2]}" already exists')
            return self._store(at, schemas.with_defaults(document))

    def _apply(self, at: Key, document: Object, query: dict[str, str]) -> Object:
        if wrong := schemas.problems(document):
            raise RefusalError(422, "Invalid", f"{document['kind']} {at[2]!r} is invalid: {'; '.join(wrong[:3])}")
        manager, force = query["fieldManager"], query.get("force") == "true"
        wanted = _leaves(schemas.with_defaults(document))
        with self.changed:
            before = self.objects.get(at)
            owners = copy.deepcopy(self.owners.get(at, {}))
            after = copy.deepcopy(before) if before else _new(document)
            causes = []
            for path, value in wanted.items():
                others = [who for who, paths in owners.items() if who != manager and path in paths]
                if others and _at(after, path) != value:
                    causes += [_conflict(path, who) for who in others]
                    for who in others:
                        owners[who].discard(path)
            if causes and not force:
                raise RefusalError(409, "Conflict", f"Apply failed with {len(causes)} conflict(s)", causes)
            for path in owners.get(manager, set()) - set(wanted):
                if not any(path in paths for who, paths in owners.items() if who != manager):
                    _drop(after, path)
            for path, value in wanted.items():
                _put(after, path, value)
            owners[manager] = set(wanted)
            if query.get("dryRun"):
                return after
            self.owners[at] = owners
            return after if after == before else self._store(at, after)

    def _delete(self, at: Key) -> Object:
        found = self.objects[at]
        if found["kind"] not in self.lingering:
            self.remove(found["kind"], at[2], at[1])
        elif "deletionTimestamp" not in found["metadata"]:
            # Its pods finish first; a controller takes it away then.
            going = copy.deepcopy(found)
            going["metadata"]["deletionTimestamp"] = _now()
            self._store(at, going)
        return {"kind": "Status", "status": "Success"}

    def _store(self, at: Key, document: Object) -> Object:
        self.version += 1
        before, head = self.objects.get(at), document["metadata"]
        old = before["metadata"] if before else {}
        head["uid"] = old.get("uid", f"uid-{self.version}")
        head["creationTimestamp"] = old.get("creationTimestamp", _now())
        respecified = before is None or before.get("spec") != document.get("spec")
        head["generation"] = old.get("generation", 0) + respecified
        head["resourceVersion"] = str(self.version)
        self.objects[at] = document
        self._tell(at, "MODIFIED" if before else "ADDED", copy.deepcopy(document))
        return copy.deepcopy(document)

    def _tell(self, at: Key, change: str, document: Object) -> None:
        self.events.append((self.version, at, change, document))
        self.changed.notify_all()

    def _find(self, path: str) -> tuple[str, str, str]:
        for kind, resource in KINDS.items():
            if kind in self.absent or not path.startswith(resource.api + "/"):
                continue
            parts = path.removeprefix(resource.api + "/").split("/")
            namespace = parts[1] if resource.namespaced and parts[0] == "namespaces" else ""
            rest = parts[2:] if namespace else parts
            if rest and rest[0] == resource.plural:
                return kind, namespace, rest[1] if len(rest) > 1 else ""
        return "", "", ""

    def _discover(self, path: str) -> Object:
        found = [{"name": each.plural} for kind, each in KINDS.items() if each.api == path and kind not in self.absent]
        if not found:
            raise RefusalError(404, "NotFound", "the server could not find the requested resource")
        return {"kind": "APIResourceList", "resources": found}

    def _openapi(self, path: str) -> Object:
        api = path.removeprefix("/openapi/v3")
        known = {
            kind: each
            for kind, each in KINDS.items()
            if each.api == api and kind in schemas.definitions() and kind not in self.absent
        }
        if not known:
            raise RefusalError(404, "NotFound", "the server could not find the requested resource")
        named = {
            kind: self.schema(kind)
            | {"x-kubernetes-group-version-kind": [{"group": each.group, "kind": kind, "version": each.version}]}
            for kind, each in known.items()
        }
        return {"components": {"schemas": named}}

    def schema(self, kind: str) -> Object:
        """What it publishes as a kind's schema; tests make it older or newer."""
        return schemas.schema(kind)


def key(kind: str, name: str, namespace: str) -> Key:
    return KINDS[kind].plural, namespace if KINDS[kind].namespaced else "", name


def _handler(fake: FakeKubernetes) -> type[BaseHTTPRequestHandler]:  # noqa: C901 - a class of small methods
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def respond(self) -> None:
            parts = urlsplit(self.path)
            query = dict(parse_qsl(parts.query))
            text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fake.requests.append((self.command, parts.path, query))
            fake.before(self.command, parts.path)
            if fake.down:
                self.close_connection = True
                return
            try:
                self._check(parts.path)
                body = json.loads(text) if text else None
                if query.get("watch") == "true":
                    self._stream(json.dumps(event) + "\n" for event in fake.watch(parts.path, query))
                    return
                if parts.path.endswith("/log"):
                    self._stream(fake.log(parts.path, query))
                    return
                answer, code = fake.answer(self.command, parts.path, query, body), 200
            except RefusalError as refusal:
                answer, code = refusal.body, refusal.code
            self._send(code, answer)

        do_GET = do_PATCH = do_POST = do_DELETE = respond  # noqa: N815

        def _check(self, path: str) -> None:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise RefusalError(401, "Unauthorized", "Unauthorized")
            planned = next((each for each in fake.failures if each[0] == self.command), None)
            if planned:
                fake.failures.remove(planned)
                raise RefusalError(planned[1], "InternalError", f"planned failure of {path}")

        def _send(self, code: int, answer: Object) -> None:
            text = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def _stream(self, lines: Iterable[str]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                for text in filter(None, lines):
                    line = text.encode()
                    self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                    self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")
            except (ConnectionError, BrokenPipeError):
                self.close_connection = True

    return Handler


def _selected(item: Object, query: dict[str, str]) -> bool:
    head = item["metadata"]
    if field := query.get("fieldSelector"):
        name, _, value = field.partition("=")
        return bool(_at(item, tuple(name.split("."))) == value)
    wanted = [each.split("=") for each in query.get("labelSelector", "").split(",") if each]
    return all(head.get("labels", {}).get(name) == value for name, value in wanted)


def _new(document: Object) -> Object:
    head = document["metadata"]
    return {name: document[name] for name in ("apiVersion", "kind")} | {
        "metadata": {name: head[name] for name in ("name", "namespace") if name in head}
    }


def _leaves(document: Object, path: Path = ()) -> dict[Path, Any]:
    """Fields by path; a list is one field."""
    found: dict[Path, Any] = {}
    for name, value in document.items():
        at = (*path, name)
        if at in (("apiVersion",), ("kind",), ("status",), ("metadata", "name"), ("metadata", "namespace")):
            continue
        if isinstance(value, dict) and value:
            found |= _leaves(value, at)
        else:
            found[at] = value
    return found


def _at(document: Any, path: Path) -> Any:
    for name in path:
        if not isinstance(document, dict) or name not in document:
            return None
        document = document[name]
    return document


def _put(document: Object, path: Path, value: Any) -> None:
    for name in path[:-1]:
        document = document.setdefault(name, {})
    document[path[-1]] = copy.deepcopy(value)


def _drop(document: Object, path: Path) -> None:
    parents = [document]
    for name in path[:-1]:
        if name not in parents[-1]:
            return
        parents.append(parents[-1][name])
    parents[-1].pop(path[-1], None)
    for parent, name in zip(reversed(parents[:-1]), reversed(path[:-1]), strict=True):
        if parent[name] == {}:
            del parent[name]


def _conflict(path: Path, manager: str) -> Object:
    return {"reason": "FieldManagerConflict", "field": "." + ".".join(path), "message": f'conflict with "{manager}"'}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
