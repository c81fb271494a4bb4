"""The ASGI application: inference on a short way of its own, all else through routes before those of kserve's app.

An inference request touches no router, no middleware and no model of its body: its path is looked up, its body read
with limits, parsed once, checked against the contract and answered. Every answer that is no prediction has the shape
of `refusal.py`, those of kserve's own routes included.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headway.serving.server.answers import Answering, usable
from headway.serving.server.exchange import JSON, V1, V2, Body, Form, Simple
from headway.serving.server.logs import LOGGER, tell
from headway.serving.server.metrics import CONTENT_TYPE
from headway.serving.server.model import HeadwayModel
from headway.serving.server.openapi import document
from headway.serving.server.refusal import Refusal, not_ready

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

VARIANT = b"x-variant"
REQUEST_ID = b"x-request-id"
USER = b"x-user-id"
_TOO_LATE = "the body did not come in time"
"""What tells our own cancellation of a task from the listener's."""
_DISCARDED = 4
"""A body that is too large is read on, and forgotten, up to so many times the limit: a client that is cut off while it
writes does not read the answer."""


class Gone(Exception):  # noqa: N818 - nobody is left to tell
    """The client closed the connection before its request was whole."""


class App:
    """The server's application.

    Args:
        model: What answers.
        kserve_app: kserve's application, for what is left.
    """

    def __init__(self, model: HeadwayModel, kserve_app: FastAPI) -> None:
        self._model = model
        self._rest = kserve_app
        self._forms: dict[str, type[Form]] = {}
        self._settings = model.settings
        self._variant = model.settings.variant_name.encode()
        kserve_app.router.routes[:0] = self._routes()
        kserve_app.add_exception_handler(HTTPException, _told)
        kserve_app.add_exception_handler(Refusal, _refused)
        kserve_app.add_exception_handler(Exception, _broke)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        forms = self._forms or self._open()
        form = forms.get(scope["path"]) if scope["type"] == "http" else None
        if form is not None and scope["method"] == "POST":
            await self._infer(form, scope, receive, send)
        else:
            await self._rest(scope, receive, send)

    # ---- inference

    def _open(self) -> dict[str, type[Form]]:
        """The inference paths, once the model answers; none before."""
        model = self._model
        if model.answers:
            self._forms = {
                f"/v2/models/{model.name}/infer": V2,
                f"/v1/models/{model.name}:predict": V1,
                "/predict": Simple,
            }
            self._forms |= {f"/v2/models/{model.name}/versions/{known}/infer": V2 for known in model.versions}
        return self._forms

    async def _infer(self, form: type[Form], scope: Scope, receive: Receive, send: Send) -> None:
        model = self._model
        headers: dict[bytes, bytes] = dict(scope["headers"])
        answering = Answering(
            model, id=usable(headers.get(REQUEST_ID)), user=usable(headers.get(USER)), host=headers.get(b"host")
        )
        try:
            model.admit()
            call = form(model.card, await self._body(headers, receive), headers)
            answering.id = call.id or answering.id
            answering.rows = call.rows
            answering.scored = scored = await model.score(call.rows)
            body = call.answer(scored, answering.id, answering.seconds)
        except Gone:
            answering.abandon()
            return
        except Refusal as refusal:
            answering.refusal, answering.code = refusal, refusal.status
            body = _body(refusal)
        except Exception:
            answering.code = 500
            body = _failed(answering.id)
        await self._send(send, answering, body)
        answering.finish()
        if self._settings.access_log:
            tell("request", id=answering.id, path=scope["path"], code=answering.code, ms=answering.seconds * 1_000)

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """The request's body.

        Raises:
            Refusal: It is too large, encoded, or did not come in time.
            Gone: The client left.
        """
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send the body without a content encoding")
        # What `asyncio.timeout` does, in a third of its time.
        task = asyncio.current_task()
        timer = asyncio.get_running_loop().call_later(self._settings.timeout, task.cancel, _TOO_LATE)  # type: ignore[union-attr]
        try:
            message = await receive()
            if message["type"] != "http.request":
                raise Gone
            if message.get("more_body"):
                return await self._long_body(message["body"], headers, receive)
        except asyncio.CancelledError as error:
            if error.args != (_TOO_LATE,):
                raise
            raise self._too_late(task) from None
        finally:
            timer.cancel()
        body: bytes = message["body"]
        if len(body) > self._settings.max_body:
            raise self._too_large()
        return body

    async def _long_body(self, first: bytes, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """A body that comes in pieces."""
        most = self._settings.max_body
        pieces, size = [first], len(first)
        while True:
            if size > most * _DISCARDED:
                refusal = self._too_large()
                refusal.headers["connection"] = "close"
                raise refusal
            message = await receive()
            if message["type"] != "http.request":
                raise Gone
            size += len(message["body"])
            if size <= most:
                pieces.append(message["body"])
            if not message.get("more_body"):
                break
        if size > most:
            raise self._too_large()
        return b"".join(pieces)

    def _too_late(self, task: "asyncio.Task[Any] | None") -> Refusal:
        if task is not None:
            task.uncancel()
        error = f"The body did not come within {self._settings.timeout:g} s"
        return Refusal(HTTPStatus.REQUEST_TIMEOUT, error, headers={"connection": "close"})

    def _too_large(self) -> Refusal:
        most = self._settings.max_body
        return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is larger than {most:,} bytes")

    async def _send(self, send: Send, answering: Answering, body: Body) -> None:
        headers = [
            (b"content-type", body.type),
            (b"content-length", b"%d" % len(body.content)),
            (VARIANT, self._variant),
            *body.headers,
        ]
        if answering.id.isascii() and answering.id.isprintable():
            headers.append((REQUEST_ID, answering.id.encode()))
        if not self._model.ready:
            # On its way out: the client shall open its next connection to somebody else.
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": answering.code, "headers": headers})
        await send({"type": "http.response.body", "body": body.content})

    # ---- everything else

    def _routes(self) -> list[Route]:
        read = ["GET"]
        routes: list[tuple[str, Callable[[Request], Awaitable[Response]], list[str]]] = [
            ("/health", self._health, read),
            ("/model/info", self._info, read),
            ("/metrics", self._metrics, read),
            ("/openapi.json", self._openapi, read),
            ("/predict", self._unready, ["POST"]),
            ("/v1/models/{name}:predict", self._unready, ["POST"]),
            ("/v1/models/{name}:explain", self._no_explainer, ["POST"]),
            ("/v1/models/{name}", self._ready_v1, read),
            ("/v2", self._server, read),
            ("/v2/health/ready", self._ready, read),
            ("/v2/models/{name}", self._metadata, read),
            ("/v2/models/{name}/ready", self._ready, read),
            ("/v2/models/{name}/infer", self._unready, ["POST"]),
            ("/v2/models/{name}/versions/{version}", self._metadata, read),
            ("/v2/models/{name}/versions/{version}/ready", self._ready, read),
            ("/v2/models/{name}/versions/{version}/infer", self._unready, ["POST"]),
            ("/v2/repository/{rest:path}", self._closed, ["GET", "POST"]),
        ]
        return [Route(path, endpoint, methods=methods) for path, endpoint, methods in routes]

    async def _health(self, request: Request) -> Response:
        model = self._model
        status = {"status": "ok" if model.ready else str(model.state), "reason": model.reason}
        return _json(status, 200 if model.ready else 503)

    async def _info(self, request: Request) -> Response:
        self._require()
        return _json(self._model.info())

    async def _metrics(self, request: Request) -> Response:
        return Response(self._model.metrics.render(), headers={"content-type": CONTENT_TYPE})

    async def _openapi(self, request: Request) -> Response:
        self._require()
        return _json(document(self._model))

    async def _server(self, request: Request) -> Response:
        return _json({"name": "headway", "version": version("headway"), "extensions": ["binary_tensor_data"]})

    async def _metadata(self, request: Request) -> Response:
        self._require(request)
        return _json(self._model.metadata())

    async def _ready(self, request: Request) -> Response:
        self._require(request)
        model = self._model
        if not model.ready:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"Not ready: {model.reason}")
        return _json({"name": model.name, "ready": True})

    async def _ready_v1(self, request: Request) -> Response:
        if ":" in request.path_params["name"]:  # NAME:predict, read
            raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, headers={"allow": "POST"})
        return await self._ready(request)

    async def _unready(self, request: Request) -> Response:
        """An inference path that `_forms` does not have: the model is not open, or is another."""
        self._require(request)
        # It was opened after this request had been sent here.
        raise not_ready("it is this very moment; ask again")

    async def _no_explainer(self, request: Request) -> Response:
        self._require(request)
        raise Refusal(HTTPStatus.NOT_FOUND, "This model has no explainer")

    async def _closed(self, request: Request) -> Response:
        raise Refusal(HTTPStatus.FORBIDDEN, "The model repository is closed: this server serves one bundle")

    def _require(self, request: Request | None = None) -> None:
        """Refuse while there is no model, and another model's name or version."""
        asked = {} if request is None else request.path_params
        self._model.require(asked.get("name", self._model.name), asked.get("version"))


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def _body(refusal: Refusal) -> Body:
    headers = tuple((name.encode(), value.encode()) for name, value in refusal.headers.items())
    return Body(orjson.dumps(refusal.document), JSON, headers)


def _failed(id: str) -> Body:
    """What a client gets when something broke: the id under which the log has it, and nothing else."""
    LOGGER.exception("a request failed", extra={"fields": {"request_id": id}})
    return Body(orjson.dumps({"error": f"The server failed; its log has the request {id}", "fields": []}))


async def _refused(request: Request, refusal: Any) -> Response:
    return _json(refusal.document, refusal.status, refusal.headers)


async def _broke(request: Request, error: Exception) -> Response:
    """A route failed; Starlette re-raises the error, and the listener logs it."""
    return _json({"error": "The server failed; its log has more", "fields": []}, 500)


async def _told(request: Request, error: Any) -> Response:
    """Starlette's own answers in our shape: unknown paths and methods."""
    words = {404: f"Nothing is at {request.url.path[:200]}", 405: f"{request.method} is not possible here"}
    status = getattr(error, "status_code", 500)
    return _json({"error": words.get(status, HTTPStatus(status).phrase), "fields": []}, status, error.headers)
