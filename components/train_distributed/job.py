"""What the trainer is told, and what it tells: a job document in, progress lines and a result document out.

The launchers and the trainer run in different processes, often on different machines. All that passes between them is
here: a folder that every rank sees, and lines on standard output.

    FOLDER/job.json            the job
    FOLDER/<fingerprint>/      preprocessing and checkpoints of this very job
    FOLDER/rank-<n>.json       what rank n does right now, for whoever wonders why nothing moves
    FOLDER/result.json         the result, written last
"""

import json
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from headway.components.bundle import Lineage
from headway.components.config import Config
from headway.components.data_validate.contract import Contract
from headway.components.train_distributed.spec import DistributedSpec

JOB, RESULT = "job.json", "result.json"
STOPPED = 143
"""The exit code after SIGTERM, once the state is saved: 128 + 15, for Kubernetes "ended as asked"."""
PHASES = ("start", "scan", "data", "forward", "backward", "update", "validate", "save", "finish")
"""What a rank may be doing, in the order of a step; of ranks at one step, the one that others wait for is the first."""

_PLACE_ONLY = {
    "placement", "parallel", "micro_batch", "compile", "cache", "checkpoint", "patience", "onnx", "parity_tolerance",
}  # fmt: skip
"""Keys of the training section that change where and how, not what is learnt: a run resumes across a change of them."""


class Job(Config):
    """One training job, as every rank reads it."""

    document: ClassVar[str] = "training job"

    name: str
    """The model's name."""
    contract: str
    """The data contract as YAML text."""
    training: DistributedSpec
    data: str
    """The training part: a Parquet file or a folder of them, as a path or an fsspec address; every rank reads it."""
    output: str
    """Where the bundle goes: a path, or an fsspec address."""
    folder: str
    """Working folder on storage that every rank sees."""
    lineage: Lineage
    profile: str = ""
    """The training part's profile, kept in the bundle; a path or an address."""
    run_id: str = ""
    """The MLflow run that rank 0 writes into; empty writes into none."""

    @property
    def fingerprint(self) -> str:
        """What names the state of this job: the same data, contract and settings of learning, and nothing else.

        The number of processes is not part of it: a run goes on with another one.
        """
        training = self.training.model_dump_json(exclude=_PLACE_ONLY)
        return _fingerprint(self.contract, self.lineage.data_digest, training)

    @property
    def state(self) -> Path:
        """Where preprocessing and checkpoints of this very job lie."""
        return Path(self.folder) / self.fingerprint

    def write(self) -> Path:
        """Write job.json into the working folder."""
        path = Path(self.folder) / JOB
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.model_dump(mode="json"), indent=2), encoding="utf-8")
        return path


@lru_cache(maxsize=8)
def _fingerprint(contract: str, data_digest: str, training: str) -> str:
    learnt = {"contract": Contract.parse(contract).digest(), "data": data_digest, "training": json.loads(training)}
    return sha256(json.dumps(learnt, sort_keys=True).encode()).hexdigest()[:16]


class Epoch(Config):
    """What one pass over the training rows did."""

    epoch: int
    """Counts from 1."""
    step: int
    """Optimiser steps since the start of training."""
    loss: float
    """Mean training loss: log loss, or the squared error in squared standard deviations of the target."""
    validation_loss: float | None = None
    """The same on the held-back rows; None where none are held back."""
    learning_rate: float
    """At the end of the epoch."""
    rows_per_second: float
    """Over all processes."""


class Speed(Config):
    """How fast it trained; all figures are of rank 0 in this run, without the first steps."""

    rows_per_second: float
    """Over all processes."""
    step_seconds: float
    """Median of one step."""
    step_seconds_p95: float
    data_share: float
    """Share of the wall time in which the step waited for rows, 0 to 1."""
    checkpoint_share: float
    """Share of the wall time in which training waited for a checkpoint, 0 to 1."""
    cores: float
    """Cores that the process kept busy; fewer than its threads where others want them too, or a pod has a limit."""
    flops_per_row: float
    """Floating-point operations that one row costs, forward and backward."""
    mfu: float | None = None
    """Model FLOP utilisation, 0 to 1: what the network needs over what the hardware could do."""
    mfu_against: str = ""
    """What could be done is taken from."""
    gpu_memory: float | None = None
    """Largest share of a GPU's memory in use, 0 to 1."""
    gpu_utilisation: float | None = None
    """Share of time in which the GPU had work, 0 to 1, where the driver tells."""


