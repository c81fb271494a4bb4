"""The release engine: from where a release stands and what is known to where it stands next. It does nothing itself.

Every function takes a release and returns it changed, with the events that belong into the ledger. What must be done
in the world stands in `release.pending`; the driver stores the release first, carries the actions out, each any number
of times with one result, and then says so with `done`. A process that dies anywhere in between leaves a release from
which the next one goes on.

Invariants, held by the tests' state machine:
- traffic goes to a newcomer only after its checks passed, and more of it only after a verdict of `pass`, or a person's
  recorded word
- `no_data`, `inconclusive` and `error` never move traffic in either direction
- `fail` takes traffic back, also while the release is paused, held or settling
- the champion moves only after the last stage passed; nothing is promoted twice
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from headway.components.errors import ReleaseError
from headway.serving.platform import NO_VALUES, TOTAL_WEIGHT, Counts, Phase, Reading, Route, Share, VariantState
from headway.serving.release.plan import Stage, Strategy
from headway.serving.release.state import (
    Action,
    Check,
    EnsureVariant,
    Event,
    MoveChampion,
    MoveExperiment,
    Release,
    RemoveVariant,
    RunChecks,
    SetRoute,
    State,
    Tally,
)
from headway.serving.release.verdict import Evidence, Measured, Outcome, Sums, Verdict

Judge = Callable[[Evidence, bool], Verdict]
"""From evidence, and whether the stage is the one that decides, to a verdict."""


class Step(NamedTuple):
    """A release after one step, and what the ledger shall say of it."""

    release: Release
    events: list[Event]


class Facts(NamedTuple):
    """What the driver found out for one step."""

    states: Mapping[str, VariantState] = {}
    """Readiness by variant, while the release prepares."""
    users: Mapping[str, int] | None = None
    """Distinct users by variant in this stage."""
    outcomes: Mapping[str, Sums] = {}
    """The decision metric's sums by variant."""
    disagreement: Sums | None = None
    unreadable: str = ""
    """Why the metrics could not be read, when they could not."""


def begin(release: Release) -> Step:
    """The first step of a new release: its variants are to be made."""
    pending: list[Action] = [EnsureVariant(variant=variant) for variant in release.variants]
    body = {
        "strategy": str(release.spec.strategy),
        "variants": {variant.name: variant.version for variant in release.variants},
        "digest": release.newcomer.digest,
        "reason": release.reason,
    }
    return Step(_with(release, pending=pending), [_event(release, "release_started", **body)])


def count(release: Release, readings: Mapping[str, Reading]) -> Release:
    """Add readings to the tallies of the present stage."""
    tallies = {name: release.tallies.get(name, Tally()).add(reading) for name, reading in readings.items()}
    return _with(release, tallies={**release.tallies, **tallies})


def advance(release: Release, facts: Facts, now: datetime, judge: Judge) -> Step:
    """One step of a release that has nothing pending.

    Args:
        release: The release.
        facts: What is known now.
        now: The moment.
        judge: Gives the verdict on a stage's evidence.
    """
    if release.pending:
        raise AssertionError("pending actions come first")
    match release.state:
        case State.PREPARING:
            return _prepare(release, facts, now)
        case State.CHECKING:
            return _after_checks(release, now)
        case State.RUNNING if not release.current.judged or len(release.variants) == 1:
            return _unjudged(release, now)
        case State.RUNNING | State.SETTLING:
            return _judged(release, facts, now, judge)
    return Step(release, [])


def done(release: Release, now: datetime, *, checks: Sequence[Check] | None = None) -> Step:
    """All or the first of the pending actions were carried out.

    Args:
        release: The release as it was when the action was carried out.
        now: The moment.
        checks: What the checks found, when the action was to run them.
    """
    action, *rest = release.pending
    changes: dict[str, Any] = {"pending": rest, "trouble": ""}
    events: list[Event] = []
    match action:
        case RunChecks():
            changes["checks"] = list(checks or [])
        case SetRoute():
            # Counting starts once the route is in force; readings from before belong to the stage before.
            changes |= _at(now)
            events.append(_weights(release, action))
        case MoveChampion():
            changes["promoted"] = not action.back
    release = _with(release, **changes)
    if not rest and release.ending is not None:
        ended = _with(release, state=release.ending, ending=None, **_at(now))
        events.append(_event(ended, f"release_{ended.state}", reason=ended.ended_why))
        return Step(ended, events)
    return Step(release, events)


