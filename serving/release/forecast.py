"""What a release will need and risk, before it starts: requests and hours, users exposed, failures until a rollback.

The stages are simulated with the rules that will judge them (`simulation`), so that the forecast holds for the guards,
steps and error probabilities of this very release. The decision metric is forecast by Wald's formulas.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from headway.components.config import Config
from headway.components.errors import UsageError
from headway.serving.platform import NO_VALUES, TOTAL_WEIGHT, Histogram
from headway.serving.release import rules
from headway.serving.release.plan import DecisionRule, ReleaseSpec, Stage, Strategy, stages
from headway.serving.release.quantiles import quantile
from headway.serving.release.simulation import Behaviour, Runs, simulate
from headway.serving.release.sprt import SequentialTest

_GROWTH = 0.04
"""Looks of the simulation grow apart by this share of a stage's time."""
_LIKELY = 0.9


class StageForecast(Config):
    """One stage, for a newcomer that is exactly as good as the stable variant."""

    document: ClassVar[str] = "stage's forecast"

    percent: float
    """The newcomer's share of the requests, copies included."""
    requests: float
    """Requests to the endpoint until it passes, on average."""
    newcomer_requests: float
    hours: float
    """On average."""
    hours_likely: float
    """Nine of ten releases pass it within this time."""
    passes: float
    """Share of the releases that pass it before the stage's timeout."""


class HarmForecast(Config):
    """A newcomer that is worse in one way."""

    document: ClassVar[str] = "harm's forecast"

    name: str
    """`server errors 1 % -> 3 %`"""
    caught: float
    """Share of the releases that take it back."""
    newcomer_requests: float
    """Requests that it answers until then, on average."""
    hours: float
    extra_failures: float
    """Requests that fail, or are slower than allowed, only because of it: the error budget at risk."""
    users: float | None = None
    """Users who see it, at most; None where users are not known."""


class DecisionForecast(Config):
    """The decision metric."""

    document: ClassVar[str] = "decision's forecast"

    metric: str
    goal: str
    outcomes_if_good: float
    """Outcomes of both variants together until it decides, if the newcomer is what the goal asks for."""
    outcomes_if_bad: float
    """The same for one that is to be held back."""
    outcomes_fixed: float
    """What a test of the same error probabilities needs that looks once, at the end."""
    newcomer_part: float
    """The newcomer's part of the outcomes."""
    hours_if_good: float
    hours_if_bad: float
    ships_if_good: float
    """Chance to ship then: the power."""
    ships_if_bad: float


class Forecast(Config):
    """What a release will need and risk."""

    document: ClassVar[str] = "forecast"

    requests_per_hour: float
    error_rate: float
    stages: list[StageForecast]
    harms: list[HarmForecast] = []
    decision: DecisionForecast | None = None
    false_rollback: float
    """The most that the chance to take back a version that is no worse can be."""
    users: float | None = None
    """Users who see the newcomer before it has all traffic, at most."""
    window_hours: float = 0.0

    @property
    def hours(self) -> float:
        """From the first stage to the end of the rollback window, on average; labels may take longer."""
        return sum(stage.hours for stage in self.stages) + self.window_hours

    @property
    def headings(self) -> list[str]:
        """Heads of the columns of `rows`."""
        return ["newcomer's share", "requests", "of these the newcomer's", "takes", "9 of 10 within"]

    @property
    def rows(self) -> list[list[str]]:
        """One row a stage, as texts."""
        return [
            [
                f"{stage.percent:g} %",
                _number(stage.requests),
                _number(stage.newcomer_requests),
                _time(stage.hours) if stage.passes else "timeout",
                _time(stage.hours_likely) if stage.passes >= _LIKELY else "timeout",
            ]
            for stage in self.stages
        ]

    @property
    def sentences(self) -> list[str]:
        """What the table does not say."""
        traffic = f"at {_number(self.requests_per_hour)} requests an hour, {self.error_rate * 100:.2g} % of which fail"
        said = [f"A newcomer that is as good takes {_time(self.hours)} to the end of the rollback window, {traffic}."]
        late = [stage for stage in self.stages if stage.passes < _LIKELY]
        if late:
            said.append(
                f"At {late[0].percent:g} % only {late[0].passes * 100:.0f} of 100 releases pass before the stage's "
                "timeout and the others wait for a person: more traffic, a larger first step or a larger allowance "
                "would help."
            )
        said.append(f"It is taken back by mistake in at most {self.false_rollback * 100:g} of 100 releases.")
        if self.users is not None:
            said.append(f"Until it has all traffic at most {_number(self.users)} users see it.")
        return said + [_harm(harm) for harm in self.harms] + ([_decision(self.decision)] if self.decision else [])


