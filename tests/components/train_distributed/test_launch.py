"""The torchrun launcher with real processes: results come back, causes are named, nothing is left behind."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("torch", reason="torchrun comes with torch (headway[torch])")

from headway.components.errors import ConfigError, TrainingError
from headway.components.settings import Settings
from headway.components.train_distributed.causes import parse_cause, read_cause
from headway.components.train_distributed.job import Heartbeat, Job, Progress
from headway.components.train_distributed.launch import Watch, choose, launch
from headway.components.train_distributed.launch_torchrun import ERROR_FILE, Machine, TorchrunLauncher
from headway.components.train_distributed.spec import Placement

BREAKING = "tests.components.train_distributed.user_networks.Breaking"
TWO = {"processes": 2, "accelerator": "cpu"}


def processes_of(job: Job) -> list[psutil.Process]:
    """Processes that have the job's folder on their command line."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(job.folder in part for part in process.info["cmdline"] or []):
            found.append(process)
    return found


@pytest.fixture
def broken(make_job: Callable[..., Job]) -> Iterator[Callable[..., tuple[TrainingError, float]]]:
    """Run a job whose rank 1 breaks after twenty steps; the error, and the seconds from the break to its report."""
    jobs = []

    def run(how: str, **training: Any) -> tuple[TrainingError, float]:
        job = make_job(network=BREAKING, parameters={"how": how}, epochs=50, placement=TWO, **training)
        jobs.append(job)
        moved = [time.monotonic()]
        with pytest.raises(TrainingError) as caught:
            launch(job, on_progress=lambda progress: moved.append(time.monotonic()))
        return caught.value, time.monotonic() - moved[-1]

    yield run
    for job in jobs:
        assert not processes_of(job)


class TestCauses:
    """What broke is said, within seconds, and with the failing rank's own words."""

    def test_exception(self, broken: Callable[..., Any]) -> None:
        error, seconds = broken("raise")
        assert "ValueError: bad row in shard part-007" in str(error)
        assert "log.txt" in str(error)
        assert seconds < 30

    def test_not_a_number(self, broken: Callable[..., Any]) -> None:
        error, seconds = broken("nan")
        assert "The loss is no finite number at step 21 (epoch 2) on rank 1" in str(error)
        assert "learning_rate" in str(error.fix)
        assert seconds < 30

    @pytest.mark.slow
    def test_killed_rank(self, broken: Callable[..., Any]) -> None:
        error, seconds = broken("die")
        assert "Signal 9 (SIGKILL)" in str(error)
        assert seconds < 30

    @pytest.mark.slow
    def test_hanging_rank(self, broken: Callable[..., Any], tmp_path: Path) -> None:
        error, seconds = broken("hang", patience=6)
        assert "the others wait for rank 1, in the phase 'forward' of step 21" in str(error)
        assert 6 < seconds < 30
        log = (tmp_path / "job" / "work" / "log.txt").read_text()
        assert "user_networks.py" in log, "the stack of the hanging rank is in the log"


@pytest.mark.slow
class TestEnds:
    def test_cancelled_run_is_saved_and_goes_on(self, make_job: Callable[..., Job]) -> None:
        job = make_job(epochs=400, checkpoint={"every": 100_000}, placement=TWO)
        cancel, seen = threading.Event(), []

        def told(progress: Progress) -> None:
            seen.append(progress)
            if progress.epoch > 2:
                cancel.set()

        with pytest.raises(TrainingError, match="ended early: it was cancelled; its state is saved"):
            launch(job, on_progress=told, cancel=cancel)
        assert not processes_of(job)
        steps = [int(path.name.removeprefix("step-")) for path in job.state.glob("step-*")]
        assert len(steps) == 1
        assert steps[0] >= seen[-1].step > 0

    def test_error_of_who_watches_ends_the_run_and_comes_out(self, make_job: Callable[..., Job]) -> None:
        def told(progress: Progress) -> None:
            raise OSError("the place for progress is full")

        job = make_job(epochs=4_000, placement=TWO)
        with pytest.raises(OSError, match="place for progress is full"):
            launch(job, on_progress=told)
        assert not processes_of(job)

    def test_starter_that_is_killed_takes_all_along(self, make_job: Callable[..., Job]) -> None:
        import subprocess
        import sys

        job = make_job(epochs=4_000, placement=TWO)
        path = job.write()
        code = (
            "import sys; from headway.components.train_distributed.job import Job; "
            "from headway.components.train_distributed.launch import launch; launch(Job.load(sys.argv[1]))"
        )
        starter = subprocess.Popen([sys.executable, "-c", code, str(path)])
        give_up = time.monotonic() + 90
        while not any(beat.step for beat in Heartbeat.all_in(Path(job.folder))):
            assert time.monotonic() < give_up
            time.sleep(0.2)
        starter.kill()
        starter.wait()
        while processes_of(job):
            assert time.monotonic() < give_up + 60, "ranks outlived the process that started them"
            time.sleep(0.2)