def stumbled(release: Release, error: str) -> Release:
    """A pending action could not be carried out now; it stays pending."""
    return _with(release, trouble=error)


def skipped(release: Release, why: str, now: datetime) -> Step:
    """The first pending action has become impossible on the way out, such as moving back a champion that others moved.

    The way out goes on without it, and the ledger says so.
    """
    action = release.pending[0]
    step = done(release, now)
    return Step(step.release, [_event(release, "release_skipped", action=action.do, reason=why), *step.events])


def give_up(release: Release, why: str, now: datetime, *, to: State = State.ROLLED_BACK) -> Step:
    """Take all traffic back to where it was, whatever the newcomer's state, and end.

    Args:
        release: The release; its pending actions are dropped.
        why: The reason, for people.
        now: The moment.
        to: How it ends.
    """
    pending: list[Action] = []
    keep = set(release.before.weights) if release.before else set()
    if release.before is not None:
        pending.append(SetRoute(route=release.before, reason=why))
    # A move that is still pending may have been made by a driver that died before it could say so.
    moved = release.promoted or any(isinstance(action, MoveChampion) for action in release.pending)
    if moved and release.champion is not None:
        number = release.newcomer.version
        pending.append(MoveChampion(version=release.champion, expected=number, reason=why, back=True))
    pending += [RemoveVariant(variant=v.name) for v in release.variants if v.name not in keep]
    return _leave(release, pending, to, why, now)


def pause(release: Release, actor: str) -> Step:
    """Stop moving traffic; guards keep watch.

    Raises:
        ReleaseError: It is over, on its way out, or paused already.
    """
    _require(release, not release.paused, "it is paused already")
    paused = _with(release, paused=True, pending=_with_experiment(release, "pause", actor))
    return Step(paused, [_said(release, "release_paused", actor)])


def resume(release: Release, actor: str, now: datetime) -> Step:
    """Go on after a pause or a hold; the stage's clock starts anew.

    Raises:
        ReleaseError: It is neither paused nor held.
    """
    _require(release, release.paused or bool(release.held), "it is neither paused nor held")
    pending = _with_experiment(release, "resume", actor) if release.paused else release.pending
    resumed = _with(release, paused=False, held="", clock=now, pending=pending)
    return Step(resumed, [_said(release, "release_resumed", actor)])


def promote(release: Release, actor: str, why: str, now: datetime) -> Step:
    """Skip the rest of the stages on a person's word, which the ledger keeps.

    Raises:
        ReleaseError: The newcomer has not passed its checks, or the release is over.
    """
    _require(release, release.state is State.RUNNING, "only a release whose newcomer passed its checks is promoted")
    release = _with(release, forced=why, held="", paused=False)
    step = _promote(release, f"forced by {actor}: {why}", now)
    return Step(step.release, [_said(release, "release_forced", actor, reason=why), *step.events])


def end(release: Release, actor: str, why: str, now: datetime, *, to: State) -> Step:
    """Take the traffic back on a person's word.

    Args:
        release: The release.
        actor: Who says so.
        why: Why.
        now: The moment.
        to: `ABORTED` or `ROLLED_BACK`.

    Raises:
        ReleaseError: It is over.
    """
    if release.ending is to:
        return Step(release, [])
    _require(release, True, "")
    step = give_up(release, why, now, to=to)
    return Step(step.release, [_said(release, "release_ended_by", actor, reason=why), *step.events])


# ---- steps