def forecast(
    spec: ReleaseSpec,
    *,
    requests_per_hour: float,
    error_rate: float = 0.0,
    rejected_rate: float = 0.0,
    latency_ms: Histogram = NO_VALUES,
    scores: Histogram = NO_VALUES,
    users_per_hour: float | None = None,
    outcome_sd: float | None = None,
    outcomes_per_request: float = 1.0,
    variants: int = 2,
    harm: float = 2.0,
    releases: int = 100,
    seed: int = 0,
) -> Forecast:
    """Say what a release will need and risk.

    Args:
        spec: The release.
        requests_per_hour: To the endpoint, without the clients' mistakes.
        error_rate: Share of them that the stable variant answers 5xx.
        rejected_rate: Share of the requests that its contract's check refuses.
        latency_ms: Its answers by duration; without it the latency guard is left out.
        scores: Its predictions by bin; without them the guard of the predictions is left out.
        users_per_hour: Distinct users.
        outcome_sd: Standard deviation of one outcome of the decision's metric, for one that is 0 or 1 the square root
            of p (1 - p); without it there is no forecast of the decision.
        outcomes_per_request: How many of the requests get an outcome, at last.
        variants: How many variants the release has.
        harm: How bad the bad newcomers are, in multiples of what is allowed.
        releases: How many are simulated.
        seed: Of the simulation.

    Raises:
        UsageError: A number is out of range.

    Example:
        >>> spec = ReleaseSpec.parse({"steps": [10, 100], "rollback_window_seconds": 0})
        >>> found = forecast(spec, requests_per_hour=36_000, error_rate=0.001, releases=50)
        >>> [(stage.percent, round(stage.newcomer_requests)) for stage in found.stages]
        [(10.0, 714), (100.0, 671)]
        >>> print(found.sentences[-1])
        server errors 0.1 % -> 2.1 %: taken back after 329 requests and 5 min on average, 7 of which failed because of
        it; 100 of 100 such releases are caught.
    """
    _check(requests_per_hour, error_rate, rejected_rate)
    if spec.strategy in (Strategy.AB, Strategy.SHADOW):
        # They end without a promotion, so there is nothing to watch after it.
        spec = spec.model_copy(update={"rollback_window_seconds": 0})
    planned = _two(stages(spec, variants))
    stable = Behaviour(
        error_rate=error_rate,
        rejected_rate=rejected_rate,
        edges=tuple(latency_ms.edges),
        latency=_shares(latency_ms),
        scores=_shares(scores),
    )

    def run(newcomer: Behaviour) -> Runs:
        return simulate(
            spec,
            planned,
            stable,
            newcomer,
            requests_per_second=requests_per_hour / 3600,
            releases=releases,
            growth=_GROWTH,
            seed=seed,
        )

    window = spec.rollback_window_seconds / 3600
    if spec.strategy is Strategy.FIRST or not any(stage.judged for stage in planned):
        alone = StageForecast(percent=100, requests=0, newcomer_requests=0, hours=0, hours_likely=0, passes=1)
        return Forecast(requests_per_hour=requests_per_hour, error_rate=error_rate, stages=[alone], false_rollback=0.0)
    found = _stages(planned, run(stable), requests_per_hour, window)
    exposed = None if users_per_hour is None else sum(s.hours * s.percent / 100 for s in found) * users_per_hour
    harms = [
        _harmed(name, run(newcomer), extra, users_per_hour, planned)
        for name, newcomer, extra in _harms(spec, stable, harm)
    ]
    decision = None
    if spec.decision is not None and outcome_sd is not None:
        part = _deciding_part(planned)
        per_hour = requests_per_hour * outcomes_per_request
        decision = _decided(spec.decision, outcome_sd, part, per_hour)
    return Forecast(
        requests_per_hour=requests_per_hour,
        error_rate=error_rate,
        stages=found,
        harms=harms,
        decision=decision,
        false_rollback=spec.alpha,
        users=exposed,
        window_hours=window,
    )


def _check(requests_per_hour: float, *rates: float) -> None:
    if not requests_per_hour > 0:
        raise UsageError(f"{requests_per_hour:g} requests an hour", expected="more than none")
    for rate in rates:
        if not 0 <= rate < 1:
            raise UsageError(f"A rate of {rate:g}", expected="from 0 to below 1")


def _two(planned: Sequence[Stage]) -> list[Stage]:
    """The stages as the first and the last variant see them: a forecast is of one newcomer."""
    return [stage.model_copy(update={"weights": [stage.weights[0], stage.weights[-1]]}) for stage in planned]


def _shares(counted: Histogram) -> tuple[float, ...]:
    if not counted.edges or not counted.total:
        return ()
    return tuple(count / counted.total for count in counted.counts)


