"""Rehearse a release: recorded traffic, replayed through the real engine and the real verdicts in compressed time.

Each scenario releases a newcomer with one injected fault, and one releases it without any. Requests keep their order,
their pace, their users, their durations, their predictions and what became of those; what the newcomer answers is drawn
from the recording and then spoilt. A recording that is shorter than the release starts again from its beginning. Where
nothing is known of any prediction, the release is rehearsed without its decision: the guards alone.

    none      the newcomer is as good as the stable version
    errors    a share of its answers are 5xx
    latency   its answers take longer by a factor
    labels    it was trained on wrong labels: a share of its predictions is turned round
    schema    its contract changed: it refuses a share of the requests
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from headway.components.config import Config
from headway.serving.experiment.assignment import bucket
from headway.serving.experiment.losses import LOG_LOSS_CLIP
from headway.serving.platform import Counts, Histogram, Phase, Reading, Route, Variant, VariantState
from headway.serving.release import engine
from headway.serving.release.engine import Facts
from headway.serving.release.plan import ReleaseSpec
from headway.serving.release.recording import Floats, Recording
from headway.serving.release.sprt import higher_is_better
from headway.serving.release.state import Check, Release, RunChecks, SetRoute, State
from headway.serving.release.verdict import Evidence, Outcome, Sums, Verdict, judge

Kind = Literal["none", "errors", "latency", "labels", "schema"]

LATENCY_EDGES_MS = [round(1.25**step, 3) for step in range(42)]
"""Bins for durations, from 1 ms to 10 s."""
_SCORE_BINS = 20
_LOOK = timedelta(seconds=2)
_LOOKS_GROW = 0.02
"""Later looks lie apart by this share of the stage's time: the verdicts hold at any looks, and days pass quickly."""
_SALT = "rehearsal"


class Fault(Config):
    """What is wrong with the newcomer."""

    document: ClassVar[str] = "fault"

    kind: Kind = "none"
    size: float = Field(default=0.0, ge=0)
    """`errors`, `labels`, `schema`: the share that is spoilt. `latency`: how much longer, as a share."""

    @classmethod
    def parse_text(cls, text: str) -> "Fault":
        """Read `errors=0.02`, as the command line has it.

        Example:
            >>> Fault.parse_text("latency=0.5")
            Fault(kind='latency', size=0.5)
        """
        kind, _, size = text.partition("=")
        return cls.parse({"kind": kind, "size": size or 0}, where=f"fault {text!r}")


DEFAULT_FAULTS = [
    Fault(),
    Fault(kind="errors", size=0.03),
    Fault(kind="latency", size=1.0),
    Fault(kind="labels", size=0.5),
    Fault(kind="schema", size=0.05),
]


@dataclass(frozen=True, kw_only=True)
class Rehearsed:
    """What came of one scenario."""

    fault: Fault
    state: State
    held: str
    caught_by: str
    """The finding that took it back; empty where nothing did."""
    text: str
    hours: float
    """Time until then, in the recording's own pace."""
    stage: int
    """The stage in which it ended, counted from 1."""
    newcomer_requests: int
    users_exposed: int
    timeline: list[tuple[float, int]] = field(default_factory=list)
    """The newcomer's weight, of 10 000, by hours since the start."""

    @property
    def end(self) -> str:
        """How it ended, in a word."""
        return "held" if self.held else str(self.state)

    @property
    def right(self) -> bool:
        """Whether a faulty newcomer was taken back or held, and a good one was not taken back."""
        taken_back = self.state is State.ROLLED_BACK
        return not taken_back if self.fault.kind == "none" else taken_back or bool(self.held)


def rehearse(
    recording: Recording,
    spec: ReleaseSpec,
    *,
    faults: Sequence[Fault] = DEFAULT_FAULTS,
    seed: int = 0,
    most_hours: float = 24 * 7,
    on_result: Callable[[Rehearsed], None] = lambda one: None,
) -> list[Rehearsed]:
    """Replay a recording through a release, once for each fault.

    Args:
        recording: The traffic.
        spec: The release.
        faults: What is injected.
        seed: Draws the newcomer's answers.
        most_hours: Give up after this much of the recording's time.
        on_result: Called with each scenario as it ends.
    """
    found = []
    if spec.decision is not None and not recording.has_outcomes:
        spec = spec.model_copy(update={"decision": None})
    for fault in faults:
        found.append(_Scenario(recording, spec, fault, seed).run(most_hours))
        on_result(found[-1])
    return found


