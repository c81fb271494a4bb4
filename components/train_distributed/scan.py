"""The first reading of the table: what preprocessing learns, which rows are held back, a sample for the bundle.

Each rank reads its share of the row groups. What was learnt is kept beside the checkpoints: a run that goes on reads
only for the held-back rows and the sample.
"""

import contextlib
import fcntl
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.components.data_validate.contract import Contract
from headway.components.errors import TrainingError
from headway.components.train.fit import SAMPLE_ROWS
from headway.components.train_distributed.data import Table
from headway.components.train_distributed.job import Job
from headway.components.train_distributed.plan import LANES, held_back
from headway.components.train_distributed.preprocess import Preprocess, Summary, learn, summarise
from headway.components.train_distributed.pulse import Pulse
from headway.components.train_distributed.spec import DistributedSpec
from headway.components.train_distributed.world import World

if TYPE_CHECKING:
    import pyarrow as pa

LEARNT = "preprocess.json"
LOCK = "lock"
MOST_HELD_BACK = 200_000
_PATIENCE = 20.0
"""Seconds that a new run waits for the last processes of the one before it."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What is known before the first step."""

    learnt: Preprocess
    rows: tuple[int, ...]
    """Training rows of each row group, without the held-back ones."""
    share: float
    """Share of the rows that is held back, 0 to 1."""
    held: "pa.Table | None"
    """The held-back rows that this rank judges, maybe none; None where none are held back."""
    held_back: int
    """Held-back rows of all ranks."""
    sample: "pa.Table"
    """At most 5,000 rows, evenly spaced over the table."""
    lanes: int
    """Lanes of the plan: as the run began with, whatever it goes on with."""


def prepare(job: Job, table: Table, contract: Contract, world: World, pulse: Pulse) -> Scan:
    """Read the table once; every rank calls this.

    Raises:
        SourceError: The table cannot be read or is empty.
        TrainingError: The rows cannot be learnt from.
    """
    import pyarrow as pa

    spec = job.training
    pulse.at("scan")
    known = _known(job, world)
    sizes = [unit.rows for unit in table.units]
    share = held_back_share(spec, sum(sizes))
    counts = [int(held_back(spec.seed, number, rows, share).sum()) if share else 0 for number, rows in enumerate(sizes)]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    wanted = np.linspace(0, starts[-1] - 1, min(SAMPLE_ROWS, int(starts[-1]))).astype(np.int64)
    summaries: dict[int, Summary] = {}
    held: list[pa.Table] = []
    sample: dict[int, pa.Table] = {}
    for number in range(world.rank, len(sizes), world.size):
        if not sizes[number]:
            continue
        rows = table.read(number)
        if known is None:
            summaries[number] = summarise(rows, contract)
        if share:
            held.append(rows.filter(pa.array(held_back(spec.seed, number, rows.num_rows, share))))
        inside = wanted[(wanted >= starts[number]) & (wanted < starts[number + 1])]
        sample[number] = rows.select([*contract.features, contract.require_target()]).take(inside - starts[number])
        pulse.at("scan")
    if share and not held:  # more ranks than row groups: this one judges no row, and takes part all the same
        held.append(table.read(0).slice(0, 0))
    lanes, learnt = known or _learnt(job, contract, world, summaries)
    return Scan(
        learnt=learnt,
        share=share,
        rows=tuple(rows - count for rows, count in zip(sizes, counts, strict=True)),
        held=_joined(held) if held else None,
        held_back=sum(counts),
        sample=_in_order(world.gather(sample)),
        lanes=lanes,
    )


def held_back_share(spec: DistributedSpec, rows: int) -> float:
    """The share of rows to hold back: as the section says, and at most 200,000 rows, which judge as well as more would.

    Example:
        >>> held_back_share(DistributedSpec(trainer="distributed"), 20_000_000)
        0.01
    """
    return min(spec.early_stopping.validation_share, MOST_HELD_BACK / rows) if spec.early_stopping and rows else 0.0


def _learnt(job: Job, contract: Contract, world: World, summaries: dict[int, Summary]) -> tuple[int, Preprocess]:
    """Merge what all ranks have read, in the table's order, and keep it."""
    merged = [found for _, found in sorted(item for part in world.gather(summaries) for item in part.items())]
    learnt = learn(merged, contract, job.training)
    lanes = max(LANES, world.size)
    if world.first:
        job.state.mkdir(parents=True, exist_ok=True)
        document = {"lanes": lanes, "preprocess": learnt.model_dump(mode="json")}
        scratch = job.state / f"{LEARNT}.new"
        scratch.write_text(json.dumps(document), encoding="utf-8")
        scratch.replace(job.state / LEARNT)
    return lanes, learnt


def _known(job: Job, world: World) -> tuple[int, Preprocess] | None:
    """What an earlier run of this job has learnt; rank 0 looks, so that all know the same."""
    path = job.state / LEARNT
    text = world.gather(path.read_text(encoding="utf-8") if world.first and path.is_file() else "")[0]
    if not text:
        return None
    document = json.loads(text)
    return int(document["lanes"]), Preprocess.parse(document["preprocess"], where=str(path))


def _in_order(parts: list[dict[int, Any]]) -> "pa.Table":

    return _joined([found for _, found in sorted(item for part in parts for item in part.items())])


def _joined(tables: "list[pa.Table]") -> "pa.Table":
    """Shards as one table; a column without a value has another type in the shard that some tool wrote."""
    import pyarrow as pa

    return pa.concat_tables(tables, promote_options="permissive")


@contextlib.contextmanager
def only_run(job: Job, world: World) -> Iterator[None]:
    """Keep a second run of the same job away from its checkpoints.

    Raises:
        TrainingError: Another one is training.
    """
    if not world.first:
        yield
        return
    job.state.mkdir(parents=True, exist_ok=True)
    with (job.state / LOCK).open("w") as file:
        give_up = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise TrainingError(
                        f"{job.state}: another run of the same training is at work there",
                        fix="wait for it, cancel it, or change the seed",
                    ) from None
                time.sleep(0.2)
        yield