def _prepare(release: Release, facts: Facts, now: datetime) -> Step:
    if release.paused:
        return Step(release, [])
    waiting = [v.name for v in release.variants if not _is_ready(facts.states, v.name)]
    failed = [v.name for v in release.variants if _phase(facts.states, v.name) is Phase.FAILED]
    if not waiting:
        if release.spec.strategy is Strategy.ROLLBACK:
            return _enter(release, 0, now)
        checks: list[Action] = [RunChecks(variant=release.newcomer)]
        return Step(_with(release, state=State.CHECKING, **_at(now), pending=checks), [])
    limit = release.spec.ready_timeout_seconds
    end = State.ABORTED if release.spec.strategy is Strategy.ROLLBACK else State.ROLLED_BACK
    if failed or _seconds(release, now) > limit:
        late = f"not ready after {limit:g} s" if not failed else "failed to start"
        reason = next((facts.states[name].reason for name in waiting if name in facts.states), "")
        who = ", ".join(failed or waiting)
        return give_up(release, f"{who} {late}" + (f": {reason}" if reason else ""), now, to=end)
    return Step(release, [])


def _after_checks(release: Release, now: datetime) -> Step:
    failed = [check for check in release.checks if not check.ok]
    if failed or not release.checks:
        why = "; ".join(f"{check.name}: {check.text}" for check in failed) or "no check was run"
        return give_up(release, f"{release.newcomer.name} failed its checks: {why}", now)
    return Step(release, []) if release.paused else _enter(release, 0, now)


def _unjudged(release: Release, now: datetime) -> Step:
    """A stage in which only time counts, and before a flip enough of the stable variant's traffic to compare with."""
    if release.paused or release.held or _seconds(release, now) < _least(release):
        return Step(release, [])
    if release.stage + 1 < len(release.stages):
        needed = release.spec.min_requests
        seen = _counts(release, release.stable.name).requests
        if seen < needed:
            return _hold_when_late(release, f"{release.stable.name} answered {seen} of the {needed} requests", now)
    return _next(release, now)


def _judged(release: Release, facts: Facts, now: datetime, judge: Judge) -> Step:
    verdict = _verdict(release, facts, judge)
    events = _verdict_events(release, verdict)
    release = _with(release, verdict=verdict)
    if verdict.outcome is Outcome.FAIL:
        step = give_up(release, verdict.text, now)
        return Step(step.release, events + step.events)
    step = _go_on(release, verdict, now)
    return Step(step.release, events + step.events)


def _go_on(release: Release, verdict: Verdict, now: datetime) -> Step:
    """What follows from a verdict that does not take traffic back."""
    if release.state is State.SETTLING:
        # The champion has moved already: what is left of the window passes, unless something fails.
        over = _seconds(release, now) >= release.spec.rollback_window_seconds
        return _settled(release, now) if over and not release.paused else Step(release, [])
    if release.paused or release.held or _seconds(release, now) < release.spec.min_seconds:
        return Step(release, [])
    if verdict.outcome is Outcome.PASS:
        return _next(release, now)
    if stuck := [finding.text for finding in verdict.findings if finding.holds]:
        return _hold(release, stuck[0], now)
    return _hold_when_late(release, verdict.text, now)


def _next(release: Release, now: datetime) -> Step:
    if release.stage + 1 < len(release.stages):
        return _enter(release, release.stage + 1, now)
    text = release.verdict.text if release.verdict else "all stages passed"
    match release.spec.strategy:
        case Strategy.SHADOW:
            return _complete(release, text, now)
        case Strategy.AB:
            return _hold(release, f"decided: {text}; promote or abort it", now)
    return _promote(release, text, now)


def _enter(release: Release, stage: int, now: datetime) -> Step:
    """Begin a stage: its route is to be set, and counting starts anew."""
    reference = release.reference
    if release.stage != stage and not release.stages[stage].concurrent:
        reference = _counts(release, release.stable.name)
    entered = _with(
        release,
        state=State.RUNNING,
        stage=stage,
        **_at(now),
        first_entered=release.first_entered or now,
        tallies={},
        reference=reference,
        verdict=None if stage != release.stage else release.verdict,
    )
    why = f"stage {stage + 1} of {len(release.stages)}"
    entered = _with(entered, pending=[SetRoute(route=entered.route, reason=why)])
    return Step(_with(entered, pending=_with_experiment(entered, "start", release.actor)), [])


