"""The driver: carries out what the engine decides, and survives being killed at any point of it.

One turn of a release is: take the lease; if actions are pending, carry the first one out and store that it is done;
otherwise look at the world, let the engine decide, and store the decision before anything is done about it. Whoever
comes after a kill finds either the pending action, which is carried out again with the same result, or the stored fact
that it is done.

`headway up` runs `python -m headway.serving.release`, which drives every active release; a notebook or a pipeline's
step may drive one itself. The lease sees to it that only one of them acts.
"""

import functools
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from headway.components.errors import (
    HeadwayError,
    MeasurementError,
    NotReadyError,
    PromotionConflictError,
    ReleaseConflictError,
    TrustError,
    UsageError,
)
from headway.components.settings import Settings, load_settings
from headway.serving.housekeeping import Housekeeping
from headway.serving.platform import Platform, Reading, open_platform
from headway.serving.release import engine
from headway.serving.release.checks import run_checks
from headway.serving.release.engine import Facts, Step
from headway.serving.release.state import (
    Action,
    Check,
    EnsureVariant,
    MoveChampion,
    MoveExperiment,
    Release,
    RemoveVariant,
    RunChecks,
    SetRoute,
    State,
)
from headway.serving.release.store import ReleaseStore
from headway.serving.release.verdict import Evidence, Sums, Verdict, judge

if TYPE_CHECKING:
    from headway.components.register.registry import Registry

LEASE_SECONDS = 60.0
"""A driver that did not come back for this long has lost its releases to the next one."""
POLL_SECONDS = 2.0
"""How often a release is looked at."""
_HOPELESS = (TrustError, UsageError, PromotionConflictError)
"""Errors that trying again does not mend."""

_log = logging.getLogger(__name__)


class Outcomes(Protocol):
    """Where a release's outcomes come from."""

    def sums(self, release: Release, since: datetime) -> dict[str, Sums]:
        """The decision metric's sums by variant."""

    def disagreement(self, release: Release, since: datetime) -> Sums | None:
        """How often the copies of a shadow release were answered differently."""

    def move(self, release: Release, action: MoveExperiment) -> None:
        """Start, pause, resume or end the experiment of an A/B release; again changes nothing."""


class RecordedOutcomes:
    """Outcomes of the installation's database and payload log.

    Args:
        settings: Where they are.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def sums(self, release: Release, since: datetime) -> dict[str, Sums]:
        """The decision metric's sums by variant."""
        from headway.serving.experiment.outcomes import decision_sums

        rule = release.spec.decision
        if rule is None:
            return {}
        names = [variant.name for variant in release.variants]
        return decision_sums(
            self._settings, release.endpoint, rule.metric, variants=names, since=since, assigned=release.spec.sticky
        )

    def disagreement(self, release: Release, since: datetime) -> Sums | None:
        """How often the copies of a shadow release were answered differently."""
        from headway.serving.experiment.outcomes import disagreement

        return disagreement(
            self._settings,
            release.endpoint,
            stable=release.stable.name,
            canary=release.newcomer.name,
            since=since,
            tolerance=release.spec.disagreement_tolerance,
        )

    def move(self, release: Release, action: MoveExperiment) -> None:
        """Start, pause, resume or end the experiment of an A/B release; again changes nothing."""
        from headway.serving.experiment.release_experiment import create_for_release, move_for_release
        from headway.serving.experiment.spec import ExperimentMetric
        from headway.serving.release.sprt import higher_is_better

        rule = release.spec.decision
        if action.move != "start" or rule is None:
            move_for_release(self._settings, release.id, action.move, actor=action.actor, reason=action.reason)
            return
        metric = ExperimentMetric(
            name=rule.metric,
            kind="numeric",
            higher_is_better=higher_is_better(rule),
            minimum_effect=rule.minimum_effect,
        )
        create_for_release(
            self._settings,
            release.id,
            endpoint=release.endpoint,
            variants=[variant.name for variant in release.variants],
            shares=release.stages[0].weights,
            salt=release.salt,
            metrics=[metric],
            actor=action.actor,
        )


