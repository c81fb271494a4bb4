"""What a rank does right now, written once a second by a thread of its own, for whoever wonders why nothing moves."""

import contextlib
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from headway.components.train_distributed.job import Heartbeat


class Pulse:
    """The heartbeat of one rank.

    Args:
        rank: The rank.
        folder: The job's working folder.
    """

    def __init__(self, rank: int, folder: Path) -> None:
        self._rank, self._folder = rank, folder
        self._beats, self._step, self._phase = 0, 0, "start"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def at(self, phase: str, step: int | None = None) -> None:
        """Say that something has moved: the phase has begun, or another piece of its work is done."""
        self._beats += 1
        self._phase = phase
        if step is not None:
            self._step = step

    def _run(self) -> None:
        while not self._stop.wait(1.0):
            self._write()

    def _write(self) -> None:
        beat = Heartbeat(rank=self._rank, pid=os.getpid(), beats=self._beats, step=self._step, phase=self._phase)
        with contextlib.suppress(OSError):  # a full disk must not end a training that can go on without it
            beat.write(self._folder)