def _promote(release: Release, why: str, now: datetime) -> Step:
    """Give the newcomer everything, in the gateway and in the registry, and keep the old one for the window."""
    newcomer = release.newcomer
    pending: list[Action] = []
    alone = _alone(release)
    if release.current.route(release.variants, release.salt) != alone:
        pending.append(SetRoute(route=alone, reason=why))
    if release.champion != newcomer.version:
        back = release.spec.strategy is Strategy.ROLLBACK
        pending.append(MoveChampion(version=newcomer.version, expected=release.champion, reason=why, back=back))
    if len(release.variants) == 1 or release.spec.strategy is Strategy.ROLLBACK:
        return _finish(release, pending, State.PROMOTED, why, now)
    reference = release.reference or _counts(release, release.stable.name)
    settling = _with(
        release, state=State.SETTLING, stage=len(release.stages) - 1, **_at(now), pending=pending, reference=reference
    )
    if release.stage < settling.stage:
        # Promoted by hand from an earlier stage: counts at two weights do not go together.
        settling = _with(settling, tallies={})
    return Step(settling, [_event(release, "release_settling", reason=why)])


def _settled(release: Release, now: datetime) -> Step:
    window = f"{release.spec.rollback_window_seconds:g} s"
    return _finish(release, [], State.PROMOTED, f"nothing failed in the rollback window of {window}", now)


def _finish(release: Release, pending: list[Action], to: State, why: str, now: datetime) -> Step:
    old = [variant for variant in release.variants if variant != release.newcomer]
    if old:
        only = Route(salt=release.salt, shares=[Share(variant=release.newcomer.name, weight=TOTAL_WEIGHT)])
        pending = [*pending, SetRoute(route=only, reason="what has no traffic leaves the route")]
    return _leave(release, [*pending, *(RemoveVariant(variant=v.name) for v in old)], to, why, now)


def _complete(release: Release, why: str, now: datetime) -> Step:
    """End without a change: the route of before, and the newcomer gone."""
    return give_up(release, why, now, to=State.COMPLETED)


def _leave(release: Release, pending: list[Action], to: State, why: str, now: datetime) -> Step:
    if release.spec.strategy is Strategy.AB and release.first_entered:
        move = "complete" if to is State.PROMOTED else "stop"
        pending = [*pending, MoveExperiment(move=move, actor=release.actor, reason=why)]
    leaving = _with(release, pending=pending, ending=to, ended_why=why, held="", **_at(now))
    if pending:
        return Step(leaving, [_event(release, "release_ending", to=str(to), reason=why)])
    ended = _with(leaving, state=to, ending=None)
    return Step(ended, [_event(ended, f"release_{to}", reason=why)])


def _with_experiment(release: Release, move: Literal["start", "pause", "resume"], actor: str) -> list[Action]:
    """The pending actions, and for an A/B test that has begun the move of its experiment."""
    if release.spec.strategy is not Strategy.AB or release.state is not State.RUNNING:
        return release.pending
    return [*release.pending, MoveExperiment(move=move, actor=actor)]


def _hold(release: Release, why: str, now: datetime) -> Step:
    return Step(_with(release, held=why), [_event(release, "release_held", reason=why)])


def _hold_when_late(release: Release, why: str, now: datetime) -> Step:
    hours = release.spec.stage_timeout_hours
    if _seconds(release, now) < hours * 3600:
        return Step(release, [])
    return _hold(release, f"undecided after {hours:g} h: {why}", now)


# ---- evidence


def _verdict(release: Release, facts: Facts, judge: Judge) -> Verdict:
    if facts.unreadable:
        return Verdict(outcome=Outcome.ERROR, text=f"the metrics cannot be read: {facts.unreadable}")
    return judge(evidence(release, facts), decides(release))


def evidence(release: Release, facts: Facts) -> Evidence:
    """All that is known of the present stage."""
    stage = release.current
    measured = [
        Measured(
            variant=variant.name,
            weight=weight,
            counts=_counts(release, variant.name),
            users=None if facts.users is None else facts.users.get(variant.name, 0),
            outcome=facts.outcomes.get(variant.name),
        )
        for variant, weight in zip(release.variants, stage.weights, strict=True)
    ]
    if not _concurrent(release, stage):
        if release.reference is not None:
            measured[0] = measured[0].model_copy(update={"counts": release.reference})
        if any(each.judged and each.concurrent for each in release.stages):
            # The predictions were compared on the same traffic already. Those of now and of before are of other hours
            # and days, and differ with them whatever the version.
            measured = [_without_scores(one) for one in measured]
    return Evidence(stable=measured[0], canary=measured[-1], others=measured[1:-1], disagreement=facts.disagreement)


