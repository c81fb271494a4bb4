"""A study as workers see it: take a trial, run it, hand on what a dead worker left.

Many processes share a study without a coordinator. A trial belongs to the worker whose name it carries; a worker is
alive while its process is (on the same machine) or while its heartbeat is fresh (on another). What a dead worker was
doing is tried once more with the same values, and fails for good when that kills a worker again.
"""

import contextlib
import math
import os
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from headway.components.errors import HeadwayError, UnknownNameError
from headway.components.evaluate.metrics import metric
from headway.components.settings import Settings
from headway.components.tune.objective import Job, Objective, load_objective
from headway.components.tune.sampler import NO_TRIAL, SURPLUS, SeededSampler, counted, make_pruner, place, twin_of
from headway.components.tune.space import Values
from headway.components.tune.storage import open_storage

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 90.0
"""A worker on another machine that has been silent for so long is dead."""
ATTEMPTS = 2
"""How often the same values are tried when their worker dies."""
GIVE_UP_AFTER = 10
"""Failed trials, none of another kind among them, after which the study ends: the mistake is not in the values."""

WORKER, ERROR, SECONDS, ATTEMPT, STOPPED, SAME_AS = (
    "headway:worker",
    "headway:error",
    "headway:seconds",
    "headway:attempt",
    "headway:stopped",
    "headway:same-as",
)
_WORKERS = "headway:worker:"
BASELINE = "headway:baseline"
_MAX_ERROR = 4_000


def direction_of(job: Job) -> StudyDirection:
    """Which way the metric is better; one that is best at 0 is minimised as its distance from 0."""
    higher = metric(job.metric).direction == "higher"
    return StudyDirection.MAXIMIZE if higher else StudyDirection.MINIMIZE


def make_study(job: Job, settings: Settings) -> bool:
    """Make the study if there is none of its name; its first trial is the training section as it stands.

    Returns:
        Whether it is new.
    """
    storage = open_storage(job.storage, settings)
    try:
        study = optuna.create_study(storage=storage, study_name=job.study, direction=direction_of(job).name.lower())
    except DuplicatedStudyError:
        return False
    baseline = _baseline(job)
    if baseline is not None:
        study.enqueue_trial(baseline, user_attrs={BASELINE: True})
    return True


def _baseline(job: Job) -> Values | None:
    """The training section's own values as a point of the space; None where they are none."""
    kind = load_objective(job.spec.objective)
    section = kind.section.parse(job.training, where="training")
    return job.spec.search_space.named(kind.current(job.spec.search_space, section, job.task))


