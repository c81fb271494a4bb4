"""Many simulated releases at once, judged by the rules that judge real ones: what `plan` and the benchmark rest on.

Requests come at random at a steady rate, and each answer fails, is refused, takes its time and scores by chance. The
rules see counts at every look, as the driver does. All releases go through a stage together, one array element each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headway.serving.platform import TOTAL_WEIGHT
from headway.serving.release import rules
from headway.serving.release.findings import levels_of
from headway.serving.release.plan import ReleaseSpec, Stage
from headway.serving.release.quantiles import quantile
from headway.serving.release.rules import Levels

Floats = NDArray[np.float64]
Counted = NDArray[np.int64]
Truths = NDArray[np.bool_]

LOOK_SECONDS = 2.0
"""How often the driver looks."""
_FEW_REQUESTS = 3
"""A look after fewer new answers of the newcomer is left out: it changes nothing and costs time."""


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """How a variant answers."""

    error_rate: float = 0.0
    """Share of the requests that are answered 5xx."""
    rejected_rate: float = 0.0
    """Share that the contract's check refuses."""
    edges: Sequence[float] = ()
    """Bins of the latency, in milliseconds; none: the latency is not simulated."""
    latency: Sequence[float] = ()
    """Probability of each bin, one more than there are edges."""
    scores: Sequence[float] = ()
    """Probability of each bin of the predictions; none: they are not simulated."""

    def slower(self, factor: float) -> "Behaviour":
        """The same with every latency longer by a factor; inside a bin the share above falls by a power.

        Example:
            >>> slow = Behaviour(edges=[10, 20, 40], latency=[0.9, 0.08, 0.018, 0.002]).slower(2)
            >>> [round(share, 3) for share in slow.latency]
            [0.0, 0.9, 0.08, 0.02]
        """
        shares = self.share_slower(np.asarray(self.edges) / factor)
        parts = -np.diff(np.concatenate([[1.0], shares, [0.0]]))
        return replace(self, latency=tuple((np.maximum(parts, 0.0) / parts.sum()).tolist()))

    def share_slower(self, milliseconds: ArrayLike) -> Floats:
        """The share of answers that take longer than so many milliseconds.

        Example:
            >>> some = Behaviour(edges=[10, 20, 40], latency=[0.9, 0.08, 0.018, 0.002])
            >>> float(some.share_slower(30).round(4))
            0.0052
        """
        places, edges = np.log(np.asarray(milliseconds, dtype=np.float64)), np.log(np.asarray(self.edges))
        above = np.log(np.maximum(1 - np.cumsum(self.latency)[:-1], 1e-9))
        # Below the first edge a share of 1, beyond the last one none.
        return np.asarray(np.where(places < edges[0], 1.0, np.exp(np.interp(places, edges, above, right=-np.inf))))


@dataclass(frozen=True)
class Tallies:
    """What a variant answered, in each of n releases."""

    answers: Counted
    """(n,)"""
    errors: Counted
    """(n,)"""
    rejected: Counted
    """(n,)"""
    latency: Counted
    """(n, bins), without bins where the latency is not simulated."""
    scores: Counted
    """(n, bins)"""

    @classmethod
    def none(cls, behaviour: Behaviour, releases: int) -> "Tallies":
        """Nothing yet."""
        return cls(
            *(np.zeros(releases, dtype=np.int64) for _ in range(3)),
            *(np.zeros((releases, len(bins)), dtype=np.int64) for bins in (behaviour.latency, behaviour.scores)),
        )

    @classmethod
    def drawn(cls, behaviour: Behaviour, requests: float, releases: int, rng: np.random.Generator) -> "Tallies":
        """The answers to so many requests, on average."""
        came = rng.poisson(requests, releases)
        rejected = rng.binomial(came, behaviour.rejected_rate)
        answers = came - rejected
        errors = rng.binomial(answers, behaviour.error_rate)
        none = np.zeros((releases, 0), dtype=np.int64)
        return cls(
            answers,
            errors,
            rejected,
            rng.multinomial(came, behaviour.latency) if behaviour.latency else none,
            rng.multinomial(answers - errors, behaviour.scores) if behaviour.scores else none,
        )

    def __add__(self, other: "Tallies") -> "Tallies":
        return Tallies(*(a + b for a, b in zip(self._parts, other._parts, strict=True)))

    def of(self, which: NDArray[np.intp] | Truths) -> "Tallies":
        """Those of some of the releases."""
        return Tallies(*(part[which] for part in self._parts))

    @property
    def _parts(self) -> tuple[Counted, ...]:
        return (self.answers, self.errors, self.rejected, self.latency, self.scores)


