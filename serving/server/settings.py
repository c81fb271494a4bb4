"""What a server process is told: typed, and the one source of its command line."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, get_origin

from pydantic import Field, model_validator
from pydantic.fields import FieldInfo

from headway.components.config import Config
from headway.components.errors import ConfigError

MEBIBYTE = 1 << 20
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$|^$"
"""What may stand in a path, a header and a folder's name."""


class ServerSettings(Config):
    """One server process: what it serves, where it listens, and how much it takes."""

    document: ClassVar[str] = "server settings"

    bundle: Path
    """The bundle's folder; only read."""
    name: str = Field(default="", pattern=_NAME)
    """The model's name in paths; the bundle's own by default."""
    endpoint: str = Field(default="", pattern=_NAME)
    """The endpoint's name in the payload log; the model's by default."""
    namespace: str = Field(default="default", pattern=_NAME)
    """The namespace in the payload log."""
    variant: str = Field(default="", pattern=_NAME)
    """The variant's name in headers, metrics and the payload log; `v` and the version's number by default."""
    version: int = Field(default=0, ge=0)
    """The registry's number of the version; 0 means that it has none."""
    semver: str = ""
    """The semantic version."""
    digest: str = Field(default="", pattern=r"^[0-9a-f]{64}$|^$")
    """The digest that the bundle must have; with any other the server never becomes ready."""

    host: str = "127.0.0.1"
    """The address to listen at, for REST and gRPC."""
    port: int = Field(default=8081, ge=0, le=65_535)
    """The REST port; 0 takes a free one and logs it."""
    grpc_port: int = Field(default=0, ge=0, le=65_535)
    """The gRPC port; 0 means no gRPC."""

    payload_log: Path | None = None
    """The folder of the payload log; without one nothing is logged."""
    payload_queue: int = Field(default=20_000, ge=1)
    """Rows that wait for the payload log's writer at most; what comes on top is dropped and counted."""
    payload_share: float = Field(default=0.05, gt=0, le=1)
    """The share of one core that the payload log's writer may take; rows beyond that are dropped and counted."""
    mask: list[str] = []
    """A field that the payload log leaves null; may be repeated."""
    score_edges: list[float] = []
    """Inner edges of the bins in which predictions are counted, as a JSON list; by default twenty equal bins of the
    probability, one bin a class, or none in regression."""

    threads: int = Field(default=1, ge=1, le=256)
    """Model calls at the same time, each with one thread."""
    max_batch: int = Field(default=256, ge=1)
    """Rows of waiting requests that one model call takes together at most."""
    max_rows: int = Field(default=10_000, ge=1)
    """Rows of one request at most; more are answered 413."""
    max_body: int = Field(default=16 * MEBIBYTE, ge=1)
    """Bytes of a request's body at most; more are answered 413."""
    max_requests: int = Field(default=1_000, ge=1)
    """Requests in work at most; more are answered 503 with Retry-After."""
    timeout: float = Field(default=30.0, gt=0)
    """Seconds that a request may wait for its prediction, then it is answered 504; its body has as long to arrive."""
    cache: int = Field(default=0, ge=0)
    """Predictions of one-row requests to keep and give again to equal requests; 0 keeps none."""
    drain_seconds: float = Field(default=2.0, ge=0)
    """After SIGTERM: how long the server still takes requests while it says that it is not ready."""
    grace_seconds: float = Field(default=30.0, ge=0)
    """After that: how long requests in work may take to finish."""
    workers: int = 1
    """Processes; only 1. Run more servers instead: each has its metrics, its log files and its place in a route."""
    exit_on_failure: bool = False
    """Whether a bundle that cannot be served ends the process; by default it stays, not ready, and says why."""
    access_log: bool = False
    """Whether each request is logged."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.workers != 1:
            raise ValueError(
                f"workers: one process serves one variant (got {self.workers}); start more servers instead"
            )
        if any(low >= high for low, high in zip(self.score_edges, self.score_edges[1:], strict=False)):
            raise ValueError("score_edges do not ascend")
        if self.grpc_port and self.grpc_port == self.port:
            raise ValueError(f"port and grpc_port are both {self.port}")
        return self

    @property
    def variant_name(self) -> str:
        """The variant's name, or the one that the version gives it."""
        return self.variant or (f"v{self.version}" if self.version else "default")


def parse_flags(arguments: Sequence[str] | None = None) -> ServerSettings:
    """The settings that a command line gives.

    Raises:
        ConfigError: A value is wrong. A flag that does not exist, or `--help`, ends the process as argparse does it.
    """
    parser = argparse.ArgumentParser(
        prog="python -m headway.serving.server", description="Serve one bundle.", allow_abbrev=False
    )
    for name, field in ServerSettings.model_fields.items():
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, **_options(field))
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    if isinstance(given.get("score_edges"), str):
        given["score_edges"] = _edges(given["score_edges"])
    return ServerSettings.parse(given, where="command line")


def _options(field: FieldInfo) -> dict[str, Any]:
    help_text = " ".join((field.description or "").split()).replace("%", "%%")
    if field.annotation is bool:
        return {"action": argparse.BooleanOptionalAction, "default": None, "help": help_text}
    shown = "" if field.is_required() or field.default in ("", None, []) else f" (default: {field.default})"
    options: dict[str, Any] = {"help": help_text + shown, "required": field.is_required()}
    if get_origin(field.annotation) is list and field.annotation == list[str]:
        options |= {"action": "append", "metavar": "FIELD"}
    return options


def _edges(text: str) -> list[float]:
    try:
        edges = json.loads(text)
        if not isinstance(edges, list):
            raise ValueError("not a list")
    except ValueError:
        raise ConfigError(f"--score-edges: got {text[:80]!r}", expected="a JSON list, such as [0.1, 0.5]") from None
    return edges
