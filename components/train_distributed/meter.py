"""How fast a run is, and what it waits for."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from headway.components.train_distributed.job import Speed
from headway.components.train_distributed.world import World

WARM_UP = 5
"""Steps that are not counted: allocators, caches and the compiler settle in them."""
_PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
}
"""Dense bfloat16 FLOP/s by a part of the device's name, from NVIDIA's data sheets; the longer names stand first."""


class Meter:
    """Times of one rank's steps.

    Args:
        world: The processes.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._seconds: list[float] = []
        self._rows = 0
        self._waiting = 0.0
        self._saving = 0.0
        self._cpu = 0.0
        self._last, self._last_cpu = time.perf_counter(), time.process_time()
        self._seen = 0

    def skip(self) -> None:
        """Leave out the time since the last step: an evaluation, or the start."""
        self._last, self._last_cpu = time.perf_counter(), time.process_time()

    def step(self, rows: int, waited: float, saved: float) -> None:
        """One step is done.

        Args:
            rows: Of the whole step, over all processes.
            waited: Seconds of it that the step waited for its rows.
            saved: Seconds of it that a checkpoint took.
        """
        now, cpu = time.perf_counter(), time.process_time()
        self._seen += 1
        if self._seen > WARM_UP:
            self._seconds.append(now - self._last)
            self._rows += rows
            self._waiting += waited
            self._saving += saved
            self._cpu += cpu - self._last_cpu
        self._last, self._last_cpu = now, cpu

    @property
    def rows_per_second(self) -> float:
        """Over all processes."""
        return self._rows / max(sum(self._seconds), 1e-9)

    @property
    def data_share(self) -> float:
        """Share of the time that was spent waiting for rows, 0 to 1."""
        return min(1.0, self._waiting / max(sum(self._seconds), 1e-9))

    def speed(self, flops_per_row: float, dtype: torch.dtype | None) -> Speed | None:
        """All figures; None where there were too few steps."""
        if not self._seconds:
            return None
        ordered = sorted(self._seconds)
        peak, source = _peak(self._world.device, dtype)
        done = flops_per_row * self.rows_per_second / self._world.size
        return Speed(
            rows_per_second=self.rows_per_second,
            step_seconds=statistics.median(ordered),
            step_seconds_p95=ordered[int(0.95 * (len(ordered) - 1))],
            data_share=self.data_share,
            checkpoint_share=min(1.0, self._saving / sum(self._seconds)),
            cores=self._cpu / sum(self._seconds),
            flops_per_row=flops_per_row,
            mfu=done / peak if peak else None,
            mfu_against=source,
            **_gpu(self._world.device),
        )


def flops_per_row(model: nn.Module, numbers: torch.Tensor, codes: torch.Tensor) -> float:
    """Floating-point operations of one row, forward and backward: twice the forward ones go backward."""
    from torch.utils.flop_counter import FlopCounterMode

    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(numbers, codes)
    model.train()
    return 3.0 * int(counter.get_total_flops()) / max(len(numbers), 1)


def _peak(device: torch.device, dtype: torch.dtype | None) -> tuple[float, str]:
    """What one process's hardware could do, in FLOP/s, and where that figure is from."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        found = next((peak for part, peak in _PEAKS.items() if part in name), 0.0)
        return (found, f"{name}, dense bfloat16 by its data sheet") if found and dtype is not None else (0.0, "")
    return _measured(dtype), f"a matrix product measured on {torch.get_num_threads()} threads of this CPU"


def _measured(dtype: torch.dtype | None) -> float:
    size = 512
    left = torch.randn(size, size, dtype=dtype or torch.float32)
    best = min(_seconds(lambda: left @ left) for _ in range(10))
    return 2 * size**3 / best


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _gpu(device: torch.device) -> dict[str, float]:
    if device.type != "cuda":
        return {}
    total = torch.cuda.get_device_properties(device).total_memory
    found = {"gpu_memory": torch.cuda.max_memory_reserved(device) / total}
    try:
        found["gpu_utilisation"] = torch.cuda.utilization(device) / 100
    except (ImportError, RuntimeError):
        return found  # the driver's library is not installed; torch needs it for this figure alone
    return found