@dataclass
class StageRun:
    """How n releases went through one stage."""

    fails: Truths
    passes: Truths
    """Neither: the stage was held, because it took too long."""
    seconds: Floats
    stable: Tallies
    canary: Tallies


@dataclass
class Runs:
    """How n releases went. Arrays have shape (n,)."""

    fails: Truths
    """Taken back."""
    passes: Truths
    """Shipped; neither is held for a person."""
    stage: Counted
    """In which stage it ended, counted from 0."""
    canary_requests: Counted
    """Answers of the newcomer, until then."""
    canary_errors: Counted
    stage_seconds: Floats
    """(n, stages), the rollback window after the last one included."""

    @classmethod
    def begun(cls, releases: int, stages: int) -> "Runs":
        """Before the first stage."""
        fails, passes = np.zeros(releases, dtype=bool), np.zeros(releases, dtype=bool)
        stage, requests, errors = (np.zeros(releases, dtype=np.int64) for _ in range(3))
        return cls(fails, passes, stage, requests, errors, np.zeros((releases, stages)))

    @property
    def seconds(self) -> Floats:
        """(n,) from the first stage to the end."""
        return np.asarray(self.stage_seconds.sum(axis=1))

    def passed(self, stage: int) -> Truths:
        """(n,) those that passed a stage."""
        return self.passes | (self.stage > stage)


def simulate(
    spec: ReleaseSpec,
    stages: Sequence[Stage],
    stable: Behaviour,
    canary: Behaviour,
    *,
    requests_per_second: float,
    releases: int = 1_000,
    look_seconds: float = LOOK_SECONDS,
    growth: float = 0.0,
    seed: int = 0,
) -> Runs:
    """Carry out many releases, without a decision metric.

    Args:
        spec: Guards, error probabilities and times.
        stages: The release's stages, of two variants.
        stable: How the stable variant answers.
        canary: How the newcomer does.
        requests_per_second: To the endpoint.
        releases: How many.
        look_seconds: Seconds between two looks.
        growth: Looks are further apart as a stage lasts longer, by this share of its time: for releases of days.
        seed: Of the random numbers.

    Example:
        >>> from headway.serving.release.plan import stages
        >>> spec = ReleaseSpec.parse({"guards": {"latency": None, "prediction_shift": None}})
        >>> bad = simulate(
        ...     spec, stages(spec, 2), Behaviour(error_rate=0.01), Behaviour(error_rate=0.05),
        ...     requests_per_second=100, releases=100, look_seconds=10,
        ... )
        >>> float(bad.fails.mean()), round(float(bad.canary_requests.mean()))
        (1.0, 353)
    """
    rng = np.random.default_rng(seed)
    judged = max(1, sum(stage.judged for stage in stages))
    runs = Runs.begun(releases, len(stages))
    alive = np.arange(releases)
    before = Tallies.none(stable, releases)
    for number, stage in enumerate(stages):
        levels = levels_of(spec, stages=judged, shadow=stage.mirror_weight > 0)
        clock = _Clock(look_seconds, growth, spec, requests_per_second, last=number == len(stages) - 1)
        run = _stage(spec, stage, levels, (stable, canary), before, clock, rng)
        runs.stage[alive] = number
        runs.stage_seconds[alive, number] = run.seconds
        runs.canary_requests[alive] += run.canary.answers + run.canary.rejected
        runs.canary_errors[alive] += run.canary.errors
        runs.fails[alive] = run.fails
        passed = run.passes & ~run.fails
        alive, before = alive[passed], run.stable.of(passed)
    runs.passes[alive] = True
    return runs


@dataclass(frozen=True)
class _Clock:
    look_seconds: float
    growth: float
    spec: ReleaseSpec
    rate: float
    """Requests a second."""
    last: bool
    """Whether the rollback window follows."""

    def looks(self, canary_share: float) -> Iterator[tuple[float, float]]:
        """Seconds since the stage began, and since the look before."""
        elapsed = 0.0
        least = self.look_seconds
        if canary_share:
            least *= max(1, ceil(_FEW_REQUESTS / (self.rate * canary_share) / self.look_seconds))
        while elapsed < self.limit:
            step = max(least, self.growth * elapsed)
            elapsed += step
            yield elapsed, step

    @property
    def limit(self) -> float:
        return self.spec.stage_timeout_hours * 3600

    @property
    def window(self) -> float:
        return self.spec.rollback_window_seconds if self.last else 0.0