def _without_scores(measured: Measured) -> Measured:
    return measured.model_copy(update={"counts": measured.counts.model_copy(update={"scores": NO_VALUES})})


def decides(release: Release) -> bool:
    """Whether the decision metric must have decided before the present stage passes.

    The last stage in which both variants answer decides: only there do their outcomes come from the same days.
    """
    concurrent = [index for index, stage in enumerate(release.stages) if stage.judged and stage.concurrent]
    return release.stage == (concurrent[-1] if concurrent else len(release.stages) - 1)


def outcomes_since(release: Release) -> datetime:
    """From when on outcomes count: the present stage, or, where the variants take turns, the first."""
    return release.entered if release.current.concurrent else release.first_entered or release.entered


def _concurrent(release: Release, stage: Stage) -> bool:
    return stage.concurrent and release.state is not State.SETTLING


def _verdict_events(release: Release, verdict: Verdict) -> list[Event]:
    before = release.verdict.outcome if release.verdict else None
    if verdict.outcome is before:
        return []
    findings = [finding.model_dump(mode="json", exclude_none=True) for finding in verdict.findings]
    return [
        _event(
            release,
            "verdict",
            outcome=str(verdict.outcome),
            stage=release.stage,
            reason=verdict.text,
            findings=findings,
        )
    ]


# ---- helpers


def _with(release: Release, **changes: Any) -> Release:
    return release.model_copy(update=changes)


def _require(release: Release, allowed: bool, why: str) -> None:
    if release.state.over or release.ending is not None:
        raise ReleaseError(
            f"Release {release.id} is {release.ending or release.state}", expected="one that is not over"
        )
    if not allowed:
        raise ReleaseError(f"Release {release.id} is {release.headline}: {why}")


def _event(release: Release, kind: str, **body: Any) -> Event:
    return Event(kind=kind, body={"release": release.id, "endpoint": release.endpoint, **body})


def _said(release: Release, kind: str, actor: str, **body: Any) -> Event:
    return _event(release, kind, **body).model_copy(update={"actor": actor})


def _weights(release: Release, action: SetRoute) -> Event:
    route = action.route
    versions = {variant.name: variant.version for variant in release.variants}
    mirror = {"mirror": route.mirror, "mirror_weight": route.mirror_weight} if route.mirror else {}
    return _event(
        release,
        "weights",
        weights=route.weights,
        versions={name: versions[name] for name in route.weights if name in versions},
        salt=route.salt,
        reason=action.reason,
        **mirror,
    )


def _alone(release: Release) -> Route:
    """All traffic to the newcomer; the others stay listed, so that assignments stay comparable."""
    last = len(release.variants) - 1
    shares = [
        Share(variant=variant.name, weight=TOTAL_WEIGHT if index == last else 0)
        for index, variant in enumerate(release.variants)
    ]
    return Route(salt=release.salt, shares=shares)


def _counts(release: Release, variant: str) -> Counts:
    return release.tallies.get(variant, Tally()).counts


def _seconds(release: Release, now: datetime) -> float:
    return (now - release.clock) / timedelta(seconds=1)


def _least(release: Release) -> float:
    # Nothing is compared with an endpoint's first variant, or after a rollback: no reason to wait.
    alone = release.spec.strategy in (Strategy.FIRST, Strategy.ROLLBACK)
    return 0 if alone else release.spec.min_seconds


def _at(now: datetime) -> dict[str, datetime]:
    return {"entered": now, "clock": now}


def _phase(states: Mapping[str, VariantState], name: str) -> Phase:
    return states[name].phase if name in states else Phase.ABSENT


def _is_ready(states: Mapping[str, VariantState], name: str) -> bool:
    return _phase(states, name) is Phase.READY
