"""The steps behind the KFP faces: a whole study in one step, or its beginning, its workers and its end in one each."""

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.components.data_validate.contract import Contract
from headway.components.settings import Settings, load_settings
from headway.components.tune.objective import Job
from headway.components.tune.spec import TuningSpec


@dataclass(frozen=True, kw_only=True)
class Data:
    """The valid parts, as artifacts of a step."""

    train: Path
    validation: Path
    digest: str = ""
    """Content digest of both; empty takes the files' own."""

    @classmethod
    def of(cls, train: Any, validation: Any) -> "Data":
        """From two `dsl.Dataset` artifacts."""
        digests = [str(part.metadata.get("digest", "")) for part in (train, validation)]
        digest = "-".join(digests) if all(digests) else ""
        return cls(train=Path(train.path), validation=Path(validation.path), digest=digest)


def tune(
    name: str, contract: str, training: str, tuning: str, data: Data, settings: Settings | None = None
) -> "Any | None":
    """A whole study in this step: worker processes share its cores.

    Args:
        name: The model's name.
        contract: The data contract, as YAML text.
        training: The training section that the trials vary, as YAML text.
        tuning: The tuning section, as YAML text; empty to tune nothing.
        data: The valid parts.
        settings: The installation's by default.

    Returns:
        The outcome; None where there was nothing to tune.

    Raises:
        UsageError: A section is wrong.
        TrainingError: No trial finished.
    """
    if not tuning.strip():
        return None
    from headway.components.tune.display import Lines
    from headway.components.tune.search import search

    settings = settings or load_settings()
    job = _job(name, contract, training, tuning, data, settings)
    with Lines(job.metric) as lines:
        outcome = search(job, settings, on_progress=lines.update)
    outcome.require_best()
    return outcome


def start(
    name: str, contract: str, training: str, tuning: str, data: Data, settings: Settings | None = None
) -> tuple[Job, list[str]]:
    """Begin a study that several steps work on, or go on with an earlier one.

    Returns:
        The job, and the workers' names.

    Raises:
        UsageError: A section is wrong, or the steps have no database in common.
        PlatformError: MLflow or the database cannot be reached.
    """
    from headway.components.tune.search import RUN_ATTRIBUTE, study_folder
    from headway.components.tune.storage import shared_address
    from headway.components.tune.study import StudySession, make_study
    from headway.components.tune.tracking import study_run

    settings = settings or load_settings()
    job = _job(name, contract, training, tuning, data, settings, alone=True)
    job = job.model_copy(update={"storage": shared_address(settings, study_folder(job, settings))})
    make_study(job, settings)
    session = StudySession(job, settings, "start")
    previous = str(session.study.user_attrs.get(RUN_ATTRIBUTE, ""))
    with study_run(job, settings, previous=previous, ends=False) as record:
        session.study.set_user_attr(RUN_ATTRIBUTE, record.run.run_id)
    session.release(session.is_dead, "its worker is gone")
    spec = job.spec
    deadline = time.time() + spec.minutes * 60 if spec.minutes else None
    return (
        job.model_copy(update={"deadline": deadline, "run_id": record.run.run_id}),
        [f"worker-{number + 1}" for number in range(spec.workers)],
    )


def run_worker(job_file: Path, name: str, data: Data, settings: Settings | None = None) -> int:
    """Work on a study until its budget is used up; the number of trials that this worker ran."""
    from headway.components.tune.outcome import row_of
    from headway.components.tune.study import StudySession
    from headway.components.tune.tracking import study_run
    from headway.components.tune.worker import work

    settings = settings or load_settings()
    job = Job.load(job_file).model_copy(update={"train": str(data.train), "validation": str(data.validation)})
    with study_run(job, settings, previous=job.run_id, ends=False) as record:

        def log(session: StudySession, number: int) -> None:
            row = row_of(session.trials()[number], session)
            record.log_trial(row)
            _say(
                f"trial {number}: {row.state} {row.value if row.value is not None else row.error.partition(chr(10))[0]}"
            )

        return work(job, name, settings, log)


def finish(job_file: Path, folder: Path, settings: Settings | None = None) -> Any:
    """The end of a study that several steps worked on: its outcome and report, in MLflow too.

    Raises:
        TrainingError: No trial finished.
    """
    from headway.components.tune.outcome import read_outcome
    from headway.components.tune.search import write_results
    from headway.components.tune.study import StudySession
    from headway.components.tune.tracking import study_run

    settings = settings or load_settings()
    job = Job.load(job_file)
    session = StudySession(job, settings, "finish")
    session.release(session.is_dead, "its worker is gone")
    folder.mkdir(parents=True, exist_ok=True)
    with study_run(job, settings, previous=job.run_id) as record:
        began = [trial.datetime_start.timestamp() for trial in session.trials() if trial.datetime_start]
        seconds = time.time() - min(began, default=time.time())
        done = sum(trial.state.is_finished() for trial in session.trials())
        outcome = read_outcome(
            session,
            ended="trials" if done >= job.spec.trials else "time",
            seconds=seconds,
            folder=folder,
            run_link=record.run.link,
        )
        record.log_outcome(outcome, write_results(outcome))
    outcome.require_best()
    return outcome


def show(outcome: Any, *, metrics: Any, best: Any, summary: Any, report: Any) -> None:
    """Fill the artifacts of the run page.

    Args:
        outcome: What the study found; None where nothing was tuned.
        metrics: A `dsl.Metrics`.
        best: A `dsl.Artifact` for the outcome as JSON.
        summary: A `dsl.Markdown`.
        report: A `dsl.HTML`.
    """
    from headway.components import run_page

    if outcome is None:
        text = "Nothing to tune: model.yaml has no `tuning` section."
        run_page.write_text(best, "{}\n")
        run_page.write_text(summary, f"{text}\n")
        run_page.write_text(report, f"<!doctype html><p>{text}</p>\n")
        return
    from headway.components.tune import report as pages

    row = outcome.require_best()
    shown = {f"best_{outcome.job.metric}": row.value, "trials": len(outcome.rows)}
    shown |= {state.replace(" ", "_"): count for state, count in outcome.counts.items()}
    if outcome.baseline is not None:
        shown |= {f"baseline_{outcome.job.metric}": outcome.baseline.value}
    run_page.log_metrics(metrics, shown)
    run_page.write_text(best, json.dumps(outcome.to_dict(), indent=2, default=str) + "\n")
    best.metadata.update({"study": outcome.job.study, "trial": row.number})
    run_page.write_text(summary, pages.summary(outcome))
    run_page.write_text(report, pages.render(outcome))


def _job(
    name: str, contract: str, training: str, tuning: str, data: Data, settings: Settings, *, alone: bool = False
) -> Job:
    from headway.components.tune.search import plan

    spec = TuningSpec.parse(tuning, where="tuning")
    job = plan(
        name,
        Contract.parse(contract, where="contract"),
        training,
        spec,
        train=data.train,
        validation=data.validation,
        data_digest=data.digest,
        threads=settings.threads,
    )
    if alone and "KUBERNETES_SERVICE_HOST" in os.environ:
        # Each worker has a pod of its own, and all of its cores.
        return job.model_copy(update={"threads": settings.threads})
    return job


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
