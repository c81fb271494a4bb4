"""Every row once, whoever takes part: properties of the plan and of what the ranks read by it."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.components.train_distributed.data import batches
from headway.components.train_distributed.plan import Plan, held_back
from headway.components.train_distributed.preprocess import Rows

UNITS = st.lists(st.integers(0, 40), min_size=1, max_size=12).map(tuple)
"""Row groups, empty ones and some of a single row among them."""


class Numbered:
    """A table whose only column is the row's number."""

    def __init__(self, rows: tuple[int, ...]) -> None:
        starts = np.concatenate([[0], np.cumsum(rows)])
        self._units = [np.arange(starts[at], starts[at + 1]) for at in range(len(rows))]

    def rows(self, unit: int) -> Rows:
        numbers = self._units[unit].astype(np.float32)[:, None]
        return Rows(numbers, np.empty((len(numbers), 0), np.int32), self._units[unit], None)


def seen(plan: Plan, epoch: int, rank: int, ranks: int, first: int = 0) -> list[list[int]]:
    """The row numbers of each step of one rank."""
    reader: Any = Numbered(plan.rows)
    found = batches(plan, reader, epoch=epoch, rank=rank, ranks=ranks, first=first)
    return [rows.target.tolist() for _, rows in found]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    rows = draw(UNITS.filter(any))
    batch = draw(st.integers(1, 60))
    return Plan(
        rows, batch, lanes=draw(st.integers(1, 10)), seed=draw(st.integers(0, 99)), window=draw(st.integers(1, 80))
    )


def most_ranks(plan: Plan) -> int:
    return min(7, *(plan.size(step) for step in range(plan.steps)))


@settings(max_examples=150)
@given(plan=plans(), epoch=st.integers(0, 5), data=st.data())
def test_every_row_once_and_as_many_steps_for_all(plan: Plan, epoch: int, data: Any) -> None:
    ranks = data.draw(st.integers(1, most_ranks(plan)))
    parts = [seen(plan, epoch, rank, ranks) for rank in range(ranks)]
    assert [len(part) for part in parts] == [plan.steps] * ranks
    rows = [row for part in parts for step in part for row in step]
    assert sorted(rows) == list(range(plan.total))
    for step in range(plan.steps):
        sizes = [len(part[step]) for part in parts]
        assert sum(sizes) == plan.size(step) <= plan.batch
        assert max(sizes) - min(sizes) <= 1


@settings(max_examples=100)
@given(plan=plans(), epoch=st.integers(0, 5), data=st.data())
def test_a_step_has_the_same_rows_for_any_number_of_ranks(plan: Plan, epoch: int, data: Any) -> None:
    ranks = data.draw(st.integers(1, most_ranks(plan)))
    alone = seen(plan, epoch, 0, 1)
    parts = [seen(plan, epoch, rank, ranks) for rank in range(ranks)]
    assert [[row for part in parts for row in part[step]] for step in range(plan.steps)] == alone


@settings(max_examples=100)
@given(plan=plans(), epoch=st.integers(0, 5), data=st.data())
def test_going_on_reads_what_would_have_come(plan: Plan, epoch: int, data: Any) -> None:
    ranks = data.draw(st.integers(1, most_ranks(plan)))
    rank = data.draw(st.integers(0, ranks - 1))
    first = data.draw(st.integers(0, plan.steps))
    assert seen(plan, epoch, rank, ranks, first) == seen(plan, epoch, rank, ranks)[first:]


@given(plan=plans())
def test_steps_differ_by_one_row_at_most(plan: Plan) -> None:
    sizes = [plan.size(step) for step in range(plan.steps)]
    assert sum(sizes) == plan.total
    assert max(sizes) - min(sizes) <= 1


def test_order_is_of_seed_and_epoch() -> None:
    plan, other = Plan((50, 50, 50), 10, seed=1), Plan((50, 50, 50), 10, seed=2)
    orders = [seen(plan, 0, 0, 1), seen(plan, 1, 0, 1), seen(other, 0, 0, 1)]
    assert orders[0] == seen(plan, 0, 0, 1)
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]


def test_a_batch_mixes_the_whole_table() -> None:
    """A table that is sorted by time must not give batches of one hour."""
    plan = Plan((1_000,) * 64, 640, seed=3, window=16_000)
    spread = [np.std(step) / plan.total for step in seen(plan, 0, 0, 1)]
    assert min(spread) > 0.15  # 0.289 for a perfect shuffle, 0.005 for the rows of one row group


def test_no_rows_no_steps() -> None:
    assert Plan((0, 0), 8).steps == 0
    assert seen(Plan((0, 0), 8), 0, 0, 1) == []


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(0, 500), share=st.floats(0.0, 0.9))
def test_held_back_rows_do_not_move(seed: int, rows: int, share: float) -> None:
    mask = held_back(seed, 4, rows, share)
    assert (mask == held_back(seed, 4, rows, share)).all()
    assert mask.sum() <= rows
    assert not (mask & ~held_back(seed, 4, rows, min(1.0, share + 0.1))).any(), "a larger share holds the same back too"
