"""A whole study on one machine: worker processes, their replacement when they die, the record, the report.

    <home>/tuning/<study>/   journal.log   the study itself: what was tried, and what came of it
                             job.json      what the workers read
                             worker-N.log  what they print
                             report.html   training.yaml

The study's name holds a digest of all that a trial depends on. Run again, the same study goes on: after a kill where it
stopped, and with more `trials` where it was done.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from headway.components import errors
from headway.components.bundle import sha256_file
from headway.components.data_validate.contract import Contract
from headway.components.errors import HeadwayError, SourceError, TrainingError
from headway.components.settings import Settings, load_settings
from headway.components.train.fit import available_threads
from headway.components.tune.objective import Job, load_objective
from headway.components.tune.outcome import Ended, Outcome, Row, best_of, read_outcome, row_of
from headway.components.tune.sampler import counted
from headway.components.tune.spec import TuningSpec
from headway.components.tune.storage import JOURNAL, only_one
from headway.components.tune.study import WORKER, StudySession, hopeless, make_study
from headway.components.tune.tracking import StudyRun, study_run
from headway.components.tune.worker import error_file, work

JOB_FILE, REPORT_FILE, TRAINING_FILE = "job.json", "report.html", "training.yaml"
RUN_ATTRIBUTE = "headway:run"
POLL_SECONDS = 0.2
GRACE_SECONDS = 10.0
"""How long after the time budget a trial may go on until its next report."""
IDLE_DEATHS = 3
"""Workers that die without a trial to blame before the search gives up; those that die of one are always replaced."""


@dataclass(frozen=True)
class Progress:
    """How far a search has come."""

    done: int
    total: int
    running: int
    best: Row | None
    last: Row | None
    """The trial that has just ended; None between the ends of two."""
    left: float | None
    """Seconds that the rest will take, as long as trials take what they took so far."""


OnProgress = Callable[[Progress], None]


def plan(
    model: str,
    contract: Contract,
    training: str,
    spec: TuningSpec,
    *,
    train: Path,
    validation: Path | None = None,
    data_digest: str = "",
    threads: int = 0,
) -> Job:
    """The job of a study: checks the space, looks at the target, and names the study.

    Args:
        model: The model's name.
        contract: The data contract.
        training: The training section that the trials vary, as YAML text.
        spec: The tuning section.
        train: The valid training part, a Parquet file.
        validation: The valid validation part; needed for `evaluation: validation`.
        data_digest: Content digest of the data; empty takes the files' SHA-256.
        threads: Threads that a step may use; 0 means all cores of this process. The workers share them.

    Returns:
        The job, without storage.

    Raises:
        UsageError: The space, the metric or the training section is wrong.
        SourceError: A file cannot be read.
    """
    kind = load_objective(spec.objective)
    section = kind.section.parse(training, where="training")
    parts = [train, *([validation] if validation and spec.evaluation == "validation" else [])]
    for path in parts:
        if not path.is_file():
            raise SourceError(f"{path}: no such file", expected="a valid part as Parquet")
    task = kind.task_of(train, contract, section)
    kind.check(spec.search_space, section, task)
    measured = spec.metric_for(task).name
    digest = data_digest or "-".join(sha256_file(path) for path in parts)
    # What may change while the same study goes on: how much, how long, by how many.
    same = spec.model_dump(mode="json", exclude={"trials", "minutes", "workers"})
    identity = json.dumps([same, section.dump(), contract.digest(), digest, measured], sort_keys=True, default=str)
    return Job(
        study=f"{model}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}",
        storage="",
        model=model,
        contract=contract.dump(),
        training=section.dump(),
        tuning=spec.dump(),
        task=task,
        metric=measured,
        train=str(train.resolve()),
        validation=str(validation.resolve()) if validation else "",
        threads=max(1, (threads or available_threads()) // spec.workers),
    )


def search(
    job: Job,
    settings: Settings | None = None,
    *,
    fresh: bool = False,
    in_process: bool = False,
    on_progress: OnProgress | None = None,
) -> Outcome:
    """Run a study on this machine until its budget is used up.

    Args:
        job: What `plan` made.
        settings: Where home and MLflow are; the installation's by default.
        fresh: Forget what an earlier search of the same study found.
        in_process: Run the trials one after another in this process, for a debugger.
        on_progress: Called as trials end, and in between.

    Returns:
        What was found. Ctrl-C ends the search early and raises nothing: `outcome.ended` is `cancelled`.

    Raises:
        PlatformError: MLflow cannot be reached, or another process is at the same study.
        TrainingError: The workers cannot work.
    """
    settings = settings or load_settings()
    folder = study_folder(job, settings)
    with only_one(folder):
        if fresh:
            _forget(folder)
        job = job.model_copy(update={"storage": f"{JOURNAL}{folder / 'journal.log'}"})
        make_study(job, settings)
        found = StudySession(job, settings, "search")
        previous = str(found.study.user_attrs.get(RUN_ATTRIBUTE, ""))
        with study_run(job, settings, previous=previous) as record:
            found.study.set_user_attr(RUN_ATTRIBUTE, record.run.run_id)
            deadline = time.time() + job.spec.minutes * 60 if job.spec.minutes else None
            job = job.model_copy(update={"deadline": deadline, "run_id": record.run.run_id})
            (folder / JOB_FILE).write_text(job.model_dump_json(indent=2), encoding="utf-8")
            session = StudySession(job, settings, "search")
            session.release(lambda trial: True, "the search was ended")
            crew = _Search(session, settings, folder, record, on_progress or (lambda progress: None))
            ended, seconds = crew.run(in_process=in_process)
            outcome = read_outcome(session, ended=ended, seconds=seconds, folder=folder, run_link=record.run.link)
            html = write_results(outcome)
            record.log_outcome(outcome, html)
    return outcome


def study_folder(job: Job, settings: Settings) -> Path:
    """Where a study of this installation lies."""
    return settings.home.expanduser().resolve() / "tuning" / job.study


def write_results(outcome: Outcome) -> str:
    """Write report and best training section into the study's folder; the report's HTML."""
    from headway.components.tune.report import render

    html = render(outcome)
    (outcome.folder / REPORT_FILE).write_text(html, encoding="utf-8")
    if outcome.best is not None:
        (outcome.folder / TRAINING_FILE).write_text(outcome.training, encoding="utf-8")
    return html


def _forget(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != "lock":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@dataclass
class _Worker:
    name: str
    process: subprocess.Popen[bytes]
    log: Path


@dataclass
class _Search:
    """The parent of the workers."""

    session: StudySession
    settings: Settings
    folder: Path
    record: StudyRun
    on_progress: OnProgress
    crew: list[_Worker] = field(default_factory=list)
    started: int = 0
    idle_deaths: int = 0
    seen: set[int] = field(default_factory=set)
    """Trials that ended before, or whose end was told."""

    def run(self, *, in_process: bool) -> tuple[Ended, float]:
        """Work until the budget is used up or Ctrl-C; why it ended, and after how many seconds."""
        began = time.perf_counter()
        self.seen = {trial.number for trial in self.session.trials() if trial.state.is_finished()}
        ended: Ended | None = None
        try:
            if in_process:
                work(self.session.job, "search", self.settings, lambda session, number: self._tell())
            else:
                self._drive()
        except KeyboardInterrupt:
            ended = "cancelled"
        finally:
            self._stop()
        self._tell()
        return ended or self._why(), time.perf_counter() - began

    def _drive(self) -> None:
        spec = self.session.spec
        left = self._left()
        for _ in range(min(spec.workers, left) if left else 0):
            self._start()
        while self.crew:
            time.sleep(POLL_SECONDS)
            self._tell()
            self._bury()
            deadline = self.session.job.deadline
            if deadline is not None and time.time() > deadline + GRACE_SECONDS:
                return

    def _left(self) -> int:
        trials = counted(self.session.trials())
        waiting = sum(trial.state is TrialState.WAITING for trial in trials)
        return max(self.session.spec.trials - len(trials), 0) + waiting

    def _start(self) -> None:
        self.started += 1
        name = f"worker-{self.started}"
        error_file(self.folder / JOB_FILE, name).unlink(missing_ok=True)
        log = self.folder / f"{name}.log"
        threads = str(self.session.job.threads)
        environment = {
            "OMP_WAIT_POLICY": "PASSIVE",
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "HEADWAY_HOME": str(self.settings.home.expanduser().resolve()),
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "headway.components.tune.worker", str(self.folder / JOB_FILE), name],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,  # Ctrl-C is ours to hand on, not the terminal's
            )
        self.crew.append(_Worker(name, process, log))

    def _bury(self) -> None:
        """Take dead workers off the crew, give their trials to others, and start new ones in their place."""
        for worker in list(self.crew):
            code = worker.process.poll()
            if code is None:
                continue
            self._dismiss(worker)
            if code == 0:
                continue
            self._raise_its_error(worker)
            ended = (
                f"killed by signal {-code}{' (out of memory?)' if code == -9 else ''}" if code < 0 else f"code {code}"
            )
            blamed = self.session.release(_owned_by(worker.name), f"its worker was {ended}", blamed=True)
            self.idle_deaths += not blamed
            if self.idle_deaths >= IDLE_DEATHS:
                tail = worker.log.read_text(errors="replace").strip()[-2_000:]
                raise TrainingError(
                    f"{self.idle_deaths} workers died without a trial, the last one {ended}", expected=tail or None
                )
            if self._left() and not hopeless(counted(self.session.trials())):
                self._start()

    def _raise_its_error(self, worker: _Worker) -> None:
        """Raise what a worker said before it ended by itself: no other one would do better."""
        path = error_file(self.folder / JOB_FILE, worker.name)
        if not path.is_file():
            return
        told = json.loads(path.read_text(encoding="utf-8"))
        kind: Any = getattr(errors, told["type"], TrainingError)
        error = kind.__new__(kind)
        HeadwayError.__init__(error, told["problem"], expected=told["expected"], fix=told["fix"])
        raise error

    def _stop(self) -> None:
        """End all workers; what they were doing waits for the next search."""
        for worker in self.crew:
            worker.process.kill()
        for worker in list(self.crew):
            self._dismiss(worker)
        late = self.session.out_of_time()
        why = "the time was over" if late else "the search was ended"
        self.session.release(lambda trial: True, why)

    def _dismiss(self, worker: _Worker) -> None:
        worker.process.wait()
        if worker.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                worker.process.stdin.close()
        self.crew.remove(worker)

    def _tell(self) -> None:
        trials = counted(self.session.trials())
        rows = [row_of(trial, self.session) for trial in trials if trial.state.is_finished()]
        best = best_of(rows, self.session.job.metric)
        new = [row for row in rows if row.number not in self.seen]
        for row in new:
            self.seen.add(row.number)
            self.record.log_trial(row)
            self.on_progress(self._progress(trials, rows, best, row))
        if not new:
            self.on_progress(self._progress(trials, rows, best, None))

    def _progress(self, trials: list[FrozenTrial], rows: list[Row], best: Row | None, last: Row | None) -> Progress:
        spec = self.session.spec
        times = [row.seconds for row in rows if row.seconds is not None]
        left = (spec.trials - len(rows)) * sum(times) / len(times) / spec.workers if times else None
        deadline = self.session.job.deadline
        if left is not None and deadline is not None:
            left = max(min(left, deadline - time.time()), 0.0)
        running = sum(trial.state is TrialState.RUNNING for trial in trials)
        return Progress(len(rows), spec.trials, running, best, last, left)

    def _why(self) -> Ended:
        trials = counted(self.session.trials())
        if sum(trial.state.is_finished() for trial in trials) >= self.session.spec.trials:
            return "trials"
        return "failures" if hopeless(trials) else "time"


def _owned_by(name: str) -> Callable[[FrozenTrial], bool]:
    return lambda trial: str(trial.user_attrs.get(WORKER, "")).rpartition("-")[0] == name
