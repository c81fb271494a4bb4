"""Which rows each step of an epoch takes: a function of the table, the seed and the epoch, never of who computes it.

    unit    a row group, the smallest piece that Parquet reads
    lane    one of a fixed number of streams that an epoch is dealt to; each takes a contiguous range of the units in
            their permuted order, cut at the row, and shuffles it in windows
    step    takes the same share of every lane: all lanes start and end together
    rank    takes its slice of each step, so that it reads the lanes of that slice and no others

The rows of a step are thus the same for 1, 2 or 64 processes, and so are loss and gradient but for rounding. Each row
comes exactly once in an epoch, and each rank takes the same number of steps, by arithmetic: no rank ever waits for one
that has run out of rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

HELD_BACK, UNITS, WINDOWS = 1, 2, 3
"""What a random stream is for; with the seed and a place it seeds the stream."""
LANES = 8
"""Lanes of a plan, and at least one for each process: a rank of 8 reads one, a rank of 2 reads four."""


@dataclass(frozen=True)
class Segment:
    """A range of one unit's training rows."""

    unit: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Piece:
    """A range of one lane's rows."""

    lane: int
    start: int
    stop: int


@dataclass(frozen=True)
class Plan:
    """The rows of every step, by position.

    Example:
        >>> plan = Plan(rows=(5, 0, 1, 4), batch=4, lanes=2, seed=0)
        >>> plan.steps, [plan.size(step) for step in range(plan.steps)]
        (3, [3, 3, 4])
        >>> [[(piece.lane, piece.start, piece.stop) for piece in plan.pieces(0, rank, 2)] for rank in (0, 1)]
        [[(0, 0, 1)], [(1, 0, 2)]]
    """

    rows: tuple[int, ...]
    """Training rows of each unit; a unit may have none."""
    batch: int
    """Rows of a step, at most: the last step is not a small one, all differ by one row."""
    lanes: int = LANES
    seed: int = 0
    window: int = 262_144
    """Rows of all lanes together among which the order is shuffled."""

    @cached_property
    def total(self) -> int:
        """Rows of an epoch."""
        return sum(self.rows)

    @cached_property
    def steps(self) -> int:
        """Steps of an epoch, the same on every rank."""
        return -(-self.total // self.batch)

    def size(self, step: int) -> int:
        """Rows of one step."""
        return (step + 1) * self.total // self.steps - step * self.total // self.steps

    def given(self, lane: int, steps: int) -> int:
        """Rows that a lane gives in the first steps of an epoch."""
        if not self.steps:
            return 0
        small = self.total // self.steps
        larger = steps * self.total // self.steps - steps * small
        return (steps - larger) * _share(small, lane, self.lanes) + larger * _share(small + 1, lane, self.lanes)

    def pieces(self, step: int, rank: int, ranks: int) -> list[Piece]:
        """What one rank takes in one step."""
        size = self.size(step)
        low, high = rank * size // ranks, (rank + 1) * size // ranks
        found = []
        for lane in range(self.lanes):
            first, last = lane * size // self.lanes, (lane + 1) * size // self.lanes
            start, stop = max(low, first), min(high, last)
            if start < stop:
                before = self.given(lane, step)
                found.append(Piece(lane, before + start - first, before + stop - first))
        return found

    def windows(self, epoch: int, lane: int) -> Iterator[list[Segment]]:
        """A lane's range of the permuted units, in pieces that are shuffled as one."""
        most = max(1, self.window // self.lanes)
        window: list[Segment] = []
        for segment in self._segments(epoch, lane):
            window.append(segment)
            if sum(map(len, window)) >= most:
                yield window
                window = []
        if window:
            yield window

    def order(self, epoch: int, lane: int, window: int, rows: int) -> NDArray[np.int64]:
        """The order of a window's rows."""
        return _random(self.seed, WINDOWS, epoch, lane, window).permutation(rows)

    def _segments(self, epoch: int, lane: int) -> Iterator[Segment]:
        start = sum(self.given(before, self.steps) for before in range(lane))
        stop = start + self.given(lane, self.steps)
        units, ends = _permuted(self.rows, self.seed, epoch)
        for at in range(int(np.searchsorted(ends, start, side="right")), len(units)):
            unit = int(units[at])
            first = int(ends[at]) - self.rows[unit]
            if first >= stop:
                return
            low, high = max(start, first), min(stop, int(ends[at]))
            if low < high:
                yield Segment(unit, low - first, high - first)


def held_back(seed: int, unit: int, rows: int, share: float) -> NDArray[np.bool_]:
    """Which rows of a unit judge the epochs and are not trained on, shape (rows,).

    Args:
        seed: The training section's.
        unit: The unit's number in the table.
        rows: All its rows.
        share: Share of rows to hold back, 0 to 1.

    Example:
        >>> int(held_back(0, 3, 1000, 0.1).sum())
        106
    """
    return _random(seed, HELD_BACK, unit).random(rows) < share


def _share(size: int, lane: int, lanes: int) -> int:
    return (lane + 1) * size // lanes - lane * size // lanes


@lru_cache(maxsize=2)
def _permuted(rows: tuple[int, ...], seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The units in the epoch's order, and where each ends in it."""
    units = _random(seed, UNITS, epoch).permutation(len(rows))
    return units, np.cumsum(np.array(rows, dtype=np.int64)[units])


def _random(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)