def test_sigterm_cancels_and_the_old_handler_comes_back(
    make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    from headway.components.train_distributed import launch as module

    class Waiting:
        def run(self, job: Job, watch: Watch) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            assert watch.cancel.wait(10)
            return "ended"

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(module, "choose", lambda placement, settings: Waiting())
    assert launch(make_job()) == "ended"  # type: ignore[comparison-overlap]
    assert signal.getsignal(signal.SIGTERM) is before


class TestMachine:
    def test_threads_share_the_cores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from headway.components.train_distributed import launch_torchrun as module

        monkeypatch.setattr(module, "available_threads", lambda: 8)
        monkeypatch.setattr(module, "count_gpus", lambda: 0)
        assert Machine.of(Placement()) == Machine(processes=4, threads=2)
        assert Machine.of(Placement(processes=3)) == Machine(processes=3, threads=2)
        assert Machine.of(Placement(threads=1)) == Machine(processes=4, threads=1)
        monkeypatch.setattr(module, "count_gpus", lambda: 2)
        assert Machine.of(Placement()) == Machine(processes=2, threads=4)
        assert Machine.of(Placement(accelerator="cpu")).processes == 4
        with pytest.raises(ConfigError, match="wants 3 processes"):
            Machine.of(Placement(processes=3))

    def test_gpu_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from headway.components.train_distributed import launch_torchrun as module

        monkeypatch.setattr(module, "count_gpus", lambda: 0)
        with pytest.raises(ConfigError, match="wants GPUs"):
            Machine.of(Placement(accelerator="gpu"))

    def test_several_machines_need_a_cluster(self) -> None:
        assert isinstance(choose(Placement(), Settings(platform="kubeflow")), TorchrunLauncher)
        with pytest.raises(ConfigError, match="wants 2 machines"):
            choose(Placement(nodes=2), Settings(platform="embedded"))


class TestErrorFile:
    def test_missing_or_broken_says_nothing(self, tmp_path: Path) -> None:
        assert read_cause(tmp_path / ERROR_FILE) is None
        (tmp_path / ERROR_FILE).write_text("half a docum")
        assert read_cause(tmp_path / ERROR_FILE) is None

    def test_plain_text(self, tmp_path: Path) -> None:
        (tmp_path / ERROR_FILE).write_text('{"message": "out of memory"}')
        assert read_cause(tmp_path / ERROR_FILE) == ("out of memory", None, None)

    def test_our_own_error_keeps_its_parts(self) -> None:
        error = ConfigError("a\nb", expected="c", fix="d")
        assert parse_cause(f"ConfigError: {error}") == ("a\nb", "c", "d")


def test_without_torch_it_says_how_to_get_it(make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match=r"needs torch.*\n.*headway\[torch\]"):
        launch(make_job())


def test_heartbeats_are_read_while_they_are_written(tmp_path: Path) -> None:
    beat = Heartbeat(rank=1, pid=os.getpid(), beats=3, step=7, phase="backward")
    beat.write(tmp_path)
    (tmp_path / "rank-0.json").write_text('{"rank": 0')
    assert Heartbeat.all_in(tmp_path) == [beat]
    assert beat.position < Heartbeat(rank=0, pid=1, beats=0, step=7, phase="update").position
