"""Time of one call, for several ways to make it, on a machine that has other things to do."""

import time
from collections.abc import Callable, Mapping
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDS = 7
POSITIONS = 16
"""Batches that a measurement goes through in turn, since a processor learns the way of one row through a tree."""

Predict = Callable[[NDArray[np.float32], NDArray[np.object_]], Any]


def latencies(
    ways: Mapping[str, Predict],
    numbers: NDArray[np.float32],
    texts: NDArray[np.object_],
    *,
    batch: int,
    seconds: float,
) -> dict[str, float]:
    """Microseconds of one call for each way to predict.

    The ways take turns, so that what else runs on the machine meets them alike; the fastest of seven rounds counts,
    since others only ever make a call slower.

    Args:
        ways: What takes numbers of shape (n, p) and texts of shape (n, q), by name.
        numbers: Real rows, shape (m, p).
        texts: The same rows' texts, shape (m, q).
        batch: Rows of one call, n; with fewer real rows they repeat.
        seconds: Time to spend on each way.
    """
    batches = _batches(numbers, texts, batch)
    times = {name: _how_often(call, batches, seconds / ROUNDS) for name, call in ways.items()}
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, call in ways.items():
            best[name] = min(best[name], _spend(call, batches, times[name]) / times[name])
    return {name: spent * 1e6 for name, spent in best.items()}


def _batches(
    numbers: NDArray[np.float32], texts: NDArray[np.object_], batch: int
) -> list[tuple[NDArray[np.float32], NDArray[np.object_]]]:
    starts = np.linspace(0, len(numbers) - 1, POSITIONS).astype(np.int64)
    places = [(start + np.arange(batch)) % len(numbers) for start in starts]
    return [(np.ascontiguousarray(numbers[rows]), np.ascontiguousarray(texts[rows])) for rows in places]


def _how_often(call: Predict, batches: list[Any], seconds: float) -> int:
    times = 1
    while (spent := _spend(call, batches, times)) < seconds / 4:
        times *= 2
    return max(1, int(times * seconds / spent))


def _spend(call: Predict, batches: list[Any], times: int) -> float:
    turn = cycle(batches)
    started = time.perf_counter()
    for _ in range(times):
        call(*next(turn))
    return time.perf_counter() - started
