"""The processes of a job: who this one is, what it computes on, and how they agree.

Under torchrun the environment says who is who; without it there is one process, which takes the same paths.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from headway.components.errors import ConfigError
from headway.components.train_distributed.spec import DistributedSpec

MARGIN = 60.0
"""Seconds that a collective waits longer than the launcher does: the launcher knows more of the cause."""


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of a job, seen from one of them."""

    rank: int
    size: int
    local_rank: int
    """Its number on this machine."""
    one_machine: bool
    """Whether all processes are on one machine."""
    device: torch.device
    control: Any
    """A gloo group for flags and small documents, which waits for no GPU."""
    saving: Any
    """A gloo group for checkpoints alone: their collectives run in a thread, beside those of training."""

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which speaks for all."""
        return self.rank == 0

    def sum(self, values: list[float]) -> list[float]:
        """Sums over all ranks; every rank gets them."""
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.control)
        return [float(value) for value in tensor]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on some rank; every rank gets the same answer."""
        return self.sum([float(flag)])[0] > 0

    def gather(self, thing: Any) -> list[Any]:
        """One thing of each rank, in their order, on every rank."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, thing, group=self.control)
        return found

    def wait(self) -> None:
        """Go on once all have come here."""
        dist.barrier(group=self.control)


@contextmanager
def join(spec: DistributedSpec) -> Iterator[World]:
    """Join the job's processes; leaves them at the end.

    Raises:
        ConfigError: A GPU is asked for, and there is none.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = _device(spec, local_rank)
    timeout = timedelta(seconds=spec.patience + MARGIN)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=timeout)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)
    try:
        yield World(
            rank=rank,
            size=size,
            local_rank=local_rank,
            one_machine=os.environ.get("LOCAL_WORLD_SIZE", "1") == str(size),
            device=device,
            control=dist.new_group(backend="gloo", timeout=timeout),
            saving=dist.new_group(backend="gloo", timeout=timeout),
        )
    finally:
        # After an error the others may be gone, and a polite goodbye would wait for them.
        if sys.exc_info()[0] is None:
            dist.destroy_process_group()


def _device(spec: DistributedSpec, local_rank: int) -> torch.device:
    wanted = spec.placement.accelerator
    if wanted == "cpu" or not torch.cuda.is_available():
        if wanted == "gpu":
            raise ConfigError(
                "A GPU is asked for, and torch finds none", fix="set `accelerator: cpu`, or see nvidia-smi"
            )
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def settle(spec: DistributedSpec, world: World) -> None:
    """Seeds and numerics of this process."""
    torch.manual_seed(spec.seed)
    # Numbers too small to matter cost a hundred times an ordinary one on x86.
    torch.set_flush_denormal(True)
    if world.device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
    elif "OMP_NUM_THREADS" not in os.environ:
        from headway.components.train.fit import available_threads

        torch.set_num_threads(max(1, available_threads()))


def seed_step(spec: DistributedSpec, world: World, step: int) -> None:
    """Seed what is random in one step: a resumed run drops what the uninterrupted one would have dropped."""
    torch.manual_seed((spec.seed << 24) ^ (step * world.size + world.rank + 1))


def precision(spec: DistributedSpec, device: torch.device) -> torch.dtype | None:
    """The type that the network computes in, or None for float32.

    Raises:
        ConfigError: bfloat16 is asked for, and the hardware would emulate it.
    """
    if device.type == "cuda":
        there = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        there = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if spec.precision == "bfloat16" and not there:
        raise ConfigError(
            "This hardware has no bfloat16, and emulating it is ten times slower than float32",
            expected="a GPU of compute capability 8.0, or a CPU with AVX512-BF16 or AMX",
            fix="set `precision: auto`",
        )
    wanted = spec.precision == "bfloat16" or (spec.precision == "auto" and device.type == "cuda")
    return torch.bfloat16 if wanted and there else None


class StopSignal:
    """Whether SIGTERM came to this process."""

    def __init__(self) -> None:
        self.came = False
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: Any) -> None:
        self.came = True


def die_with_parent() -> None:
    """End this process when the one that started it ends, however it ends: no rank outlives its job (Linux)."""
    if sys.platform != "linux":
        return
    import ctypes

    set_parent_death_signal = 1
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before the kernel was told
        os.kill(os.getpid(), signal.SIGKILL)
