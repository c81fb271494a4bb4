"""A Kubeflow Pipelines API over real HTTP, with the behaviour that its clients meet.

It speaks the v2beta1 REST paths of API server 2.17: names are unique, lists are filtered and paged, uploads are
multipart, refusals have the two forms of error body that the real one uses, and a run moves on each time somebody looks
at it. It records every request, asks for credentials when told to, and can be made to fail.
"""

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

Record = dict[str, Any]
FINAL = {"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"}
PREFIX = "/apis/v2beta1"


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def upload(self) -> str:
        """The uploaded file's text."""
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        message = BytesParser(policy=HTTP).parsebytes(head + self.body)
        for part in message.iter_parts():
            if part.get_param("name", header="content-disposition") == "uploadfile":
                return _text_of(part)
        raise RefusedError(400, "Failed to read pipeline from file", upload=True)


@dataclass
class Fault:
    """A way to fail, for the next `times` requests whose method and path fit."""

    kind: str
    """`status` (answer with that status), `reset` (close without an answer), `slow` (answer after `seconds`)."""
    times: int = 1
    method: str = ""
    path: str = ""
    status: int = 503
    seconds: float = 0.0
    after: bool = False
    """Whether the request is carried out before the failure."""


class RefusedError(Exception):
    """A refusal by the API."""

    def __init__(self, status: int, message: str, *, upload: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.body: Record = (
            {"error_message": message, "error_details": f"{message}: details"}
            if upload
            else {"error": message, "code": {404: 5, 409: 6, 403: 7, 401: 16}.get(status, 3), "message": message}
        )


@dataclass
class FakeKfp:
    """The state of one installation, and the knobs of a test."""

    multi_user: bool = False
    token: str = ""
    """The bearer token to ask for; empty asks for none."""
    cookies: str = ""
    """The cookie to ask for; a request without it is sent to a login page, as Dex and OAuth proxies do."""
    forbidden_namespace: str = ""
    script: list[str] = field(default_factory=lambda: ["PENDING", "RUNNING", "SUCCEEDED"])
    """The states that a new run goes through, one for each look."""
    tasks: list[Record] = field(default_factory=list)
    """The task details of a run that has ended."""
    run_error: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    pipelines: dict[str, Record] = field(default_factory=dict)
    versions: dict[str, Record] = field(default_factory=dict)
    experiments: dict[str, Record] = field(default_factory=dict)
    runs: dict[str, Record] = field(default_factory=dict)
    scripts: dict[str, list[str]] = field(default_factory=dict)
    recurring_runs: dict[str, Record] = field(default_factory=dict)
    url: str = ""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def sent(self, method: str, path: str) -> list[Request]:
        """The recorded requests of one method to one path (without the prefix)."""
        return [request for request in self.requests if request.method == method and request.path == PREFIX + path]

    def add_run(self, name: str, *states: str, **extra: Any) -> str:
        """Put a run there that is in the first state and goes on to the others."""
        run_id = str(uuid.uuid4())
        self.runs[run_id] = {
            "run_id": run_id, "display_name": name, "state": states[0], "created_at": _now(len(self.runs)),
            "finished_at": "1970-01-01T00:00:00Z", **extra,
        }  # fmt: skip
        self.scripts[run_id] = list(states)
        return run_id

    # --- answers -----------------------------------------------------------------------------------------------------

    def answer(self, request: Request) -> Record:
        """Carry out one request."""
        path = request.path.removeprefix(PREFIX)
        if path == "/healthz":
            return {"multi_user": True} if self.multi_user else {}
        verb, _, action = path.rpartition(":") if ":" in path.rsplit("/", 1)[-1] else (path, "", "")
        parts = verb.strip("/").split("/")
        handler: Callable[..., Record] | None = getattr(self, f"_{parts[0]}", None)
        if handler is None:
            raise RefusedError(404, "Not Found")
        return handler(request, [unquote(part) for part in parts[1:]], action)

    def _pipelines(self, request: Request, rest: list[str], _action: str) -> Record:
        match (request.method, rest):
            case ("POST", []):
                return self._create_pipeline(request.json["name"], request.json.get("namespace", ""), upload=False)
            case ("GET", []):
                return self._page(request, "pipelines", self.pipelines.values())
            case ("GET", ["names", name]):
                return self._pipeline_by_name(name, self._namespace(request))
            case ("POST", ["upload"]):
                return self._upload_pipeline(request)
            case ("POST", ["upload_version"]):
                return self._add_version(request, request.query["pipelineid"], request.query["name"])
            case ("GET", [pipeline_id, "versions"]):
                _get(self.pipelines, pipeline_id, "pipeline")
                mine = [version for version in self.versions.values() if version["pipeline_id"] == pipeline_id]
                return self._page(request, "pipeline_versions", mine)
        raise RefusedError(404, "Not Found")

    def _pipeline_by_name(self, name: str, namespace: str) -> Record:
        for pipeline in self.pipelines.values():
            if (pipeline["name"], pipeline["namespace"]) == (name, namespace):
                return pipeline
        raise RefusedError(404, f"Failed to get a pipeline with name {name}: not found")

    def _create_pipeline(self, name: str, namespace: str, *, upload: bool) -> Record:
        if any(p["name"] == name and p.get("namespace", "") == namespace for p in self.pipelines.values()):
            raise RefusedError(409, f"Failed to create a pipeline: the name {name} already exist", upload=upload)
        pipeline_id = str(uuid.uuid4())
        self.pipelines[pipeline_id] = {
            "pipeline_id": pipeline_id, "name": name, "display_name": name, "namespace": namespace,
            "created_at": _now(len(self.pipelines)),
        }  # fmt: skip
        return self.pipelines[pipeline_id]

    def _upload_pipeline(self, request: Request) -> Record:
        pipeline = self._create_pipeline(request.query["name"], request.query.get("namespace", ""), upload=True)
        self._add_version(request, pipeline["pipeline_id"], pipeline["name"])
        return pipeline

    def _add_version(self, request: Request, pipeline_id: str, name: str) -> Record:
        spec = list(yaml.load_all(request.upload, Loader=yaml.CSafeLoader))
        if "pipelineInfo" not in spec[0]:
            raise RefusedError(400, "invalid pipeline spec", upload=True)
        if any(v["pipeline_id"] == pipeline_id and v["name"] == name for v in self.versions.values()):
            raise RefusedError(409, "Failed to create a pipeline version", upload=True)
        version_id = str(uuid.uuid4())
        self.versions[version_id] = {
            "pipeline_id": pipeline_id, "pipeline_version_id": version_id, "name": name, "display_name": name,
            "description": request.query.get("description", ""), "created_at": _now(len(self.versions)),
            "pipeline_spec": spec[0],
        }  # fmt: skip
        return self.versions[version_id]

    def _experiments(self, request: Request, rest: list[str], _action: str) -> Record:
        match (request.method, rest):
            case ("GET", []):
                space = self._namespace(request)
                mine = [e for e in self.experiments.values() if e.get("namespace", "") == space]
                return self._page(request, "experiments", mine)
            case ("GET", [experiment_id]):
                return _get(self.experiments, experiment_id, "experiment")
            case ("POST", []):
                body = request.json
                self._allow(body.get("namespace", ""))
                if any(
                    (e["display_name"], e["namespace"]) == (body["display_name"], body.get("namespace", ""))
                    for e in self.experiments.values()
                ):
                    raise RefusedError(409, f"Experiment {body['display_name']} already exist")
                experiment_id = str(uuid.uuid4())
                self.experiments[experiment_id] = {
                    "experiment_id": experiment_id, "display_name": body["display_name"],
                    "namespace": body.get("namespace", ""), "created_at": _now(len(self.experiments)),
                }  # fmt: skip
                return self.experiments[experiment_id]
        raise RefusedError(404, "Not Found")

    def _runs(self, request: Request, rest: list[str], action: str) -> Record:
        match (request.method, rest, action):
            case ("POST", [], ""):
                return self._create_run(request.json)
            case ("GET", [], ""):
                experiment = request.query.get("experiment_id", "")
                if not experiment:
                    self._namespace(request)
                mine = [r for r in self.runs.values() if not experiment or r.get("experiment_id") == experiment]
                return self._page(request, "runs", sorted(mine, key=lambda r: str(r["created_at"]), reverse=True))
            case ("GET", [run_id], ""):
                return self._advance(_get(self.runs, run_id, "run"))
            case ("POST", [run_id], "terminate"):
                run = _get(self.runs, run_id, "run")
                if run["state"] in FINAL:
                    raise RefusedError(400, f"Failed to terminate run {run_id}: it has already ended")
                run["state"] = "CANCELING"
                self.scripts[run_id] = ["CANCELING", "CANCELED"]
                return {}
        raise RefusedError(404, "Not Found")

    def _create_run(self, body: Record) -> Record:
        reference = body.get("pipeline_version_reference", {})
        if not body.get("pipeline_spec"):
            version = _get(self.versions, reference.get("pipeline_version_id", ""), "pipeline version")
            if version["pipeline_id"] != reference["pipeline_id"]:
                raise RefusedError(400, "the version is of another pipeline")
        _get(self.experiments, body["experiment_id"], "experiment")
        kept = ("experiment_id", "pipeline_version_reference", "runtime_config", "service_account")
        extra = {key: body[key] for key in kept if key in body}
        return self.runs[self.add_run(body["display_name"], *self.script, **extra)]

    def _advance(self, run: Record) -> Record:
        """Move a run on; the first look sees the first state."""
        script = self.scripts[run["run_id"]]
        run["state"] = script[0]
        if len(script) > 1:
            script.pop(0)
        if run["state"] in FINAL:
            run["finished_at"] = _now(60)
            run["run_details"] = {"task_details": self.tasks}
            if run["state"] == "FAILED" and self.run_error:
                run["error"] = {"code": 13, "message": self.run_error}
        return run

    def _recurringruns(self, request: Request, rest: list[str], _action: str) -> Record:
        if (request.method, rest) != ("POST", []):
            raise RefusedError(404, "Not Found")
        body = request.json
        _get(self.versions, body["pipeline_version_reference"]["pipeline_version_id"], "pipeline version")
        if not 1 <= int(body["max_concurrency"]) <= 10:
            raise RefusedError(400, "The max concurrency of the recurring run must be between 1 and 10")
        recurring_id = str(uuid.uuid4())
        self.recurring_runs[recurring_id] = {**body, "recurring_run_id": recurring_id, "status": "ENABLED"}
        return self.recurring_runs[recurring_id]

    # --- rules of the real one ---------------------------------------------------------------------------------------

    def _namespace(self, request: Request) -> str:
        space = request.query.get("namespace", "")
        self._allow(space)
        return space

    def _allow(self, namespace: str) -> None:
        if self.multi_user and not namespace:
            raise RefusedError(400, "Namespace is required in multi-user mode")
        if not self.multi_user and namespace:
            raise RefusedError(400, "In single-user mode, the namespace must be empty")
        if namespace and namespace == self.forbidden_namespace:
            raise RefusedError(403, f"User 'ann@example.com' is not authorized in namespace '{namespace}'")

    def _page(self, request: Request, items: str, entries: Any) -> Record:
        chosen = [entry for entry in entries if _fits(entry, request.query.get("filter", ""))]
        size = int(request.query.get("page_size") or 20)
        start = int(request.query.get("page_token") or 0)
        token = str(start + size) if start + size < len(chosen) else ""
        page: Record = {"total_size": len(chosen), "next_page_token": token}
        return {items: chosen[start : start + size], **page} if chosen else page

    def check_credentials(self, request: Request) -> str:
        """An empty text when the request may pass, else where it is sent."""
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            raise RefusedError(401, "Request is unauthenticated")
        return "/dex/login" if self.cookies and request.headers.get("cookie") != self.cookies else ""

    def fault_for(self, request: Request) -> Fault | None:
        """The fault that hits this request, used up by it."""
        for fault in self.faults:
            if fault.times > 0 and fault.method in ("", request.method) and fault.path in request.path:
                fault.times -= 1
                return fault
        return None


def _text_of(part: Any) -> str:
    return bytes(part.get_payload(decode=True)).decode()


def _get(store: dict[str, Record], key: str, kind: str) -> Record:
    if key not in store:
        raise RefusedError(404, f"{kind} {key} not found")
    return store[key]


def _fits(entry: Record, text: str) -> bool:
    for predicate in json.loads(text)["predicates"] if text else []:
        if predicate["operation"] not in (1, "EQUALS") or predicate["key"] not in ("display_name", "name"):
            raise RefusedError(400, f"Invalid filter {predicate}")
        if entry[predicate["key"]] != predicate.get("stringValue", predicate.get("string_value")):
            return False
    return True


def _now(offset: int) -> str:
    return datetime.fromtimestamp(1_750_000_000 + offset, UTC).isoformat().replace("+00:00", "Z")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeKfp

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("content-length") or 0)
        request = Request(
            method=self.command,
            path=parts.path,
            query={key: values[0] for key, values in parse_qs(parts.query).items()},
            headers={key.lower(): value for key, value in self.headers.items()},
            body=self.rfile.read(length),
        )
        with self.fake.lock:
            self.fake.requests.append(request)
            fault = self.fake.fault_for(request)
        if fault is not None and fault.kind == "slow":
            time.sleep(fault.seconds)
            fault = None
        if fault is not None and not fault.after:
            self._fail(fault)
            return
        status, body, headers = self._carry_out(request)
        if fault is not None:
            self._fail(fault)
            return
        self._send(status, body, headers)

    def _carry_out(self, request: Request) -> tuple[int, bytes, dict[str, str]]:
        with self.fake.lock:
            if request.path == "/dex/login":
                return 200, b"<html>Log in</html>", {"Content-Type": "text/html"}
            try:
                login = self.fake.check_credentials(request)
                if login:
                    return 302, b"", {"Location": self.fake.url + login}
                return 200, json.dumps(self.fake.answer(request)).encode(), {"Content-Type": "application/json"}
            except RefusedError as refusal:
                return refusal.status, json.dumps(refusal.body).encode(), {"Content-Type": "application/json"}

    def _fail(self, fault: Fault) -> None:
        if fault.kind == "reset":
            self.close_connection = True
            self.connection.close()
            return
        self._send(fault.status, b"<html>upstream connect error</html>", {"Content-Type": "text/html"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no error of the server."""


@contextmanager
def fake_kfp(**knobs: Any) -> Iterator[FakeKfp]:
    """Run a fake installation on a free port of 127.0.0.1."""
    fake = FakeKfp(**knobs)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": fake}))
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
