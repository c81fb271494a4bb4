"""Checkpoints with torch.distributed.checkpoint: written beside training, complete only when committed.

    FOLDER/preprocess.json          what was learnt before the first step
    FOLDER/step-000000120/          one checkpoint: tensors in the files of all ranks
                   progress.json    step, losses so far, best epoch
                   .metadata        written last by rank 0: without it the checkpoint does not count

The tensors are stored under the network's own names, whether one process held them, all, or each a part. So a run goes
on with another number of processes, and DDP goes on where FSDP2 was.

The folder is working storage of the job, like its memory: torch's index of a checkpoint is a pickle. Never take one
from somebody else; what leaves a job is the bundle, which holds none.
"""

import re
import shutil
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.optim import Optimizer

from headway.components.config import Config
from headway.components.errors import TrainingError
from headway.components.train_distributed.job import Epoch
from headway.components.train_distributed.world import World

COMMITTED = ".metadata"
PROGRESS = "progress.json"
_NAME = re.compile(r"step-(\d{9})")


class State(Config):
    """Where a run stands, beside its tensors."""

    step: int = 0
    """Optimiser steps done."""
    loss_sum: float = 0.0
    """Training loss of the current epoch so far, summed over its rows."""
    epochs: list[Epoch] = []
    """Epochs done."""
    best_epoch: int = 0
    finished: bool = False

    @property
    def best(self) -> float:
        """The least validation loss so far."""
        found = [epoch.validation_loss for epoch in self.epochs if epoch.epoch == self.best_epoch]
        return found[0] if found and found[0] is not None else float("inf")


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: On storage that every rank sees.
        world: The processes.
        keep: Complete checkpoints that stay.
    """

    def __init__(self, folder: Path, world: World, keep: int) -> None:
        self.folder, self._world, self._keep = folder, world, keep
        self._writing: Future[Any] | None = None
        self.waited = 0.0
        """Seconds that training has waited for checkpoints."""

    def complete(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return [path for path in self._all() if (path / COMMITTED).is_file()]

    def save(self, tensors: dict[str, Any], state: State, *, wait: bool = False) -> None:
        """Write a checkpoint; every rank calls this at the same step.

        Args:
            tensors: `tensors_of` the run.
            state: Where it stands.
            wait: Whether to come back only once it is complete.

        Raises:
            TrainingError: This one or the one before could not be written.
        """
        started = time.perf_counter()
        self.finish()  # one at a time: a second one would wait for the first one's collectives
        path = self.folder / f"step-{state.step:09d}"
        if self._world.first:
            path.mkdir(parents=True, exist_ok=True)
            (path / PROGRESS).write_text(state.model_dump_json(), encoding="utf-8")
        self._writing = dcp.async_save(tensors, checkpoint_id=path, process_group=self._world.saving)
        if wait:
            self.finish()
        self.waited += time.perf_counter() - started

    def finish(self) -> None:
        """Wait until the checkpoint that is being written is complete, and remove those that it replaces."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        try:
            writing.result()
        except Exception as error:
            raise TrainingError(f"{self.folder}: a checkpoint could not be written: {error}") from error
        if self._world.first:
            self._remove_old()

    def load(self, tensors: dict[str, Any], path: Path) -> State:
        """Fill tensors from a checkpoint, in place.

        Raises:
            TrainingError: It does not fit, or cannot be read.
        """
        try:
            dcp.load(tensors, checkpoint_id=path, process_group=self._world.saving)
            return State.model_validate_json((path / PROGRESS).read_text(encoding="utf-8"))
        except Exception as error:
            raise TrainingError(
                f"{path}: cannot be read: {error}", fix="remove the folder to begin from the checkpoint before it"
            ) from error

    def _all(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if _NAME.fullmatch(path.name))

    def _remove_old(self) -> None:
        complete = self.complete()
        kept = set(complete[-self._keep :])
        for path in self._all():
            # What is not complete and older than the newest complete one was cut off in an earlier run.
            if path not in kept and path < complete[-1]:
                shutil.rmtree(path, ignore_errors=True)


def tensors_of(model: nn.Module, optimizer: Optimizer, best: dict[str, Any] | None) -> dict[str, Any]:
    """The tensors of a run under names that do not depend on how it is divided.

    Args:
        model: The network, wrapped or not.
        optimizer: Its optimiser. The groups' settings are left out: they follow from the section and the step.
        best: The best epoch's weights, where they are kept.
    """
    weights, inner = get_state_dict(model, optimizer)
    found: dict[str, Any] = {"model": weights, "optimizer": inner["state"]}
    return found if best is None else found | {"best": best}


def restore(model: nn.Module, optimizer: Optimizer, tensors: dict[str, Any]) -> None:
    """Put the tensors that `Checkpoints.load` has filled into the run."""
    _, inner = get_state_dict(model, optimizer)
    set_state_dict(
        model,
        optimizer,
        model_state_dict=tensors["model"],
        optim_state_dict={"state": tensors["optimizer"], "param_groups": inner["param_groups"]},
    )


def copy_of(tensors: dict[str, Any]) -> dict[str, Any]:
    """The same tensors, untouched by further training."""
    return {name: value.detach().clone() for name, value in tensors.items()}


def weights_digest(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 of named tensors, their shapes included."""
    from hashlib import sha256

    digest = sha256()
    for name in sorted(weights):
        array = weights[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
