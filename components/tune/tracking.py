"""A study in MLflow: one run for the study, one below it for each trial.

Whether MLflow answers is known before the first trial, as in the train step. Where it goes away during a search, the
trials wait and are written at the end: hours of fits are worth more than their record, and the study has them anyway.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from headway.components.errors import PlatformError
from headway.components.settings import Settings
from headway.components.train.tracking import RUN_ID_ENV, Run, tracked_run
from headway.components.tune.objective import Job, load_objective
from headway.components.tune.outcome import Outcome, Row

TRIAL_TAG = "headway.trial"
_PARENT_TAG = "mlflow.parentRunId"
_STATUS = {"finished": "FINISHED", "pruned": "FINISHED", "out of time": "KILLED", "failed": "FAILED"}
REPORT_FILE = "tuning.html"


class StudyRun:
    """The MLflow run of a study.

    Args:
        run: The run.
        job: The study's job.
    """

    def __init__(self, run: Run, job: Job) -> None:
        self.run = run
        self._job = job
        self._late: list[Row] = []
        self._written = self._trials_in_mlflow()

    def log_trial(self, row: Row) -> None:
        """Write a trial that ended as a run below the study's; one that is there already is left alone."""
        if row.number in self._written or row.state not in _STATUS:
            return
        try:
            self._write(row)
        except PlatformError as error:
            logging.getLogger(__name__).warning("trial %d will be logged later: %s", row.number, error.problem)
            self._late.append(row)

    def log_outcome(self, outcome: Outcome, html: str) -> None:
        """Write what is missing, then the best trial and the report.

        Raises:
            PlatformError: MLflow does not take them; the study itself is whole.
        """
        late, self._late = self._late, []
        for row in [*late, *outcome.rows]:
            if row.number not in self._written and row.state in _STATUS:
                self._write(row)
        best = outcome.best
        metrics = {f"trials_{state.replace(' ', '_')}": float(count) for state, count in outcome.counts.items()}
        if best is not None and best.value is not None:
            metrics[f"best_{self._job.metric}"] = best.value
            self.run.log(tags={f"headway.best.{key}": value for key, value in best.values.items()})
        self.run.log(metrics=metrics, tags={"headway.ended": outcome.ended})
        with _explained(self.run):
            self.run.client.log_text(self.run.run_id, html, REPORT_FILE)
            if best is not None:
                self.run.client.log_text(self.run.run_id, outcome.training, "training.yaml")

    def _write(self, row: Row) -> None:
        from mlflow.entities import Metric

        began = int((row.began or 0) * 1000)
        ended = began + int((row.seconds or 0) * 1000)
        with _explained(self.run):
            child = self.run.client.create_run(
                self.run.experiment_id,
                start_time=began,
                run_name=f"trial {row.number}",
                tags={_PARENT_TAG: self.run.run_id, TRIAL_TAG: str(row.number)},
            )
        inner = Run(
            client=self.run.client,
            run_id=child.info.run_id,
            experiment_id=self.run.experiment_id,
            uri=self.run.uri,
        )
        inner.log(
            params=row.values,
            tags={"headway.step": "tune", "headway.state": row.state, "headway.error": row.error},
        )
        reported = load_objective(self._job.spec.objective).reported or self._job.metric
        points = [Metric(reported, value, ended, step) for step, value in row.reports.items()]
        if row.state == "finished" and row.value is not None:
            points.append(Metric(self._job.metric, row.value, ended, max(row.reports, default=0) + 1))
        with _explained(self.run):
            if points:
                self.run.client.log_batch(inner.run_id, metrics=points)
            self.run.client.set_terminated(inner.run_id, _STATUS[row.state], end_time=ended)
        self._written.add(row.number)

    def _trials_in_mlflow(self) -> set[int]:
        with _explained(self.run):
            found = self.run.client.search_runs(
                [self.run.experiment_id], f"tags.`{_PARENT_TAG}` = '{self.run.run_id}'", max_results=50_000
            )
        return {int(each.data.tags[TRIAL_TAG]) for each in found if TRIAL_TAG in each.data.tags}


@contextlib.contextmanager
def study_run(job: Job, settings: Settings, *, previous: str = "", ends: bool = True) -> Iterator[StudyRun]:
    """The MLflow run of a study, in the experiment named after the model.

    Args:
        job: The study's job.
        settings: Where MLflow is.
        previous: The run of the same study's earlier search, which goes on.
        ends: Whether the run ends with the block; else it stays open for other processes.

    Raises:
        PlatformError: MLflow cannot be reached.
    """
    outer = os.environ.get(RUN_ID_ENV, "")
    with contextlib.ExitStack() as stack:
        run = _reopened(job, settings, previous, stack) if previous and not outer else None
        if run is None:
            run = stack.enter_context(tracked_run(job.model, settings))
            run.log(params=_parameters(job), tags={"headway.model": job.model, "headway.step": "tune"})
        try:
            yield StudyRun(run, job)
        except BaseException as error:
            if run.run_id == previous:
                _mark(run, "FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        if run.run_id == previous and ends:
            _mark(run, "FINISHED")
    if not ends and not outer:
        _mark(run, "RUNNING")


def _reopened(job: Job, settings: Settings, previous: str, stack: contextlib.ExitStack) -> Run | None:
    """The earlier run, or None where somebody deleted it."""
    os.environ[RUN_ID_ENV] = previous
    try:
        run = stack.enter_context(tracked_run(job.model, settings))
        with _explained(run):
            alive = run.client.get_run(previous).info.lifecycle_stage == "active"
    except PlatformError as error:
        if "not found" not in error.problem:
            raise
        return None
    finally:
        del os.environ[RUN_ID_ENV]
    if alive:
        _mark(run, "RUNNING")
    return run if alive else None


def _mark(run: Run, status: str) -> None:
    with _explained(run):
        if status == "RUNNING":
            run.client.update_run(run.run_id, status=status)
        else:
            run.client.set_terminated(run.run_id, status)


def _parameters(job: Job) -> dict[str, Any]:
    spec = job.spec
    own = {"study": job.study, "metric": job.metric, "evaluation": spec.evaluation, "sampler": spec.sampler}
    return own | {"pruner": spec.pruner, "trials": spec.trials, "seed": spec.seed, "space": job.tuning}


@contextlib.contextmanager
def _explained(run: Run) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise PlatformError(
            f"MLflow at {run.uri}: {str(error).strip().splitlines()[0]}",
            expected="a tracking server or database that answers",
        ) from error
