"""Ranks of a job as children of a server that has torch loaded: a start costs a tenth of torchrun's."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from headway.components.train_distributed.checkpoint import COMMITTED
from headway.components.train_distributed.job import RESULT, Job, Result

TRAINER = "headway.components.train_distributed.trainer"
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([TRAINER, "sklearn.metrics", "pyarrow.parquet"])
_PATIENCE = 120


def run(job: Job, ranks: int = 1) -> Result:
    """Run a job to its end."""
    codes = finish(start(job, ranks))
    assert codes == [0] * ranks, codes
    return Result.load(Path(job.folder) / RESULT)


def start(job: Job, ranks: int) -> list[Any]:
    """Start the ranks of a job."""
    path = job.write()
    port = _free_port()
    found = []
    for rank in range(ranks):
        process = _SERVER.Process(target=_main, args=(str(path), rank, ranks, port))
        process.start()
        found.append(process)
    return found


def finish(processes: list[Any]) -> list[int]:
    """Wait for the ranks; their exit codes."""
    for process in processes:
        process.join(timeout=_PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def wait_for_checkpoints(job: Job, count: int = 1) -> None:
    """Come back once that many checkpoints have been completed."""
    seen: set[str] = set()
    give_up = time.monotonic() + _PATIENCE
    while len(seen) < count:
        assert time.monotonic() < give_up, "no checkpoint came"
        seen |= {path.parent.name for path in job.state.glob(f"step-*/{COMMITTED}")}
        time.sleep(0.001)


def stop(processes: list[Any], number: signal.Signals) -> list[int]:
    """Send a signal to all ranks, and wait for them."""
    for process in processes:
        os.kill(process.pid, number)
    return finish(processes)


def call(function: Any, ranks: int, *arguments: Any) -> list[int]:
    """Run a function of this test's module in every rank, with the world and the arguments; the exit codes."""
    port = _free_port()
    found = [_SERVER.Process(target=_called, args=(function, rank, ranks, port, *arguments)) for rank in range(ranks)]
    for process in found:
        process.start()
    return finish(found)


def _called(function: Any, rank: int, size: int, port: int, *arguments: Any) -> None:
    from headway.components.train_distributed.spec import DistributedSpec
    from headway.components.train_distributed.world import join

    _settle(rank, size, port)
    with join(DistributedSpec.parse({"trainer": "distributed"})) as world:
        function(world, *arguments)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _main(path: str, rank: int, size: int, port: int) -> None:
    _settle(rank, size, port)
    sys.argv = ["trainer", path]
    from headway.components.train_distributed.trainer import main

    main()


def _settle(rank: int, size: int, port: int) -> None:
    import torch

    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    torch.set_num_threads(1)
