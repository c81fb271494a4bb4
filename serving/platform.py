"""What serves: variants of a model behind one endpoint, and the protocol that every platform implements.

An *endpoint* is the stable address of one model. Behind it run *variants*, each one registered version, and a *route*
that says which share of the users each of them gets. `embedded` and `kubeflow` implement `Platform`; everything above
(releases, experiments, the command line) is written once.

Every method of a platform may be called again with the same arguments, after a crash or by another process, and ends in
the same state.
"""

import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, ClassVar, Protocol, Self

from pydantic import Field, StringConstraints, model_validator

from headway.components.bundle import Sha256
from headway.components.config import Config

if TYPE_CHECKING:
    from headway.components.settings import Settings

TOTAL_WEIGHT = 10_000
"""What the weights of a route add up to, always: who sees which variant depends on the total."""

VARIANT_HEADER = "x-variant"
"""Names the variant: in an answer the one that gave it, in a request the one that is wanted."""
USER_HEADER = "x-user-id"
"""Whose request it is: one user always sees the same variant."""
REQUEST_ID_HEADER = "x-request-id"

Name = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$")]
"""An endpoint's or a variant's name: lower-case letters, digits and hyphens."""


class Variant(Config):
    """One registered version as it is served."""

    document: ClassVar[str] = "variant"

    name: Name
    """Its name at the endpoint, `v3` for version 3."""
    model: str
    version: int = Field(ge=1)
    """The registry's number."""
    digest: Sha256
    """The bundle's digest: what a server must report to count as ready."""
    storage_uri: str
    """Where the bundle lies, as the registry says."""
    score_edges: list[float] = []
    """Inner edges of the bins in which the server counts its predictions; the same for all variants of an endpoint.
    Empty: twenty equal bins of the probability, one bin a class, or none in regression."""


class Share(Config):
    """One variant's part of the traffic."""

    variant: Name
    weight: int = Field(ge=0, le=TOTAL_WEIGHT)
    """Of 10 000."""


class Route(Config):
    """Who gets which variant. The stable one stands first and the canary last, so that a ramp moves users one way."""

    document: ClassVar[str] = "route"

    salt: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")
    """Mixed into each user's bucket: another salt is another, independent assignment."""
    shares: list[Share] = Field(min_length=1)
    mirror: Name | None = None
    """A variant that gets a copy of requests, whose answers nobody sees."""
    mirror_weight: int = Field(default=0, ge=0, le=TOTAL_WEIGHT)
    """The share of requests that are copied, of 10 000."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = sum(share.weight for share in self.shares)
        if total != TOTAL_WEIGHT:
            raise ValueError(f"the weights add up to {total}, not to {TOTAL_WEIGHT}")
        variants = [share.variant for share in self.shares]
        if len(set(variants)) != len(variants):
            raise ValueError("a variant stands twice")
        if (self.mirror is None) is not (self.mirror_weight == 0):
            raise ValueError("`mirror` and a `mirror_weight` above 0 go together")
        return self

    @property
    def weights(self) -> dict[str, int]:
        """Weights by variant, in order."""
        return {share.variant: share.weight for share in self.shares}

    @property
    def needed(self) -> list[str]:
        """The variants that must be ready before this route may take effect."""
        live = [share.variant for share in self.shares if share.weight]
        return live + ([self.mirror] if self.mirror else [])


class Phase(StrEnum):
    """How far a variant has come."""

    ABSENT = "absent"
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"


class VariantState(Config):
    """What a platform says of one variant."""

    phase: Phase
    reason: str = ""
    """Why it is not ready, in words: the server's last error, or a condition's message."""
    conditions: dict[str, str] = {}
    """What the platform reports besides: `PredictorReady: False (MinimumReplicasUnavailable)`."""

    @property
    def ready(self) -> bool:
        """Whether its model answers."""
        return self.phase is Phase.READY


class Address(Config):
    """How to reach an endpoint, or one of its variants whatever its weight."""

    url: str
    """`http://127.0.0.1:8080`; the server's paths follow, such as `/v2/models/NAME/infer`."""
    headers: dict[str, str] = {}
    """Headers that the request needs: the host, the wanted variant."""