class StudySession:
    """One process's hold on a study.

    Args:
        job: The study's job.
        settings: Where its storage is.
        worker: The worker's name, unique where several run at a time.

    Raises:
        UnknownNameError: There is no such study.
    """

    def __init__(self, job: Job, settings: Settings, worker: str) -> None:
        self.job = job
        self.spec = job.spec
        self.space = self.spec.search_space
        self.storage: BaseStorage = open_storage(job.storage, settings)
        try:
            self.study = optuna.load_study(
                study_name=job.study,
                storage=self.storage,
                sampler=SeededSampler(self.spec),
                pruner=make_pruner(self.spec),
            )
        except KeyError:
            raise UnknownNameError("study", job.study, optuna.get_all_study_names(self.storage)) from None
        self.worker = f"{worker}-{uuid.uuid4().hex[:8]}"
        self.reported = load_objective(self.spec.objective).reported
        """The loss that trials report on their way; empty where it is the metric."""
        self.sign = -1 if self.reported and direction_of(job) is StudyDirection.MAXIMIZE else 1
        """What a reported loss is multiplied with, so that it is better where the metric is."""

    def trials(self) -> list[FrozenTrial]:
        """All attempts by number, those that do not count among them; not to be changed."""
        found: list[FrozenTrial] = self.study.get_trials(deepcopy=False)
        return found

    def claim(self) -> Trial | None:
        """The next trial for this worker; None when the budget is used up."""
        self.release(self.is_dead, "its worker is gone", blamed=True)
        trials = counted(self.trials())
        waiting = any(trial.state is TrialState.WAITING for trial in trials)
        if self.out_of_time() or hopeless(trials) or (len(trials) >= self.spec.trials and not waiting):
            return None
        trial = self.study.ask()
        trial.set_user_attr(WORKER, self.worker)
        everything = self.trials()
        if place(everything[trial.number], everything) >= self.spec.trials:
            # Another worker took the last one in the same moment.
            trial.set_user_attr(NO_TRIAL, SURPLUS)
            self.study.tell(trial, state=TrialState.FAIL)
            return None
        return trial

    def out_of_time(self) -> bool:
        """Whether the time budget is used up."""
        return self.job.deadline is not None and time.time() >= self.job.deadline

    def run(self, trial: Trial, objective: Objective, base: Values) -> None:
        """Run one trial to its end, whatever that is."""
        # A worker that was silent for too long may come back to a trial that was given to another one.
        with contextlib.suppress(UpdateFinishedTrialError):
            self._run(trial, objective, base)

    def _run(self, trial: Trial, objective: Objective, base: Values) -> None:
        began = time.perf_counter()
        report = TrialReport(trial, self)
        state, value = TrialState.FAIL, None
        try:
            values = self.space.suggest(trial)
            value = self._known(trial)
            if value is None:
                value = self._cost(objective(type(objective).compose(base, values), report))
        except Exception as error:  # whatever a trial does wrong, the study goes on, and says so
            trial.set_user_attr(ERROR, told(error))
        else:
            state = TrialState.PRUNED if report.stopped else TrialState.COMPLETE
            if math.isnan(value):
                state = TrialState.FAIL
                trial.set_user_attr(ERROR, f"{self.job.metric} is NaN")
        trial.set_user_attr(SECONDS, round(time.perf_counter() - began, 3))
        self.study.tell(trial, value if state is TrialState.COMPLETE else None, state=state)

    def _known(self, trial: Trial) -> float | None:
        """The result of an earlier trial with the same values: a fit is a function of them."""
        trials = self.trials()
        twin = twin_of(trials[trial.number], trials)
        if twin is None:
            return None
        trial.set_user_attr(SAME_AS, twin.number)
        return float(twin.value) if twin.value is not None else None

    def _cost(self, value: float) -> float:
        return abs(value) if metric(self.job.metric).direction == "zero" else float(value)

    def release(self, dead: Callable[[FrozenTrial], bool], why: str, *, blamed: bool = False) -> list[int]:
        """Take trials from workers that are dead, and put their values up for another attempt.

        Args:
            dead: Says of a running trial whether nobody works on it any more.
            why: What happened, for the report.
            blamed: Whether the trial itself may be the cause, so that it is not tried for ever.

        Returns:
            Numbers of the attempts that ended.
        """
        found = []
        for trial in self.trials():
            if trial.state is TrialState.RUNNING and dead(trial) and self._end(trial, why, blamed):
                found.append(trial.number)
        return found

    def _end(self, trial: FrozenTrial, why: str, blamed: bool) -> bool:
        attempt = int(trial.user_attrs.get(ATTEMPT, 1)) + blamed
        again = attempt <= ATTEMPTS
        identity = self.storage.get_trial_id_from_study_id_trial_number(
            self.storage.get_study_id_from_name(self.job.study), trial.number
        )
        try:
            attribute, text = (NO_TRIAL, why) if again else (ERROR, f"{why}, {ATTEMPTS} times with these values")
            self.storage.set_trial_user_attr(identity, attribute, text)
            self.storage.set_trial_state_values(identity, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False  # another worker was faster
        if again:
            kept = {key: value for key, value in trial.user_attrs.items() if key == BASELINE}
            values = trial.params or trial.system_attrs.get("fixed_params", {})
            self.study.enqueue_trial(values, user_attrs={**kept, ATTEMPT: attempt})
        return True

    def is_dead(self, trial: FrozenTrial) -> bool:
        """Whether the worker of a running trial is gone, as far as one can tell from here."""
        told_by = self.study.user_attrs.get(f"{_WORKERS}{trial.user_attrs.get(WORKER, '')}")
        if told_by is None:
            # It died, or is just about to write its name.
            return trial.datetime_start is not None and _age(trial) > STALE_SECONDS
        if told_by["host"] == socket.gethostname():
            return not _lives(int(told_by["pid"]), float(told_by["born"]))
        return time.time() - float(told_by["seen"]) > STALE_SECONDS

    @contextlib.contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Say in regular intervals that this worker lives."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT_SECONDS):
                self._sign()

        self._sign()
        thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _sign(self) -> None:
        signature = {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid()), "seen": time.time()}
        self.study.set_user_attr(f"{_WORKERS}{self.worker}", signature)


@dataclass
class TrialReport:
    """Reports of one trial, and whether it was told to stop."""

    trial: Trial
    session: StudySession
    stopped: bool = field(default=False, init=False)

    def __call__(self, step: int, value: float) -> bool:
        """Report the metric or the loss so far; True when the trial should stop."""
        session = self.session
        self.trial.report(session.sign * value if session.reported else session._cost(value), step)
        if self.session.out_of_time():
            self.trial.set_user_attr(STOPPED, "time")
            self.stopped = True
        elif self.trial.should_prune():
            self.stopped = True
        return self.stopped


def hopeless(trials: list[FrozenTrial]) -> bool:
    """Whether so many trials failed, and none did not, that more make no sense."""
    ended = [trial for trial in trials if trial.state.is_finished()]
    return len(ended) >= GIVE_UP_AFTER and all(trial.state is TrialState.FAIL for trial in ended)


def told(error: BaseException) -> str:
    """An error as the report shows it: our own as its sentence, any other with the end of its traceback."""
    if isinstance(error, HeadwayError):
        return str(error)[:_MAX_ERROR]
    trace = "".join(traceback.format_exception(error))
    return f"{type(error).__name__}: {error}\n{trace[-_MAX_ERROR:]}"


def _age(trial: FrozenTrial) -> float:
    return time.time() - trial.datetime_start.timestamp() if trial.datetime_start else 0.0


def _born(pid: int) -> float:
    import psutil

    return float(psutil.Process(pid).create_time())


def _lives(pid: int, born: float) -> bool:
    import psutil

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - born) < 1.0
    except psutil.NoSuchProcess:
        return False