def _stage(
    spec: ReleaseSpec,
    stage: Stage,
    levels: Levels,
    behaviours: tuple[Behaviour, Behaviour],
    before: Tallies,
    clock: _Clock,
    rng: np.random.Generator,
) -> StageRun:
    """One stage of all releases: each leaves it at its own look."""
    releases = len(before.answers)
    shares = [weight / TOTAL_WEIGHT for weight in (stage.weights[0], stage.weights[-1] + stage.mirror_weight)]
    run = StageRun(
        fails=np.zeros(releases, dtype=bool),
        passes=np.zeros(releases, dtype=bool),
        seconds=np.full(releases, inf),
        stable=Tallies.none(behaviours[0], releases) if stage.concurrent else before,
        canary=Tallies.none(behaviours[1], releases),
    )
    leaves = np.full(releases, inf)
    open_ = np.arange(releases)
    for elapsed, step in clock.looks(shares[1]):
        if not len(open_):
            break
        fresh = [
            Tallies.drawn(one, clock.rate * share * step, len(open_), rng)
            for one, share in zip(behaviours, shares, strict=True)
        ]
        if stage.concurrent:
            _add(run.stable, open_, fresh[0])
        _add(run.canary, open_, fresh[1])
        waiting = ~run.passes[open_] & (elapsed >= spec.min_seconds)
        called = _call(spec, stage, levels, behaviours[1].edges, run.stable.of(open_), run.canary.of(open_), waiting)
        first = open_[called.passes]
        run.passes[first] = True
        leaves[first] = elapsed + clock.window
        run.fails[open_] = called.fails
        run.seconds[open_] = elapsed
        open_ = open_[~called.fails & (leaves[open_] > elapsed)]
    return run


def _add(tallies: Tallies, where: NDArray[np.intp], fresh: Tallies) -> None:
    for whole, part in zip(tallies._parts, fresh._parts, strict=True):
        whole[where] += part


def _call(
    spec: ReleaseSpec,
    stage: Stage,
    levels: Levels,
    edges: Sequence[float],
    stable: Tallies,
    canary: Tallies,
    waiting: Truths,
) -> rules.Call:
    """What all guards say together of those that wait to pass; one is asked only where its answer can matter."""
    if not stage.judged:
        enough = waiting & (stable.answers >= spec.min_requests)
        return rules.Call(fails=np.zeros_like(enough), passes=enough)
    said = _rises(spec, levels, stable, canary)
    fails, passes = said.fails, waiting & said.passes & (canary.answers >= spec.min_requests)
    guard = spec.guards.latency
    if guard is not None and canary.latency.shape[1]:
        level = guard.quantile
        old, new = (quantile(edges, tallies.latency, level) for tallies in (stable, canary))
        with np.errstate(invalid="ignore"):
            beyond = new > rules.allowed_latency(old, guard.max_increase, guard.floor_ms)
        asked = np.flatnonzero(beyond | passes)
        late = rules.latency(
            edges,
            stable.latency[asked],
            canary.latency[asked],
            level=level,
            max_increase=guard.max_increase,
            floor=guard.floor_ms,
            levels=levels,
        )
        fails[asked] |= late.fails
        passes[asked] &= late.passes
    moved = spec.guards.prediction_shift
    if moved is not None and canary.scores.shape[1]:
        asked = np.flatnonzero(passes | (_distance(stable.scores, canary.scores) > moved.max_distance))
        limits = rules.shift_limits(stable.scores[asked], canary.scores[asked], levels)
        within = rules.shift_within(limits, moved.max_distance)
        fails[asked] |= within.fails
        passes[asked] &= within.passes
    return rules.Call(fails, passes)


def _rises(spec: ReleaseSpec, levels: Levels, stable: Tallies, canary: Tallies) -> rules.Call:
    guards = spec.guards
    fails, passes = np.zeros(len(canary.answers), dtype=bool), np.ones(len(canary.answers), dtype=bool)
    every = (stable.answers + stable.rejected, canary.answers + canary.rejected)
    pairs = (
        (guards.server_errors, (stable.errors, stable.answers, canary.errors, canary.answers)),
        (guards.rejected, (stable.rejected, every[0], canary.rejected, every[1])),
    )
    for guard, counts in pairs:
        if guard is not None:
            said = rules.rise(*counts, allowed=guard.max_increase, levels=levels)
            fails, passes = fails | said.fails, passes & said.passes
    return rules.Call(fails, passes)


def _distance(old: Counted, new: Counted) -> Floats:
    """Kolmogorov-Smirnov distance between rows of two histograms."""
    parts = [counts.cumsum(axis=1) / np.maximum(counts.sum(axis=1, keepdims=True), 1) for counts in (old, new)]
    return np.asarray(np.abs(parts[0] - parts[1]).max(axis=1))
