"""The kserve Model: a bundle from being opened to being ready, and the calls that requests make."""

import functools
import json
import time
from enum import StrEnum
from typing import Any

import numpy as np

from headway.components.errors import ConfigError, HeadwayError, RequestError, TrustError, did_you_mean
from headway.components.settings import load_settings
from headway.components.trust import TrustedModel, load_bundle, load_policy
from headway.serving.server.batching import Calls
from headway.serving.server.cache import Cache
from headway.serving.server.exchange import Card, tensor_rows
from headway.serving.server.imports import hidden, kserve_imports
from headway.serving.server.logs import LOGGER, tell, tell_error
from headway.serving.server.metrics import Metrics
from headway.serving.server.payload_log import PayloadLog
from headway.serving.server.payload_table import PayloadTable, Source
from headway.serving.server.refusal import Refusal, busy, not_ready
from headway.serving.server.rows import Checker, Rows, checked
from headway.serving.server.scoring import Scored, Scorer, default_edges, joined
from headway.serving.server.settings import ServerSettings
from headway.serving.server.tensors import COLUMN_DATATYPES, SHOWN, Tensor

with kserve_imports():
    from kserve import InferOutput, InferRequest, InferResponse, Model
    from kserve.errors import InvalidInput


class State(StrEnum):
    """How far the model has come."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    DRAINING = "draining"


class HeadwayModel(Model):  # type: ignore[misc]
    """One bundle, opened through the trust gate.

    Args:
        settings: What to serve.
    """

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(settings.name)
        self.settings = settings
        self.state = State.LOADING
        self.reason = "the model is being loaded"
        """Why it is not ready, in words that a client may read."""
        self.metrics = Metrics(settings.variant_name)
        self.metrics.ready = lambda: self.ready
        self.bundle: TrustedModel
        self.card: Card
        self.calls: Calls
        self.payloads: PayloadLog | None = None
        self.failure: HeadwayError | None = None
        self.in_work = 0
        """Inference requests that are not answered yet."""
        self._cache = Cache(settings.cache) if settings.cache else None

    # ---- from nothing to ready, and to the end

    def load(self) -> bool:
        """Open the bundle, warm the model up, and be ready; or say why not.

        Returns:
            Whether it is ready.
        """
        started = time.perf_counter()
        try:
            self._open()
            self._warm_up()
        except HeadwayError as error:
            self._fail(error)
        except Exception:
            LOGGER.exception("the model could not be loaded")
            self._fail(TrustError("the model failed while it was opened", fix="read the server's log"))
        else:
            self.state, self.reason, self.ready = State.READY, "", True
            seconds = round(time.perf_counter() - started, 3)
            tell("ready", **self.properties, format=self.bundle.format, seconds=seconds)
        return self.ready

    def drain(self) -> None:
        """Say that it is not ready, while requests are still answered."""
        if self.state is State.READY:
            self.state, self.reason, self.ready = State.DRAINING, "the server is about to stop", False

    def close(self) -> None:
        """End the threads, once no request is in work, and write what the payload log still holds."""
        self.ready = False
        if self.state in (State.READY, State.DRAINING):
            self.calls.close()
        if self.payloads is not None:
            self.payloads.close()

    @property
    def answers(self) -> bool:
        """Whether requests are answered: the model is ready, or on its way out."""
        return self.state is State.READY or self.state is State.DRAINING

    def _open(self) -> None:
        settings = self.settings
        with hidden("torch"):
            self.bundle = bundle = load_bundle(
                settings.bundle, policy=load_policy(load_settings()), digest=settings.digest or None, threads=1
            )
        self.name = settings.name or bundle.info.name
        checker = Checker(bundle.contract)
        self.card = Card(
            name=self.name,
            version=settings.semver or (str(settings.version) if settings.version else bundle.digest[:12]),
            checker=checker,
            kinds={name: column.type for name, column in bundle.contract.features.items()},
            outputs=bundle.signature.outputs,
            max_rows=settings.max_rows,
        )
        edges = settings.score_edges or default_edges(bundle.info.task, len(bundle.info.classes))
        self.metrics.opened(model=self.name, fields=checker.names, edges=edges)
        self.calls = Calls(
            Scorer(bundle),
            threads=settings.threads,
            max_batch=settings.max_batch,
            timeout=settings.timeout,
            observe=self.metrics.batch_rows.add,
        )
        self._open_payload_log(checker)

    def _open_payload_log(self, checker: Checker) -> None:
        settings = self.settings
        for field in settings.mask:
            if field not in checker.names:
                near = did_you_mean(field, checker.names)
                raise ConfigError(f"mask: {field!r} is no feature of the contract{near}")
        if settings.payload_log is None:
            return
        source = Source(
            endpoint=settings.endpoint or self.name,
            namespace=settings.namespace,
            variant=settings.variant_name,
            version=settings.version,
            digest=self.bundle.digest,
        )
        try:
            self.payloads = PayloadLog(
                settings.payload_log / source.endpoint / source.variant,
                PayloadTable(source, checker.names, settings.mask),
                most=settings.payload_queue,
                share=settings.payload_share,
            )
        except OSError as error:
            raise ConfigError(f"payload_log: {settings.payload_log}: {error.strerror}") from None
        self.metrics.payload_rows = self.payloads.rows

    def _warm_up(self) -> None:
        """Call the model with the bundle's example rows, in batches of each size that waiting requests may make."""
        rows: list[Rows] = []
        for record in json.loads(self.bundle.input_example):
            try:
                rows.append(self.card.checker.record(record))
            except RequestError as error:
                tell("an example row breaks the contract", row=str(record)[:200], why=error.problem)
        size = 1
        while rows and size <= self.settings.max_batch:
            numbers, texts = joined(rows[place % len(rows)] for place in range(size))
            self.calls.warm(Rows(size, numbers, texts, []))
            size *= 2

    def _fail(self, error: HeadwayError) -> None:
        self.failure = error
        self.state, self.ready = State.FAILED, False
        path = str(self.settings.bundle)
        words = f"{error.problem}" + (f" (expected {error.expected})" if error.expected else "")
        words = words.replace(path, "the bundle")
        # A path of this machine is nothing for clients.
        self.reason = f"{error.code}: {words}" if "/" not in words else f"{error.code}: see the server's log"
        tell_error("not ready", code=error.code, reason=str(error), bundle=path)

    # ---- what it says of itself

    @functools.cached_property
    def properties(self) -> dict[str, str]:
        """Who it is: the V2 metadata's properties, all texts."""
        settings = self.settings
        return {
            "digest": self.bundle.digest,
            "version": str(settings.version),
            "semver": settings.semver,
            "variant": settings.variant_name,
            "task": self.bundle.info.task,
            "estimator": self.bundle.info.estimator,
            "signer": self.bundle.signer,
        }

    @property
    def versions(self) -> list[str]:
        """All that a client may call the version."""
        number = str(self.settings.version) if self.settings.version else ""
        return [name for name in dict.fromkeys([self.card.version, number, self.settings.semver]) if name]

    def get_input_types(self) -> list[dict[str, Any]]:
        """A tensor for each feature, as V2's metadata has it."""
        kinds = self.card.kinds
        return [{"name": name, "datatype": COLUMN_DATATYPES[kind], "shape": [-1]} for name, kind in kinds.items()]

    def get_output_types(self) -> list[dict[str, Any]]:
        """The signature's outputs, as V2's metadata has them."""
        outputs = self.card.outputs
        return [{"name": port.name, "datatype": COLUMN_DATATYPES[port.type], "shape": [-1]} for port in outputs]

    def metadata(self) -> dict[str, Any]:
        """V2's model metadata."""
        return {
            "name": self.name,
            "versions": self.versions,
            "platform": f"headway_{self.bundle.format}",
            "inputs": self.get_input_types(),
            "outputs": self.get_output_types(),
            "properties": self.properties,
        }

    def info(self) -> dict[str, Any]:
        """All that a person may want to know of the model: who it is, what it takes, what it gives."""
        from headway.components.data_validate.schema import to_json_schema

        info = self.bundle.info
        return {
            "name": self.name,
            "model_version": self.card.version,
            **self.properties,
            "format": self.bundle.format,
            "target": info.target,
            "classes": info.classes,
            "signature": self.bundle.signature.model_dump(mode="json"),
            "schema": to_json_schema(self.bundle.contract),
        }

    # ---- predicting

    def require(self, name: str, version: str | None = None) -> None:
        """Refuse while there is no model, and another model's name or version.

        Raises:
            Refusal: 503 or 404.
        """
        if not self.answers:
            raise not_ready(self.reason)
        if name != self.name:
            raise Refusal(404, f"Unknown model {name[:SHOWN]!r}{did_you_mean(name[:SHOWN], [self.name])}")
        if version and version not in self.versions:
            raise Refusal(404, f"Unknown version {version[:SHOWN]!r}; this is {self.card.version}")

    def admit(self) -> None:
        """Refuse a request, already counted, when too many are in work.

        Raises:
            Refusal: 503, and when to come again.
        """
        if self.in_work > self.settings.max_requests:
            raise busy("Too many requests are in work")

    async def score(self, rows: Rows) -> Scored:
        """The prediction for checked rows, wherever it comes from.

        Raises:
            Refusal: It did not come in time.
        """
        cache = self._cache if rows.count == 1 else None
        if cache is not None:
            found = cache.get(rows)
            self.metrics.cache["hit" if found else "miss"] += 1
            if found is not None:
                return found
        scored = self.calls.quick(rows) or await self.calls.slow(rows)
        if cache is not None:
            cache.put(rows, scored)
        return scored

    async def predict(
        self, payload: Any, headers: dict[str, str] | None = None, response_headers: dict[str, str] | None = None
    ) -> Any:
        """A prediction for kserve's own data plane: this model also serves in somebody else's ModelServer.

        Args:
            payload: V1's mapping with `instances`, or V2's InferRequest.
            headers: Not looked at.
            response_headers: Gets the variant.
        """
        if response_headers is not None:
            response_headers["x-variant"] = self.settings.variant_name
        try:
            if not isinstance(payload, InferRequest):
                return await self._predict_v1(payload)
            given = [Tensor(t.name, t.datatype, list(t.shape), np.ravel(t.as_numpy()).tolist()) for t in payload.inputs]
            rows = tensor_rows(self.card, given)
        except Refusal as refusal:
            raise InvalidInput(refusal.error) from None
        return self._infer_response(payload, await self.score(rows))

    async def _predict_v1(self, payload: dict[str, Any]) -> dict[str, Any]:
        rows = checked(self.card.checker.records, payload.get("instances", []))
        return {"predictions": (await self.score(rows)).labels.tolist()}

    def _infer_response(self, request: Any, scored: Scored) -> Any:
        from headway.serving.server.answers import new_id

        outputs = []
        for described in self.get_output_types():
            values = scored.labels if described["name"] == "prediction" else scored.probability
            if values is not None:
                output = InferOutput(described["name"], [len(values)], described["datatype"])
                output.set_data_from_numpy(np.asarray(values), binary_data=False)
                outputs.append(output)
        return InferResponse(
            response_id=request.id or new_id(),
            model_name=self.name,
            model_version=self.card.version,
            infer_outputs=outputs,
        )
