"""What a study has found so far: the trials as plain rows, the best of them, and the training section it stands for."""

import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState

from headway.components.errors import TrainingError
from headway.components.evaluate.metrics import metric
from headway.components.tune.objective import Job, load_objective
from headway.components.tune.sampler import NO_TRIAL, SURPLUS, counted
from headway.components.tune.space import Values
from headway.components.tune.study import ATTEMPT, BASELINE, ERROR, SAME_AS, SECONDS, STOPPED, WORKER, StudySession

State = Literal["finished", "pruned", "out of time", "failed", "running", "waiting"]
Ended = Literal["trials", "time", "cancelled", "failures", "running"]


@dataclass(frozen=True)
class Row:
    """One trial."""

    number: int
    """Its number in the study, from 0."""
    state: State
    value: float | None
    """The metric; of a pruned trial the last one it reported, None where it reports a loss."""
    values: Values
    """The varied keys and their values."""
    seconds: float | None
    """Wall time; None while it runs."""
    error: str = ""
    """Why it failed."""
    reports: dict[int, float] = field(default_factory=dict)
    """The metric, or the loss that the objective names, at each step that it reported."""
    attempt: int = 1
    """2 when a worker died with these values before."""
    baseline: bool = False
    """Whether it is the training section as it stood."""
    same_as: int | None = None
    """The earlier trial with the same values, whose result was taken."""
    worker: str = ""
    began: float | None = None
    """Seconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a study has found."""

    job: Job
    rows: list[Row]
    """The trials that count, by number."""
    abandoned: int
    """Attempts that ended with their worker and were made again."""
    importances: dict[str, float]
    """Share of the metric's variance that each parameter explains, largest first; empty where it cannot be told."""
    ended: Ended
    seconds: float
    """Wall time of this run of the study."""
    folder: Path
    """Where report, training section and logs lie."""
    run_link: str = ""

    @property
    def best(self) -> Row | None:
        """The best trial that was not stopped early."""
        return best_of(self.rows, self.job.metric)

    @property
    def baseline(self) -> Row | None:
        """The trial of the training section as it stood; None where it lies outside the space or did not finish."""
        return next((row for row in self.rows if row.baseline and row.state == "finished"), None)

    @property
    def counts(self) -> dict[str, int]:
        """Trials by state."""
        return dict(Counter(row.state for row in self.rows))

    def require_best(self) -> Row:
        """The best trial.

        Raises:
            TrainingError: No trial finished; carries the first error.
        """
        best = self.best
        if best is not None:
            return best
        failed = [row for row in self.rows if row.error]
        told = ", ".join(f"{count} {state}" for state, count in self.counts.items()) or "none began"
        first = f"; trial {failed[0].number}: {failed[0].error.splitlines()[0]}" if failed else ""
        raise TrainingError(
            f"No trial of the study {self.job.study} finished ({told}){first}",
            expected="at least one trial that ends with a value",
            fix="correct the space or the data" if failed else "raise `minutes`, or let a trial do less",
        )

    @property
    def training(self) -> str:
        """The training section with the best values, as YAML text, ready for the train step."""
        kind = load_objective(self.job.spec.objective)
        section = kind.section.parse(self.job.training, where="training")
        base = section.model_dump(mode="json", exclude_defaults=True)
        best = kind.compose(base, self.require_best().values)
        return kind.section.parse(best, where="best trial").dump()

    @property
    def headline(self) -> str:
        """The result in one sentence."""
        best = self.best
        if best is None:
            return f"No trial of {len(self.rows)} finished."
        gain = ""
        if self.baseline is not None and self.baseline.value is not None and best.value is not None:
            gain = f"; the section as it stood has {self.baseline.value:.6g}"
        return f"{self.job.metric} {best.value:.6g} in trial {best.number} of {len(self.rows)}{gain}"

    def to_dict(self) -> dict[str, Any]:
        """The outcome as plain data, for `--json`."""
        best = self.best
        return {
            "study": self.job.study,
            "metric": self.job.metric,
            "best": vars(best) if best else None,
            "baseline": self.baseline.value if self.baseline else None,
            "training": self.training if best else "",
            "trials": len(self.rows),
            "counts": self.counts,
            "abandoned": self.abandoned,
            "importances": self.importances,
            "ended": self.ended,
            "seconds": round(self.seconds, 2),
            "folder": str(self.folder),
            "report": str(self.folder / "report.html"),
        }


def best_of(rows: list[Row], name: str) -> Row | None:
    """The best finished trial by a metric; of equal ones the first."""
    good = metric(name).goodness
    return max((row for row in rows if row.state == "finished"), key=lambda row: good(row.value or 0.0), default=None)


def read_outcome(session: StudySession, *, ended: Ended, seconds: float, folder: Path, run_link: str = "") -> Outcome:
    """What a study holds now."""
    attempts = session.trials()
    rows = [row_of(trial, session) for trial in counted(attempts)]
    again = [trial for trial in attempts if trial.user_attrs.get(NO_TRIAL, SURPLUS) != SURPLUS]
    return Outcome(
        job=session.job,
        rows=rows,
        abandoned=len(again),
        importances=_importances(session),
        ended=ended,
        seconds=seconds,
        folder=folder,
        run_link=run_link,
    )


def row_of(trial: FrozenTrial, session: StudySession) -> Row:
    """One trial as a row."""
    reports = {step: session.sign * value for step, value in sorted(trial.intermediate_values.items())}
    last = None if session.reported else next(reversed(reports.values()), None)
    value = trial.value if trial.state is TrialState.COMPLETE else last
    known = trial.params or trial.system_attrs.get("fixed_params", {})
    return Row(
        number=trial.number,
        state=_state(trial),
        value=value,
        values=session.space.keyed(known),
        seconds=trial.user_attrs.get(SECONDS),
        error=str(trial.user_attrs.get(ERROR, "")),
        reports=reports,
        attempt=int(trial.user_attrs.get(ATTEMPT, 1)),
        baseline=bool(trial.user_attrs.get(BASELINE, False)),
        same_as=trial.user_attrs.get(SAME_AS),
        worker=str(trial.user_attrs.get(WORKER, "")).rpartition("-")[0],
        began=trial.datetime_start.timestamp() if trial.datetime_start else None,
    )


def _state(trial: FrozenTrial) -> State:
    if trial.state is TrialState.PRUNED:
        return "out of time" if STOPPED in trial.user_attrs else "pruned"
    states: dict[TrialState, State] = {
        TrialState.COMPLETE: "finished",
        TrialState.FAIL: "failed",
        TrialState.RUNNING: "running",
        TrialState.WAITING: "waiting",
    }
    return states[trial.state]


def _importances(session: StudySession) -> dict[str, float]:
    """Watanabe et al., 2023, "PED-ANOVA": also of conditional parameters."""
    import optuna

    values = {trial.value for trial in session.trials() if trial.state is TrialState.COMPLETE}
    if len(values) < 3:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parameters that few trials have
            found = optuna.importance.get_param_importances(session.study)
    except (ValueError, RuntimeError, ZeroDivisionError):  # too few or too equal trials to tell anything
        return {}
    return {name: float(share) for name, share in found.items()}