class Histogram(Config):
    """Counts in bins. Bin 0 is all up to the first edge, the last bin all above the last edge."""

    edges: list[float]
    """Ascending; a value equal to an edge belongs to the bin below it."""
    counts: list[int]
    """One more than there are edges."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.counts) != len(self.edges) + 1:
            raise ValueError(f"{len(self.edges)} edges need {len(self.edges) + 1} counts, got {len(self.counts)}")
        if any(low >= high for low, high in itertools.pairwise(self.edges)):
            raise ValueError("the edges do not ascend")
        return self

    @property
    def total(self) -> int:
        """How many values were counted."""
        return sum(self.counts)

    def above(self, index: int) -> int:
        """How many values lie above edge `index`."""
        return sum(self.counts[index + 1 :])

    def __add__(self, other: "Histogram") -> "Histogram":
        """Both together; the one without edges gives way."""
        if not self.edges:
            return other
        if not other.edges:
            return self
        if self.edges != other.edges:
            raise ValueError("histograms with different edges cannot be added")
        return Histogram(edges=self.edges, counts=[a + b for a, b in zip(self.counts, other.counts, strict=True)])


NO_VALUES = Histogram(edges=[], counts=[0])


class Counts(Config):
    """What one variant answered in some stretch of time."""

    requests: int = 0
    """Answers of any kind, mirrored requests' among them."""
    server_errors: int = 0
    """Answers 500 to 599, those among them that the gateway gave for an unreachable server."""
    client_errors: int = 0
    """Answers 400 to 499: the clients' mistakes, which say nothing against a variant."""
    rejected: int = 0
    """Requests that the contract's check refused, a part of `client_errors`: a new version that refuses more of the
    same traffic has changed its contract."""
    latency_ms: Histogram = NO_VALUES
    """Answers by duration at the gateway, in milliseconds."""
    scores: Histogram = NO_VALUES
    """Predictions: the second class's probability (binary), the class's number (multiclass), the value (regression)."""

    def __add__(self, other: "Counts") -> "Counts":
        """Both stretches together."""
        return Counts(
            requests=self.requests + other.requests,
            server_errors=self.server_errors + other.server_errors,
            client_errors=self.client_errors + other.client_errors,
            rejected=self.rejected + other.rejected,
            latency_ms=self.latency_ms + other.latency_ms,
            scores=self.scores + other.scores,
        )


class Reading(Config):
    """What happened since a cursor, and the cursor for the next reading: nothing is counted twice or left out."""

    counts: Counts
    cursor: str
    """Opaque to the caller, who stores it with what it counted."""


class Platform(Protocol):
    """Where endpoints are served."""

    name: str
    """`embedded` or `kubeflow`."""

    def check(self, endpoint: str, route: Route, variants: Sequence[Variant]) -> None:
        """Refuse what this platform could not carry out, before anything is started.

        Raises:
            ReleaseError: Says what it cannot do, and which mode or platform can.
        """

    def ensure_variant(self, endpoint: str, variant: Variant) -> None:
        """Start serving a variant that gets no traffic yet; return at once. Nothing happens if it is there already.

        Raises:
            GatewayError: The embedded platform is not up.
            ClusterError: The cluster said no.
        """

    def variant_state(self, endpoint: str, variant: Variant) -> VariantState:
        """How far it has come; READY only when the model with exactly this digest answers."""

    def variants(self, endpoint: str) -> list[Variant]:
        """The variants that exist, with or without traffic, in the order in which they were made."""

    def remove_variant(self, endpoint: str, variant: str) -> None:
        """Let its requests finish, then stop it. Nothing happens if it is gone already.

        Raises:
            ReleaseError: The live route still sends it traffic.
        """

    def set_route(self, endpoint: str, route: Route) -> None:
        """Make live traffic follow a route; return once it does. It becomes the endpoint's desired state.

        Raises:
            NotReadyError: A variant that would get traffic is not ready; traffic is unchanged.
            GatewayError: Envoy refused the configuration; traffic is unchanged.
            ClusterError: The cluster said no.
        """

    def route(self, endpoint: str) -> Route | None:
        """The route that live traffic follows; None while the endpoint does not exist."""

    def endpoints(self) -> list[str]:
        """All endpoints' names, in order."""

    def remove_endpoint(self, endpoint: str) -> None:
        """Take the endpoint and all its variants away. Nothing happens if it is gone already."""

    def address(self, endpoint: str, variant: str | None = None) -> Address:
        """How to reach the endpoint, or one variant of it whatever its weight."""

    def read(self, endpoint: str, variant: str, cursor: str = "") -> Reading:
        """What a variant answered since a cursor; an empty cursor starts now and counts nothing.

        A restarted server or gateway loses at most what it had not yet reported; counts never go down.

        Raises:
            MeasurementError: The metrics cannot be read.
        """

    def users(self, endpoint: str, since: datetime) -> Mapping[str, int] | None:
        """Distinct users by variant since a moment, from the payload log; None where this platform cannot tell."""


def open_platform(settings: "Settings | None" = None) -> Platform:
    """The platform that the settings name."""
    from headway.components.settings import load_settings

    settings = settings or load_settings()
    if settings.platform == "kubeflow":
        from headway.serving.kubeflow.platform import KubeflowPlatform

        return KubeflowPlatform(settings)
    from headway.serving.embedded.platform import EmbeddedPlatform

    return EmbeddedPlatform(settings)
