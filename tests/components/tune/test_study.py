"""A study shared by workers that come, die and return: nothing lost, nothing twice, the same again with one seed."""

import json
import multiprocessing
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from headway.components.errors import ConfigError, PlatformError, UnknownNameError
from headway.components.settings import Settings
from headway.components.tune import study as module
from headway.components.tune.objective import load_objective
from headway.components.tune.outcome import best_of, read_outcome
from headway.components.tune.sampler import NO_TRIAL, counted
from headway.components.tune.storage import JOURNAL, only_one, open_storage, shared_address
from headway.components.tune.study import ATTEMPT, ERROR, WORKER, StudySession, make_study
from headway.components.tune.worker import work


def rows(job: Any, settings: Settings) -> list[Any]:
    session = StudySession(job, settings, "look")
    return read_outcome(session, ended="trials", seconds=0, folder=Path(), run_link="").rows


def values(job: Any, settings: Settings) -> list[Any]:
    return [row.values for row in rows(job, settings)]


def begin(session: StudySession, *, ask: bool = True) -> Any:
    """A trial that a worker took and will never end."""
    trial = session.claim()
    assert trial is not None
    if ask:
        session.space.suggest(trial)
    return trial


class TestBudget:
    def test_trials(self, made: Any, settings: Any) -> None:
        job = made(trials=7)
        assert work(job, "w", settings) == 7
        assert work(job, "w", settings) == 0
        assert [row.state for row in rows(job, settings)] == ["finished"] * 7

    def test_more_trials_go_on(self, made: Any, plain_job: Any, settings: Any) -> None:
        whole = made(trials=9, study="whole")
        work(whole, "w", settings)
        piecewise = made(trials=4, study="pieces")
        work(piecewise, "w", settings)
        assert work(plain_job(trials=9, study="pieces"), "w", settings) == 5
        assert values(piecewise, settings) == values(whole, settings)

    def test_time_stops_a_running_trial_at_its_next_report(self, made: Any, settings: Any) -> None:
        job = made("seconds: 1.5", trials=50).model_copy(update={"deadline": time.time() + 0.6})
        began = time.perf_counter()
        work(job, "w", settings)
        assert time.perf_counter() - began < 4
        assert [row.state for row in rows(job, settings)] == ["out of time"]

    def test_nothing_begins_after_the_time(self, made: Any, settings: Any) -> None:
        job = made().model_copy(update={"deadline": time.time() - 1})
        assert work(job, "w", settings) == 0

    def test_last_trial_is_not_taken_twice(self, made: Any, settings: Any, monkeypatch: Any) -> None:
        """Two workers see one trial left; one of them gets it."""
        job = made(trials=1)
        first, second = StudySession(job, settings, "a"), StudySession(job, settings, "b")
        seen = threading.Barrier(2)
        own = StudySession.out_of_time

        def together(self: Any) -> bool:
            seen.wait(timeout=10)
            return own(self)

        monkeypatch.setattr(StudySession, "out_of_time", together)
        found: list[Any] = []
        threads = [threading.Thread(target=lambda s=s: found.append(s.claim())) for s in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(trial is not None for trial in found) == 1
        assert len(counted(first.trials())) == 1


class TestSameSeed:
    def test_same_trials(self, made: Any, settings: Any) -> None:
        one, two, other = made(trials=15, study="a"), made(trials=15, study="b"), made(trials=15, study="c", seed=1)
        for job in (one, two, other):
            work(job, "w", settings)
        assert values(one, settings) == values(two, settings)
        assert values(one, settings)[1:] != values(other, settings)[1:]
        best = [best_of(rows(job, settings), "roc_auc") for job in (one, two)]
        assert best[0].value == best[1].value

    @pytest.mark.parametrize("sampler", ["tpe", "random"])
    def test_a_resumed_study_is_the_uninterrupted_one(self, made: Any, settings: Any, sampler: str) -> None:
        """Killed in the middle of a trial, twice: the same values in the same order as if nothing had happened."""
        space = {"x": {"type": "float", "low": 0, "high": 1}, "kind": {"type": "categorical", "values": ["plain", "b"]}}
        whole = made(trials=16, study="whole", sampler=sampler, space=space, startup=4)
        work(whole, "w", settings)
        broken = made(trials=16, study="broken", sampler=sampler, space=space, startup=4)
        for partly in (5, 11):
            work(
                broken.model_copy(update={"tuning": broken.tuning.replace("trials: 16", f"trials: {partly}")}),
                "w",
                settings,
            )
            dying = StudySession(broken, settings, "dying")
            begin(dying)
            dying.release(lambda trial: True, "killed")
        work(broken, "w", settings)
        assert values(broken, settings) == values(whole, settings)
        assert [row.value for row in rows(broken, settings)] == [row.value for row in rows(whole, settings)]

    def test_random_search_does_not_depend_on_the_workers(self, made: Any, settings: Any) -> None:
        alone = made(trials=12, study="alone", sampler="random")
        work(alone, "w", settings)
        shared = made(trials=12, study="shared", sampler="random")
        sessions = [StudySession(shared, settings, f"w{number}") for number in range(3)]
        taken = [begin(session) for session in sessions for _ in range(4)]
        assert sorted(trial.params["x"] for trial in taken) == sorted(row["x"] for row in values(alone, settings))

    def test_the_section_as_it_stands_is_tried_first(self, made: Any, settings: Any) -> None:
        job = made("x: 0.25", trials=2)
        work(job, "w", settings)
        first = rows(job, settings)[0]
        assert first.values == {"x": 0.25}
        assert first.baseline
        outside = made("x: 7", trials=2, study="outside")
        work(outside, "w", settings)
        assert not any(row.baseline for row in rows(outside, settings))


class TestFewValues:
    """Where only some values are possible, no work is done twice, and the search looks elsewhere."""

    SPACE = {
        "x": {"type": "categorical", "values": [0.1, 0.3, 0.5, 0.7, 0.9]},
        "epochs": {"type": "int", "low": 1, "high": 4},
    }

    def test_the_same_values_are_tried_once(self, made: Any, settings: Any, tmp_path: Path) -> None:
        job = made(f"{{x: 0.5, log: {tmp_path / 'log'}}}", trials=40, space=self.SPACE, startup=5)
        work(job, "w", settings)
        found = rows(job, settings)
        assert [row.state for row in found] == ["finished"] * 40
        fitted = [row for row in found if row.same_as is None]
        assert len((tmp_path / "log").read_text().splitlines()) == 2 * len(fitted)
        assert len({str(row.values) for row in found}) == len(fitted) > 10
        for row in found:
            if row.same_as is not None:
                assert (row.values, row.value) == (found[row.same_as].values, found[row.same_as].value)


class TestFailures:
    SPACE = {
        "x": {"type": "float", "low": 0, "high": 1},
        "kind": {"type": "categorical", "values": ["plain", "fails", "nan"]},
    }

    def test_a_failed_trial_fails_alone_and_keeps_its_error(self, made: Any, settings: Any) -> None:
        job = made(trials=20, space=self.SPACE)
        work(job, "w", settings)
        found = rows(job, settings)
        states = {
            kind: {row.state for row in found if row.values["kind"] == kind} for kind in ("plain", "fails", "nan")
        }
        assert states == {"plain": {"finished"}, "fails": {"failed"}, "nan": {"failed"}}
        errors = {row.values["kind"]: row.error for row in found if row.error}
        assert errors["fails"].startswith("ValueError: this value is not good\nTraceback")
        assert errors["nan"] == "roc_auc is NaN"

    def test_nothing_but_failures_ends_the_study(self, made: Any, settings: Any) -> None:
        job = made("kind: fails", trials=500)
        assert work(job, "w", settings) == module.GIVE_UP_AFTER
        outcome = read_outcome(StudySession(job, settings, "look"), ended="failures", seconds=1, folder=Path())
        with pytest.raises(module.HeadwayError, match=r"10 failed.*trial 0: ValueError: this value is not good"):
            outcome.require_best()

    def test_keyboard_is_not_a_failure(self, made: Any, settings: Any, monkeypatch: Any) -> None:
        def interrupted(self: Any, section: Any, report: Any) -> float:
            raise KeyboardInterrupt

        job = made(trials=3)
        monkeypatch.setattr(load_objective(job.spec.objective), "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            work(job, "w", settings)
        assert [row.state for row in rows(job, settings)] == ["running"]


class TestDeadWorkers:
    def test_a_trial_of_a_dead_process_is_tried_again(self, made: Any, settings: Any) -> None:
        job = made(trials=4)
        dying = StudySession(job, settings, "dying")
        context = multiprocessing.get_context("fork")
        process = context.Process(target=dying._sign)
        process.start()
        process.join()
        lost = begin(dying)
        assert work(job, "w", settings) == 4
        session = StudySession(job, settings, "look")
        assert session.trials()[lost.number].user_attrs[NO_TRIAL] == "its worker is gone"
        again = [trial for trial in session.trials() if trial.user_attrs.get(ATTEMPT) == 2]
        assert [trial.params for trial in again] == [lost.params]
        assert [row.state for row in rows(job, settings)] == ["finished"] * 4

    def test_values_that_kill_twice_have_failed(self, made: Any, settings: Any) -> None:
        job = made(trials=3)
        for _ in range(2):
            dying = StudySession(job, settings, "dying")
            begin(dying)
            dying.release(lambda trial: True, "its worker was killed by signal 9", blamed=True)
        work(job, "w", settings)
        found = rows(job, settings)
        assert [row.state for row in found] == ["failed", "finished", "finished"]
        assert found[0].error == "its worker was killed by signal 9, 2 times with these values"
        assert found[0].attempt == 2

    def test_being_cancelled_blames_nobody(self, made: Any, settings: Any) -> None:
        job = made(trials=2)
        for _ in range(5):
            stopped = StudySession(job, settings, "stopped")
            begin(stopped, ask=False)
            stopped.release(lambda trial: True, "the search was ended")
        work(job, "w", settings)
        assert [(row.state, row.attempt) for row in rows(job, settings)] == [("finished", 1)] * 2
        assert rows(job, settings)[0].baseline

    def test_two_that_notice_make_one_new_attempt(self, made: Any, settings: Any) -> None:
        job = made(trials=5)
        dying, one, two = (StudySession(job, settings, name) for name in ("dying", "one", "two"))
        begin(dying)
        stale = one.trials()
        assert two.release(lambda trial: True, "gone") == [0]
        assert stale[0].state is TrialState.RUNNING
        assert not one._end(stale[0], "gone", blamed=False)
        assert sum(trial.state is TrialState.WAITING for trial in one.trials()) == 1

    def test_a_late_end_of_a_trial_that_was_given_away(self, made: Any, settings: Any) -> None:
        """A worker that was taken for dead, and was not: its result comes too late and does no harm."""
        job = made(trials=2)
        slow, other = StudySession(job, settings, "slow"), StudySession(job, settings, "other")
        trial = slow.claim()
        other.release(lambda each: True, "silent")
        slow.run(trial, load_objective(job.spec.objective)(job), {})
        assert [row.state for row in rows(job, settings)] == ["waiting"]
        work(job, "w", settings)
        assert [row.state for row in rows(job, settings)] == ["finished"] * 2

    @pytest.mark.parametrize(
        ("signature", "dead"),
        [
            ({"host": "elsewhere", "pid": 1, "born": 0.0, "seen": 0.0}, True),
            ({"host": "elsewhere", "pid": 1, "born": 0.0, "seen": 1e12}, False),
            ({"host": "here", "pid": os.getpid(), "born": 1.0, "seen": 1e12}, True),  # the number was given anew
            ({"host": "here", "pid": 2**22 + 1, "born": 1.0, "seen": 1e12}, True),
            (None, False),  # it has just begun
        ],
    )
    def test_who_is_dead(self, made: Any, settings: Any, monkeypatch: Any, signature: Any, dead: bool) -> None:
        monkeypatch.setattr(module.socket, "gethostname", lambda: "here")
        session = StudySession(made(), settings, "w")
        trial = begin(session)
        if signature is not None:
            session.study.set_user_attr(f"headway:worker:{session.worker}", signature)
        assert session.is_dead(session.trials()[trial.number]) is dead

    def test_heartbeat(self, made: Any, settings: Any, monkeypatch: Any) -> None:
        monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.05)
        session = StudySession(made(), settings, "w")
        with session.heartbeat():
            trial = begin(session)
            first = session.study.user_attrs[f"headway:worker:{session.worker}"]["seen"]
            time.sleep(0.3)
            assert session.study.user_attrs[f"headway:worker:{session.worker}"]["seen"] > first
            assert not session.is_dead(session.trials()[trial.number])
        assert not any(thread.name == "heartbeat" for thread in threading.enumerate())


class TestPruning:
    @pytest.mark.parametrize("pruner", ["percentile", "median", "halving"])
    def test_poor_trials_stop_early(self, made: Any, settings: Any, pruner: str) -> None:
        job = made("epochs: 9", trials=25, pruner=pruner, startup=6)
        work(job, "w", settings)
        found = rows(job, settings)
        pruned = [row for row in found if row.state == "pruned"]
        assert pruned
        assert any(max(row.reports) < 9 for row in pruned)
        best = best_of(found, "roc_auc")
        assert best.state == "finished"
        assert best.value > 0.99

    def test_torch_takes_part_through_the_same_interface(self, made: Any, settings: Any) -> None:
        pytest.importorskip("torch")
        job = made("epochs: 5", trials=8, objective="objectives:Network", pruner="median", startup=4)
        work(job, "w", settings)
        assert {row.state for row in rows(job, settings)} <= {"finished", "pruned"}
        assert best_of(rows(job, settings), "roc_auc").value > 0.8


class TestDirections:
    @pytest.mark.parametrize(("metric", "best"), [("roc_auc", 0.3), ("rmse", "far"), ("bias", "far")])
    def test_better(self, made: Any, settings: Any, metric: str, best: Any) -> None:
        job = made(trials=15, metric=metric)
        work(job, "w", settings)
        found = rows(job, settings)
        chosen = best_of(found, metric)
        wanted = max if metric == "roc_auc" else min
        assert chosen.value == wanted(row.value for row in found)


class TestStorage:
    def test_a_line_that_a_killed_worker_began_is_cut_off(self, made: Any, settings: Any) -> None:
        job = made(trials=6)
        work(job.model_copy(update={"tuning": job.tuning.replace("trials: 6", "trials: 3")}), "w", settings)
        journal = Path(job.storage.removeprefix(JOURNAL))
        with journal.open("ab") as file:
            file.write(b'{"op_code":6,"worker_id":"x","trial_id":1,"sta')
        assert len(rows(job, settings)) == 3
        assert work(job, "w", settings) == 3
        assert len(rows(job, settings)) == 6
        for line in journal.read_text().splitlines():
            json.loads(line)

    def test_many_processes_make_one_database(self, tmp_path: Path, settings: Settings) -> None:
        """On a new SQLite file Optuna's own way lets one of two fail."""
        url = f"sqlite:///{tmp_path / 'studies.db'}"
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=open_storage, args=(url, settings)) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0, 0]

    def test_a_study_in_a_database(self, plain_job: Any, tmp_path: Path, settings: Settings) -> None:
        job = plain_job(trials=6).model_copy(update={"storage": f"sqlite:///{tmp_path / 'studies.db'}"})
        assert make_study(job, settings)
        assert not make_study(job, settings)
        dying = StudySession(job, settings, "dying")
        begin(dying)
        dying.release(lambda trial: True, "killed")
        assert work(job, "w", settings) == 6
        in_journal = plain_job(trials=6, study="j")
        make_study(in_journal, settings)
        work(in_journal, "w", settings)
        assert values(job, settings) == values(in_journal, settings)

    def test_a_database_that_does_not_answer(self, settings: Settings) -> None:
        with pytest.raises(PlatformError, match=r"database of the study at postgresql\+psycopg://127\.0\.0\.1:9/x"):
            open_storage("postgresql+psycopg://me:secret@127.0.0.1:9/x", settings)

    def test_addresses(self, settings: Settings, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        assert shared_address(settings, tmp_path) == f"journal:{tmp_path}/journal.log"
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        with pytest.raises(ConfigError, match="need a database that all of them reach"):
            shared_address(settings, tmp_path)
        server = settings.model_copy(update={"database_url": type(settings.database_url)("postgresql://db/x")})
        assert shared_address(server, tmp_path) == "database"

    def test_one_search_at_a_time(self, tmp_path: Path) -> None:
        with (
            only_one(tmp_path),
            pytest.raises(PlatformError, match=f"being tuned by process {os.getpid()}"),
            only_one(tmp_path),
        ):
            pass
        with only_one(tmp_path):
            pass

    def test_unknown_study(self, plain_job: Any, made: Any, settings: Settings) -> None:
        made(study="shops")
        job = plain_job(study="shps").model_copy(update={"storage": plain_job(study="shops").storage})
        with pytest.raises(UnknownNameError, match="Unknown study 'shps' - did you mean 'shops'"):
            StudySession(job, settings, "w")


def test_attributes_name_the_worker(made: Any, settings: Any) -> None:
    job = made(trials=1)
    work(job, "pod-7", settings)
    trial = StudySession(job, settings, "look").trials()[0]
    assert trial.user_attrs[WORKER].startswith("pod-7-")
    assert ERROR not in trial.user_attrs
    assert rows(job, settings)[0].worker == "pod-7"