class _Scenario:
    """One release over one recording: the world that the engine acts upon."""

    def __init__(self, recording: Recording, spec: ReleaseSpec, fault: Fault, seed: int) -> None:
        self._recording = recording
        self._fault = fault
        self._random = np.random.default_rng(seed)
        self._buckets = np.array([bucket(_SALT, user) for user in recording.users])
        self._edges = score_edges(recording.scores)
        self._served = 0
        self._exposed: set[str] = set()
        self._newcomer_requests = 0
        self._values: dict[str, list[Floats]] = {"v1": [], "v2": []}
        self._route: Route | None = None
        variants = [_variant(1), _variant(2)]
        before = Route.parse({"salt": _SALT, "shares": [{"variant": "v1", "weight": 10_000}]})
        self._begin = datetime(2000, 1, 1, tzinfo=UTC)
        self._release = Release(
            id="rehearsal",
            endpoint="rehearsal",
            model="rehearsal",
            spec=spec,
            variants=variants,
            salt=_SALT,
            before=before,
            champion=1,
            actor="rehearsal",
            reason="rehearsal",
            created=self._begin,
            entered=self._begin,
            clock=self._begin,
        )

    def run(self, most_hours: float) -> Rehearsed:
        now = self._begin
        last = now + timedelta(hours=most_hours)
        timeline: list[tuple[float, int]] = []
        self._release = engine.begin(self._release).release
        reached = 0
        while not self._over(now, last):
            if self._release.pending:
                self._carry_out(now, timeline)
                continue
            now += max(_LOOK, (now - self._release.clock) * _LOOKS_GROW)
            self._release = engine.count(self._release, self._traffic(now))
            self._release = engine.advance(self._release, self._facts(), now, self._judge).release
            reached = max(reached, self._release.stage)
        return self._result(now, reached, timeline)

    def _over(self, now: datetime, last: datetime) -> bool:
        return self._release.state.over or bool(self._release.held) or now >= last

    def _carry_out(self, now: datetime, timeline: list[tuple[float, int]]) -> None:
        action = self._release.pending[0]
        checks = [Check(name="rehearsal", ok=True, text="")] if isinstance(action, RunChecks) else None
        if isinstance(action, SetRoute):
            self._route = action.route
            self._values = {"v1": [], "v2": []}
            timeline.append((_hours(now - self._begin), action.route.weights.get("v2", 0)))
        self._release = engine.done(self._release, now, checks=checks).release

    def _traffic(self, now: datetime) -> dict[str, Reading]:
        """Let the requests up to now happen."""
        if self._route is None:
            return {}
        until = int(_hours(now - self._begin) * 3600 * self._recording.rate)
        picked = np.arange(self._served, until) % len(self._recording.seconds)
        self._served = max(self._served, until)
        newcomer = self._buckets[picked] >= 10_000 - self._route.weights.get("v2", 0)
        self._exposed.update(self._recording.users[index] for index in picked[newcomer])
        self._newcomer_requests += int(newcomer.sum())
        fresh = self._random.integers(0, len(self._recording.seconds), int(newcomer.sum()))
        counts = {"v1": self._counts("v1", picked[~newcomer], Fault()), "v2": self._counts("v2", fresh, self._fault)}
        return {name: Reading(counts=found, cursor="") for name, found in counts.items()}

    def _counts(self, variant: str, picked: NDArray[np.int64], fault: Fault) -> Counts:
        """What a variant with this fault answers to these requests."""
        spoilt = self._random.random(len(picked)) < fault.size
        errors = self._recording.errors[picked] | (spoilt if fault.kind == "errors" else False)
        refused = spoilt if fault.kind == "schema" else np.zeros(len(picked), dtype=bool)
        stretch = 1 + fault.size if fault.kind == "latency" else 1.0
        scores = self._recording.scores[picked]
        outcomes = self._recording.outcomes[picked]
        if fault.kind == "labels":
            scores = np.where(spoilt, self._turn_round(scores), scores)
            outcomes = np.where(spoilt, self._opposite(outcomes), outcomes)
        answered = ~refused & ~errors & ~np.isnan(scores)
        self._values[variant].append(outcomes[answered & ~np.isnan(outcomes)])
        return Counts(
            requests=len(picked),
            server_errors=int((errors & ~refused).sum()),
            client_errors=int(refused.sum()),
            rejected=int(refused.sum()),
            latency_ms=histogram(LATENCY_EDGES_MS, self._recording.latency_ms[picked] * stretch),
            scores=histogram(self._edges, scores[answered]),
        )

    def _turn_round(self, scores: Floats) -> Floats:
        """Predictions mirrored in the middle of what was recorded."""
        known = self._recording.scores[~np.isnan(self._recording.scores)]
        return known.min() + known.max() - scores if len(known) else scores

    def _opposite(self, outcomes: Floats) -> Floats:
        """The decision metric of the opposite prediction; where it has none, the worst that was recorded."""
        rule = self._release.spec.decision
        known = self._recording.outcomes[~np.isnan(self._recording.outcomes)]
        if rule is None or not len(known):
            return outcomes
        opposite = _OPPOSITES.get(rule.metric)
        if opposite is not None:
            return opposite(outcomes)
        return np.full_like(outcomes, known.min() if higher_is_better(rule) else known.max())

    def _facts(self) -> Facts:
        ready = VariantState(phase=Phase.READY)
        rule = self._release.spec.decision
        if rule is None or not engine.decides(self._release):
            return Facts(states={"v1": ready, "v2": ready})
        return Facts(states={"v1": ready, "v2": ready}, outcomes=self._outcomes())

    def _outcomes(self) -> dict[str, Sums]:
        """The decision metric's sums, of the recorded outcomes; a spoilt prediction gets what the opposite would."""
        return {name: _sums(np.concatenate(values or [np.empty(0)])) for name, values in self._values.items()}

    def _judge(self, evidence: Evidence, decides: bool) -> Verdict:
        release = self._release
        judged = max(1, sum(stage.judged for stage in release.stages))
        return judge(release.spec, release.current, evidence, stages=judged, final=decides)

    def _result(self, now: datetime, reached: int, timeline: list[tuple[float, int]]) -> Rehearsed:
        release = self._release
        failed = (
            [finding for finding in release.verdict.findings if finding.outcome is Outcome.FAIL]
            if (release.verdict)
            else []
        )
        return Rehearsed(
            fault=self._fault,
            state=release.state,
            held=release.held,
            caught_by=failed[0].name if failed and release.state is State.ROLLED_BACK else "",
            text=release.ended_why or release.held or (release.verdict.text if release.verdict else ""),
            hours=_hours(now - self._begin),
            stage=reached + 1,
            newcomer_requests=self._newcomer_requests,
            users_exposed=len(self._exposed),
            timeline=timeline,
        )


