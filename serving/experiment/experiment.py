"""Experiments that last: which variant a user sees, and what came of it, the same after a restart and in every process.

experiments = Experiments()
experiment = experiments.create(
    actor="ann", auto_start=True, name="checkout", variants=["model_v1", "model_v2"], metrics=[{"name": "purchase"}]
)
experiment.variant("user123")                  # always the same, and the exposure is on record
experiment.record_conversion("user123")
print(experiment.results().headline)
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from headway.components.errors import ExperimentError
from headway.components.settings import Settings, load_settings
from headway.serving.experiment.assignment import pick
from headway.serving.experiment.experiment_store import ExperimentStore
from headway.serving.experiment.outcome import LABEL, MAX_TEXT, Outcome, Recorded, Value
from headway.serving.experiment.outcome_store import Outcomes
from headway.serving.experiment.spec import ExperimentMetric, ExperimentSpec, Move, Standing, State, unknown

if TYPE_CHECKING:
    from headway.serving.experiment.analysis import Results

FRESH_SECONDS = 1.0
"""How long a process may go on by an experiment's state before it looks again."""
_REMEMBERED = 100_000
"""Users whose exposure a process remembers to have recorded."""
_RECORDERS = {"conversion": "record_conversion", "numeric": "record_metric"}


class Experiments:
    """The experiments of an installation.

    Args:
        settings: Names the database; the settings in force by default.
        now: The clock.

    Raises:
        PlatformError: The database cannot be reached.
    """

    def __init__(
        self, settings: Settings | None = None, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.settings = settings or load_settings()
        self.store = ExperimentStore(self.settings)
        self.outcomes = Outcomes(self.settings)
        self.now = now

    def create(
        self, spec: ExperimentSpec | None = None, *, actor: str, auto_start: bool = False, **fields: Any
    ) -> "Experiment":
        """Make an experiment.

        Args:
            spec: What it is.
            actor: Who makes it.
            auto_start: Whether it starts at once.
            **fields: In the place of `spec`: its fields, such as `name`, `variants` and `metrics`.

        Raises:
            ConfigError: It makes no sense; says what is wrong.
            ExperimentError: There is one of this name.
        """
        standing = self.store.add(spec or ExperimentSpec.parse(fields), actor=actor, now=self.now())
        experiment = Experiment(self, standing.spec)
        if auto_start:
            experiment.start(actor=actor)
        return experiment

    def get(self, name: str) -> "Experiment":
        """One experiment.

        Raises:
            UnknownNameError: There is none of this name.
        """
        return Experiment(self, self.store.get(name).spec)

    def all(self) -> list[Standing]:
        """All experiments and where they stand, the oldest first."""
        return self.store.all()


class Experiment:
    """One experiment: get it from `Experiments`. Safe to use from several threads and processes.

    Args:
        experiments: All of them.
        spec: This one.
    """

    def __init__(self, experiments: Experiments, spec: ExperimentSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self._all = experiments
        self._weights = spec.weights
        self._salt = spec.salt or spec.name
        self._exposed: set[str] = set()
        self._known: Standing | None = None
        self._looked = 0.0
        self._lock = threading.Lock()

    def standing(self) -> Standing:
        """Where it stands now."""
        self._known, self._looked = self._all.store.get(self.name), time.monotonic()
        return self._known

    @property
    def state(self) -> State:
        """Its state now."""
        return self.standing().state

    def start(self, *, actor: str, reason: str = "") -> Standing:
        """Begin to assign users."""
        return self._move("start", actor, reason)

    def pause(self, *, actor: str, reason: str = "") -> Standing:
        """Show everybody the control for now; outcomes are still recorded."""
        return self._move("pause", actor, reason)

    def resume(self, *, actor: str, reason: str = "") -> Standing:
        """Go on after a pause: each user sees what they saw before."""
        return self._move("resume", actor, reason)

    def stop(self, *, actor: str, reason: str = "") -> Standing:
        """Break it off: everybody sees the control, and no outcome counts from now on."""
        return self._move("stop", actor, reason)

    def complete(self, *, actor: str, reason: str = "") -> Standing:
        """End it in the ordinary way: everybody sees the control, and late outcomes count for `grace_hours`."""
        return self._move("complete", actor, reason)

    def variant(self, user: str) -> str:
        """The variant that a user sees.

        While it runs, the user's bucket decides, always the same way, and the first time is recorded as the user's
        exposure before this returns. In every other state everybody sees the control. Another process's pause is
        noticed within a second.

        Args:
            user: The user's id, not empty.

        Raises:
            ExperimentError: The user has no id.
        """
        return self.assign([user])[user]

    def assign(self, users: Sequence[str]) -> dict[str, str]:
        """The variants that users see, by user; see `variant`. Many at once cost little more than one."""
        for user in users:
            if not 0 < len(user) <= MAX_TEXT or "\0" in user:
                expected = f"an id of 1 to {MAX_TEXT} characters that stays the same"
                raise ExperimentError(f"User {user!r:.80} cannot be assigned", expected=expected)
        if self._recent().state is not State.RUNNING:
            return dict.fromkeys(users, self.spec.control)
        overrides = self.spec.overrides
        seen = {user: overrides.get(user) or pick(self._salt, self._weights, user) for user in users}
        if not self.spec.endpoint:
            self._expose({user: variant for user, variant in seen.items() if user not in overrides})
        return seen

    def record_conversion(
        self,
        user: str,
        metric: str | None = None,
        *,
        variant: str | None = None,
        event: str = "",
        time: datetime | None = None,
    ) -> Recorded:
        """Record that a user did what the experiment is about; once or often is the same.

        Args:
            user: The user.
            metric: Which of the conversions; may be left out where there is one.
            variant: The variant that the caller believes the user saw; refused when they did not.
            event: The event's id.
            time: When it happened, now by default.

        Raises:
            ExperimentError: There is no such metric or variant, or the experiment takes no outcomes now.
        """
        found = self._metric(metric, "conversion")
        return self._record(user, found, True, variant=variant, event=event, time=time)

    def record_metric(
        self,
        user: str,
        value: float,
        metric: str | None = None,
        *,
        variant: str | None = None,
        event: str = "",
        time: datetime | None = None,
    ) -> Recorded:
        """Record a number of a user.

        Args:
            user: The user.
            value: The number.
            metric: Which of the numbers; may be left out where there is one.
            variant: The variant that the caller believes the user saw; refused when they did not.
            event: The event's id, where a user can have several: they add up, each one once.
            time: When it happened, now by default.

        Raises:
            ExperimentError: There is no such metric or variant, the value is no finite number, or the experiment takes
                no outcomes now.
        """
        found = self._metric(metric, "numeric")
        return self._record(user, found, value, variant=variant, event=event, time=time)

    def record_covariate(self, users: Mapping[str, float], *, time: datetime | None = None) -> Recorded:
        """Record what is known of users from before the experiment, at any time before it closes.

        Args:
            users: The covariate by user. What the variant may have changed is no covariate.
            time: When it was measured.

        Raises:
            ExperimentError: The experiment has no covariate, or a value is no finite number.
        """
        if self.spec.covariate is None:
            raise ExperimentError(f"Experiment {self.name!r} has no covariate", fix="name one when you create it")
        name = self.spec.covariate
        rows = (Outcome(metric=name, value=value, user=user, time=time) for user, value in users.items())
        return self._all.outcomes.record_many(self.spec.scope, rows, now=self._all.now())

    def record_many(self, outcomes: Iterable[Outcome]) -> Recorded:
        """Record many outcomes of users: those of a file, or of a day.

        Args:
            outcomes: Outcomes of the experiment's metrics; those of an endpoint's experiment may name predictions.

        Raises:
            ExperimentError: One of them is none of this experiment, or it takes no outcomes now. What came before that
                one may be stored; recording all again is safe.
        """
        now = self._all.now()
        self._refuse_closed(self.standing(), now)
        return self._all.outcomes.record_many(self.spec.scope, map(self._checked, outcomes), now=now)

    def results(self, *, over_time: bool = False) -> "Results":
        """What is known by now; look as often as you like.

        Args:
            over_time: Whether to add how it came about, for the report.
        """
        from headway.serving.experiment.analysis import analyse

        return analyse(self._all, self.standing(), over_time=over_time)

    def _move(self, move: Move, actor: str, reason: str) -> Standing:
        self._known = self._all.store.move(self.name, move, actor=actor, now=self._all.now(), reason=reason)
        self._looked = time.monotonic()
        return self._known

    def _recent(self) -> Standing:
        known = self._known
        if known is None or time.monotonic() - self._looked > FRESH_SECONDS:
            return self.standing()
        return known

    def _expose(self, seen: Mapping[str, str]) -> None:
        new = {user: variant for user, variant in seen.items() if user not in self._exposed}
        if not new:
            return
        self._all.store.expose(self.name, new, self._all.now())
        with self._lock:
            if len(self._exposed) > _REMEMBERED:
                self._exposed.clear()
            self._exposed.update(new)

    def _metric(self, name: str | None, kind: str) -> ExperimentMetric:
        if name is not None:
            found = self.spec.metric(name)
        else:
            fitting = [metric for metric in self.spec.metrics if metric.kind == kind]
            if len(fitting) != 1:
                raise ExperimentError(
                    f"Experiment {self.name!r} has {len(fitting)} {kind} metrics", expected="the name of one"
                )
            found = fitting[0]
        if found.kind != kind or found.of_labels:
            other = "labels of predictions" if found.of_labels else _RECORDERS[found.kind]
            raise ExperimentError(f"{found.name!r} is a {found.kind} metric", expected=other)
        return found

    def _checked(self, outcome: Outcome) -> Outcome:
        if outcome.metric == self.spec.covariate:
            return outcome
        if outcome.metric == LABEL and any(metric.of_labels for metric in self.spec.metrics):
            return outcome
        if self.spec.metric(outcome.metric).of_labels:
            raise ExperimentError(f"{outcome.metric!r} follows from labels", fix=f"record the truth as {LABEL!r}")
        if outcome.prediction and not self.spec.endpoint:
            raise ExperimentError(f"Outcome of prediction {outcome.prediction!r:.80}", expected="outcomes of users")
        return outcome

    def _record(
        self,
        user: str,
        metric: ExperimentMetric,
        value: Value,
        *,
        variant: str | None,
        event: str,
        time: datetime | None,
    ) -> Recorded:
        now = self._all.now()
        self._refuse_closed(self.standing(), now)
        if variant is not None:
            self._refuse_other(user, variant)
        outcome = Outcome(metric=metric.name, value=value, user=user, event=event, time=time or now)
        return self._all.outcomes.record(self.spec.scope, outcome, now=now)

    def _refuse_closed(self, standing: Standing, now: datetime) -> None:
        if standing.state is State.DRAFT:
            raise ExperimentError(f"Experiment {self.name!r} is a draft: nobody has seen a variant", fix="start it")
        if standing.closes is not None and now > standing.closes:
            raise ExperimentError(
                f"Experiment {self.name!r} was {standing.state} at {standing.ended:%Y-%m-%d %H:%M} UTC "
                f"and has taken no outcomes since {standing.closes:%Y-%m-%d %H:%M} UTC"
            )

    def _refuse_other(self, user: str, variant: str) -> None:
        if variant not in self.spec.variants:
            raise unknown(self.name, "variant", variant, list(self.spec.variants))
        own = self.spec.overrides.get(user) or pick(self._salt, self._weights, user)
        if variant != own and not self.spec.endpoint:
            raise ExperimentError(
                f"User {user!r} is assigned to {own!r}, not to {variant!r}",
                fix="leave `variant` out: the user's exposure says which one it was",
            )