class Driver:
    """Drives releases.

    Args:
        settings: The installation.
        platform: Where endpoints are served; the settings' by default.
        registry: Whose champion moves; the settings' by default.
        outcomes: Where outcomes come from; the installation's by default.
        now: The clock.
        sleep: Waits so many seconds.
        check: Tries a newcomer; a real one by default.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        platform: Platform | None = None,
        registry: "Registry | None" = None,
        outcomes: Outcomes | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
        check: Callable[[Platform, "Registry", Release], list[Check]] = run_checks,
    ) -> None:
        from headway.components.register.registry import Registry

        self.settings = settings or load_settings()
        self.platform = platform or open_platform(self.settings)
        self.registry = registry or Registry(self.settings)
        self.store = ReleaseStore(self.registry.ledger)
        self._outcomes = outcomes or RecordedOutcomes(self.settings)
        self._now = now
        self._sleep = sleep
        self._check = check
        self.owner = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"

    def run(
        self,
        release_id: str,
        *,
        until: Callable[[Release], bool] = lambda release: release.state.over,
        poll: float = POLL_SECONDS,
        on_change: Callable[[Release], None] = lambda release: None,
    ) -> Release:
        """Drive one release until it is over, or until a condition holds.

        Args:
            release_id: The release.
            until: The condition.
            poll: Seconds between two looks.
            on_change: Called after each turn.
        """
        release = self.store.get(release_id)
        try:
            while not until(release):
                release = self.turn(release_id)
                on_change(release)
                if not until(release) and (not release.pending or release.trouble):
                    self._sleep(poll)
        finally:
            self.store.drop_lease(release.endpoint, self.owner)
        return release

    def loop(self, *, poll: float = POLL_SECONDS, stop: Callable[[], bool] = lambda: False) -> None:
        """Drive all active releases and keep the payload log tidy, for as long as the process lives."""
        tidy = Housekeeping(self.settings, self._now)
        while not stop():
            tidy.run()
            for release in self.store.all_active():
                try:
                    self.turn(release.id)
                except HeadwayError as error:
                    # One release's trouble is no reason to leave the others alone; it is tried again.
                    _log.warning("release %s: %s", release.id, error)
            self._sleep(poll)

    def turn(self, release_id: str) -> Release:
        """One turn of a release, if no other driver has it.

        Returns:
            The release as it is stored after the turn.
        """
        release = self.store.get(release_id)
        now = self._now()
        if release.state.over or not self.store.take_lease(
            release.endpoint, self.owner, now=now, seconds=LEASE_SECONDS
        ):
            return release
        try:
            # Read again under the lease: a person may have said something in between.
            release = self.store.get(release_id)
            return self._act(release) if release.pending else self._look(release)
        except ReleaseConflictError:
            return self.store.get(release_id)

    def _act(self, release: Release) -> Release:
        """Carry out the first pending action, and store that it is done."""
        try:
            checks = self._carry_out(release, release.pending[0])
        except _HOPELESS as error:
            step = self._without(release, error)
        except NotReadyError as error:
            step = self._not_ready(release, error)
        except HeadwayError as error:
            step = Step(engine.stumbled(release, _line(error)), [])
        else:
            step = engine.done(release, self._now(), checks=checks)
        return self._save(step)

    def _carry_out(self, release: Release, action: Action) -> list[Check] | None:
        match action:
            case EnsureVariant():
                with self.registry.check(self.registry.version(release.model, action.variant.version)):
                    self.platform.ensure_variant(release.endpoint, action.variant)
            case RunChecks():
                return self._check(self.platform, self.registry, release)
            case SetRoute():
                self.platform.set_route(release.endpoint, action.route)
            case MoveChampion():
                self._move_champion(release, action)
            case RemoveVariant():
                self.platform.remove_variant(release.endpoint, action.variant)
            case MoveExperiment():
                self._outcomes.move(release, action)
        return None

    def _move_champion(self, release: Release, action: MoveChampion) -> None:
        actor = f"release {release.id}"
        if action.back:
            self.registry.rollback(
                release.model, to=action.version, expected=action.expected, actor=actor, reason=action.reason
            )
            return
        self.registry.promote(
            release.model, action.version, expected=action.expected, actor=actor, reason=action.reason
        )

    def _without(self, release: Release, error: HeadwayError) -> Step:
        """An action that can never be carried out: turn back, or, on the way back already, go on without it."""
        if release.ending is None:
            end = State.ROLLED_BACK if release.before else State.ABORTED
            return engine.give_up(release, _line(error), self._now(), to=end)
        if isinstance(release.pending[0], SetRoute):
            return Step(engine.stumbled(release, _line(error)), [])
        return engine.skipped(release, _line(error), self._now())

    def _not_ready(self, release: Release, error: HeadwayError) -> Step:
        waited = (self._now() - release.clock).total_seconds()
        if release.ending is None and waited > release.spec.ready_timeout_seconds:
            return engine.give_up(release, _line(error), self._now())
        return Step(engine.stumbled(release, _line(error)), [])

    def _look(self, release: Release) -> Release:
        """Find out what is known, and let the engine decide."""
        release, facts = self._facts(release)
        return self._save(engine.advance(release, facts, self._now(), functools.partial(_judge, release)))

    def _facts(self, release: Release) -> tuple[Release, Facts]:
        if release.state is State.PREPARING:
            states = {v.name: self.platform.variant_state(release.endpoint, v) for v in release.variants}
            return release, Facts(states=states)
        if not release.watched:
            return release, Facts()
        try:
            release = engine.count(release, self._readings(release))
            since = engine.outcomes_since(release)
            shadow = bool(release.current.mirror_weight)
            return release, Facts(
                users=self.platform.users(release.endpoint, release.entered),
                outcomes=self._outcomes.sums(release, since) if engine.decides(release) else {},
                disagreement=self._outcomes.disagreement(release, since) if shadow else None,
            )
        except MeasurementError as error:
            return release, Facts(unreadable=_line(error))

    def _readings(self, release: Release) -> dict[str, Reading]:
        cursors = {name: tally.cursor for name, tally in release.tallies.items()}
        return {
            variant.name: self.platform.read(release.endpoint, variant.name, cursors.get(variant.name, ""))
            for variant in release.variants
        }

    def _save(self, step: Step) -> Release:
        return self.store.save(step.release, step.events, now=self._now())


def _judge(release: Release, evidence: Evidence, decides: bool) -> Verdict:
    return judge(release.spec, release.current, evidence, stages=_judged_stages(release), final=decides)


def _judged_stages(release: Release) -> int:
    """Over how many looks-from-scratch the error budget is spread; the rollback window is judged once more."""
    return max(1, sum(stage.judged for stage in release.stages))


def _line(error: HeadwayError) -> str:
    """The error in one line."""
    return " ".join(str(error).split("\n"))


def drive(settings: Settings | None = None) -> None:
    """Drive every active release until the process is told to stop; what `python -m headway.serving.release` does."""
    import signal
    import threading

    stopping = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopping.set())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

    def sleep(seconds: float) -> None:
        stopping.wait(seconds)

    driver = Driver(settings, sleep=sleep)
    _log.info("driving releases as %s", driver.owner)
    driver.loop(stop=stopping.is_set)
