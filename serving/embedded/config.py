"""The gateway's configuration: `<home>/serving/gateway.yaml`, read by `headway up`. Every value has a default."""

from typing import ClassVar

from pydantic import Field

from headway.components.config import Config


class GatewayConfig(Config):
    """How much the gateway and the servers behind it take on."""

    document: ClassVar[str] = "gateway file"

    replicas: int = Field(default=1, ge=1, le=64)
    """Server processes for each variant that is started from now on. With one, requests that meet a crash wait until
    it is back; with two, the other one answers them."""
    request_timeout_seconds: float = Field(default=30, gt=0, le=3_600)
    """After this a request gets 504."""
    max_request_bytes: int = Field(default=16 << 20, ge=1_024, le=1 << 30)
    """A larger body gets 413."""
    threads: int = Field(default=2, ge=1, le=64)
    """Envoy's worker threads."""
    drain_seconds: float = Field(default=1, ge=0, le=60)
    """How long a server that gets no more requests is left in peace before it is stopped, besides the time that its
    last requests take."""
    server_options: dict[str, str] = {}
    """More options of the model server, such as `max-batch: "64"`."""