def _stages(planned: Sequence[Stage], runs: Runs, requests_per_hour: float, window: float) -> list[StageForecast]:
    found = []
    entered = len(runs.fails)
    for number, stage in enumerate(planned):
        hours = runs.stage_seconds[runs.passed(number), number] / 3600
        hours -= window if number == len(planned) - 1 else 0.0
        passed = len(hours) > 0
        mean_hours = float(hours.mean()) if passed else 0.0
        share = _newcomer_share(stage)
        found.append(
            StageForecast(
                percent=share * 100,
                requests=mean_hours * requests_per_hour,
                newcomer_requests=mean_hours * requests_per_hour * share,
                hours=mean_hours,
                hours_likely=float(np.quantile(hours, _LIKELY)) if passed else 0.0,
                passes=len(hours) / entered if entered else 0.0,
            )
        )
        entered = len(hours)
    return found


def _newcomer_share(stage: Stage) -> float:
    return (stage.weights[-1] + stage.mirror_weight) / TOTAL_WEIGHT


def _harms(spec: ReleaseSpec, stable: Behaviour, harm: float) -> list[tuple[str, Behaviour, float]]:
    """Bad newcomers: a name, how it behaves, and the share of its answers that are bad only because of it."""
    found = []
    errors, latency = spec.guards.server_errors, spec.guards.latency
    if errors is not None:
        worse = min(stable.error_rate + harm * errors.max_increase, 0.99)
        name = f"server errors {stable.error_rate * 100:.3g} % -> {worse * 100:.3g} %"
        found.append((name, replace(stable, error_rate=worse), worse - stable.error_rate))
    if latency is not None and stable.latency:
        factor = 1 + harm * latency.max_increase
        slow = stable.slower(factor)
        before = quantile(stable.edges, stable.latency, latency.quantile)
        bound = rules.allowed_latency(before, latency.max_increase, latency.floor_ms)
        extra = max(0.0, float(slow.share_slower(bound)) - (1 - latency.quantile))
        found.append((f"p{latency.quantile * 100:g} latency x {factor:g}", slow, extra))
    return found


def _harmed(
    name: str, runs: Runs, extra: float, users_per_hour: float | None, planned: Sequence[Stage]
) -> HarmForecast:
    requests = float(runs.canary_requests.mean())
    hours = float(runs.seconds.mean() / 3600)
    users = None
    if users_per_hour is not None:
        shares = np.array([_newcomer_share(stage) for stage in planned])
        users = float((shares[runs.stage] * runs.seconds / 3600 * users_per_hour).mean())
    return HarmForecast(
        name=name,
        caught=float(runs.fails.mean()),
        newcomer_requests=requests,
        hours=hours,
        extra_failures=requests * extra,
        users=users,
    )


def _deciding_part(planned: Sequence[Stage]) -> float:
    """The newcomer's part of the outcomes where the decision is made: the last stage with both variants."""
    for stage in reversed(planned):
        if stage.judged and stage.concurrent:
            newcomer = stage.weights[-1] + stage.mirror_weight
            return newcomer / (stage.weights[0] + newcomer)
    return 0.5


def _decided(rule: DecisionRule, sd: float, part: float, outcomes_per_hour: float) -> DecisionForecast:
    test = SequentialTest.of(rule)
    # Information is n / sd^2 / (1 / part + 1 / (1 - part)) for n outcomes of both together.
    price = sd**2 * (1 / part + 1 / (1 - part))
    bad, good = test.null, test.null + test.effect
    least = rule.min_outcomes / min(part, 1 - part)
    needed = [max(least, test.expected_information(difference) * price) for difference in (good, bad)]
    return DecisionForecast(
        metric=rule.metric,
        goal=rule.goal,
        outcomes_if_good=needed[0],
        outcomes_if_bad=needed[1],
        outcomes_fixed=test.fixed_information * price,
        newcomer_part=part,
        hours_if_good=needed[0] / outcomes_per_hour,
        hours_if_bad=needed[1] / outcomes_per_hour,
        ships_if_good=test.ships(good),
        ships_if_bad=test.ships(bad),
    )


def _harm(harm: HarmForecast) -> str:
    users = "" if harm.users is None else f", at most {_number(harm.users)} users saw it"
    return (
        f"{harm.name}: taken back after {_number(harm.newcomer_requests)} requests and {_time(harm.hours)} on average, "
        f"{_number(harm.extra_failures)} of which failed because of it{users}; "
        f"{harm.caught * 100:.0f} of 100 such releases are caught."
    )


def _decision(found: DecisionForecast) -> str:
    return (
        f"{found.metric} ({found.goal}) decides after about {_number(found.outcomes_if_good)} outcomes "
        f"({_time(found.hours_if_good)}) if the newcomer is good, {_number(found.outcomes_if_bad)} if not; "
        f"a single look would need {_number(found.outcomes_fixed)}. Labels that come late add their delay."
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value < 10_000 else f"{float(f'{value:.3g}'):,.0f}"


def _time(hours: float) -> str:
    if hours < 1.5 / 60:
        return f"{hours * 3600:.0f} s"
    if hours < 1.5:
        return f"{hours * 60:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"