_OPPOSITES: dict[str, Callable[[Floats], Floats]] = {
    "accuracy": lambda correct: 1 - correct,
    "log_loss": lambda loss: -np.log(np.maximum(1 - np.exp(-loss), LOG_LOSS_CLIP)),
    "brier": lambda loss: (1 - np.sqrt(loss)) ** 2,
}
"""What a metric says of the opposite of a binary prediction, from what it says of the prediction."""


def _sums(values: Floats) -> Sums:
    return Sums(n=len(values), total=float(values.sum()), total_of_squares=float((values**2).sum()))


def histogram(edges: list[float], values: Floats) -> Histogram:
    """Values counted in bins; a value equal to an edge belongs to the bin below it."""
    if not edges:
        return Histogram(edges=[], counts=[len(values)])
    places = np.searchsorted(np.array(edges), values, side="left")
    return Histogram(edges=edges, counts=np.bincount(places, minlength=len(edges) + 1).tolist())


def score_edges(scores: Floats) -> list[float]:
    """Bins that each hold a twentieth of the predictions; none where there are no predictions."""
    present = scores[~np.isnan(scores)]
    if not len(present):
        return []
    return sorted(set(np.quantile(present, np.arange(1, _SCORE_BINS) / _SCORE_BINS).tolist()))


def _variant(version: int) -> Variant:
    return Variant(
        name=f"v{version}",
        model="rehearsal",
        version=version,
        digest=f"{version:064x}",
        storage_uri="file:///rehearsal",
    )


def _hours(span: timedelta) -> float:
    return span / timedelta(hours=1)