class Result(Config):
    """What a training job made."""

    document: ClassVar[str] = "training result"

    digest: str
    """The bundle's."""
    formats: list[str]
    parity: float | None
    onnx_note: str
    """Why there is no ONNX file; empty when there is one."""
    task: str
    classes: int
    """How many; 0 in regression."""
    features: int
    parameters: int
    """Trainable numbers of the network."""
    rows: int
    """Rows that were trained on."""
    held_back: int
    """Rows that judged the epochs."""
    processes: int
    device: str
    precision: str
    parallel: str
    epochs: list[Epoch]
    best_epoch: int
    """The epoch whose weights are in the bundle."""
    steps: int
    resumed_at: int
    """The step at which this run took over from a checkpoint; 0 where it began anew."""
    seconds: float
    """Wall time of this run."""
    weights: str
    """SHA-256 of the weights: equal where two runs learnt the same to the last bit."""
    speed: Speed | None = None
    """None where nothing was left to train."""
    metrics: dict[str, float]
    """Error on a sample of the training rows (`training_…`) and on the held-back rows (`validation_…`)."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One line of progress; as text it is `progress epoch=1/20 step=140/977 loss=0.5123 ...`."""

    epoch: int
    epochs: int
    step: int
    """Optimiser steps since the start of training."""
    steps: int
    """Steps until the last epoch ends."""
    loss: float
    """Mean over the steps since the last line."""
    rows_per_second: float
    data_share: float
    """Share of the time in which the step waited for rows, 0 to 1."""
    learning_rate: float
    validation_loss: float | None = None
    """Of the epoch that has just ended."""

    def __str__(self) -> str:
        parts = [
            f"progress epoch={self.epoch}/{self.epochs} step={self.step}/{self.steps} loss={self.loss:.5g}",
            f"rows_per_second={self.rows_per_second:.0f} data_share={self.data_share:.3f}",
            f"learning_rate={self.learning_rate:.3g}",
        ]
        if self.validation_loss is not None:
            parts.append(f"validation_loss={self.validation_loss:.5g}")
        return " ".join(parts)

    @classmethod
    def parse(cls, line: str) -> "Progress | None":
        """The progress in a line of a log; None where the line is anything else.

        Example:
            >>> line = "progress epoch=1/2 step=3/9 loss=0.5 rows_per_second=7 data_share=0 learning_rate=0.1"
            >>> Progress.parse(line).step
            3
        """
        if not line.startswith("progress "):
            return None
        found: dict[str, Any] = dict(_PAIR.findall(line))
        try:
            epoch, epochs = map(int, found["epoch"].split("/"))
            step, steps = map(int, found["step"].split("/"))
            return cls(
                epoch=epoch,
                epochs=epochs,
                step=step,
                steps=steps,
                loss=float(found["loss"]),
                rows_per_second=float(found["rows_per_second"]),
                data_share=float(found["data_share"]),
                learning_rate=float(found["learning_rate"]),
                validation_loss=float(found["validation_loss"]) if "validation_loss" in found else None,
            )
        except (KeyError, ValueError):
            return None


_PAIR = re.compile(r"(\w+)=(\S+)")


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """What one rank does right now."""

    rank: int
    pid: int
    beats: int
    """Signs of life so far: steps, and pieces of work between them."""
    step: int
    phase: str

    def write(self, folder: Path) -> None:
        """Write it in one piece, so that nobody reads half of it."""
        path = folder / f"rank-{self.rank}.json"
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(self.__dict__), encoding="utf-8")
        os.replace(scratch, path)  # noqa: PTH105 - called once a second in the training loop

    @classmethod
    def all_in(cls, folder: Path) -> "list[Heartbeat]":
        """Those of every rank, by rank."""
        found = []
        for path in folder.glob("rank-*.json"):
            try:
                found.append(cls(**json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError, TypeError):
                continue  # it is being written or is of another job; the next look will tell
        return sorted(found, key=lambda beat: beat.rank)

    @property
    def position(self) -> tuple[int, int]:
        """How far it is: of two, the others wait for the lower one."""
        return self.step, PHASES.index(self.phase)
