"""The training script: one process on a laptop, several under torchrun, or the pods of a job on a cluster.

    python -m headway.components.train_distributed.trainer JOB.json
    torchrun --standalone --nproc-per-node 4 -m headway.components.train_distributed.trainer JOB.json
    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-endpoint HOST:29500 ... -m headway...trainer JOB.json

JOB.json is a `Job` (job.py); a launcher writes it and starts the processes. The knobs, with a reason for each, are the
training section (`DistributedSpec` in spec.py). The same job again goes on where the last one stopped, with any number
of processes; a finished one only judges and writes its bundle again. After SIGTERM all ranks save together and leave
with the exit code 143.
"""

import contextlib
import faulthandler
import inspect
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import record
from torch.nn.parallel import DistributedDataParallel

from headway.components.data_validate.contract import Contract
from headway.components.errors import TrainingError
from headway.components.train_distributed.checkpoint import Checkpoints, State, copy_of, restore, tensors_of
from headway.components.train_distributed.data import Ahead, Reader, Table, batches
from headway.components.train_distributed.delivery import deliver
from headway.components.train_distributed.job import STOPPED, Epoch, Job, Progress
from headway.components.train_distributed.meter import Meter, flops_per_row
from headway.components.train_distributed.networks import build, decayed, loss_sum, size_of
from headway.components.train_distributed.plan import Plan
from headway.components.train_distributed.preprocess import Encoder, Preprocess
from headway.components.train_distributed.pulse import Pulse
from headway.components.train_distributed.scan import only_run, prepare
from headway.components.train_distributed.shared_memory import SharedGradients
from headway.components.train_distributed.spec import DistributedSpec
from headway.components.train_distributed.tensors import Batch, to_batch
from headway.components.train_distributed.world import (
    MARGIN,
    StopSignal,
    World,
    die_with_parent,
    join,
    precision,
    seed_step,
    settle,
)

CPU_MICRO_BATCH = 4_096
"""Rows that a CPU process computes at once; the activations of more do not stay in its caches."""
GPU_CHECK = 10
"""Steps between two looks at the loss on a GPU: each look waits for it."""
BYTES_PER_PARAMETER = 16
"""Weight, gradient and Adam's two averages, 4 bytes each."""
_SAID_EVERY = 1.0
_SYNC_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)
"""DDP's name for it, which torch 2.13 has changed."""


@record
def main() -> None:
    """Train one job as one of its ranks."""
    die_with_parent()
    faulthandler.register(signal.SIGUSR1)  # where it hangs, for the launcher that asks
    job = Job.load(sys.argv[1])
    started = time.perf_counter()
    with join(job.training) as world, Pulse(world.rank, Path(job.folder)) as pulse, only_run(job, world):
        stopped = train(job, world, pulse, started)
    if stopped:
        sys.exit(STOPPED)


def train(job: Job, world: World, pulse: Pulse, started: float) -> bool:
    """Set up, train, and let rank 0 write the bundle.

    Returns:
        Whether the run was stopped by SIGTERM, with its state saved.
    """
    # Set-up ----------------------------------------------------------------------------------------------------------
    spec, contract = job.training, Contract.parse(job.contract)
    stop = StopSignal()
    settle(spec, world)
    dtype = precision(spec, world.device)

    # Data ------------------------------------------------------------------------------------------------------------
    table = Table(job.data, contract)
    scan = prepare(job, table, contract, world, pulse)
    encoder = Encoder(contract, scan.learnt)
    plan = Plan(scan.rows, spec.batch_size, lanes=scan.lanes, seed=spec.seed, window=spec.shuffle_rows)
    reader = Reader(table, encoder, seed=spec.seed, share=scan.share, cache=spec.cache << 20)
    held = to_batch(encoder(scan.held)) if scan.held is not None else None

    # Model -----------------------------------------------------------------------------------------------------------
    plain = build(spec.network, spec.parameters, scan.learnt).to(world.device)
    parameters = size_of(plain)
    cost = flops_per_row(plain, *_example(scan.learnt, world.device))
    if spec.compile:
        plain.network.compile(dynamic=True)
    model, parallel = distribute(plain, spec, world, parameters)
    matrices, others = decayed(model)
    groups = [{"params": matrices, "weight_decay": spec.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=spec.learning_rate, fused=True)

    # Loop ------------------------------------------------------------------------------------------------------------
    checkpoints = Checkpoints(job.state, world, spec.checkpoint.keep)
    run = _Run(spec, world, model, optimizer, plan, scan.learnt, dtype, checkpoints, pulse, stop)
    resumed_at = run.resume()
    while not run.state.finished:
        if not run.epoch(reader, held):
            return True
    checkpoints.finish()

    # Result ----------------------------------------------------------------------------------------------------------
    pulse.at("finish")
    weights = run.final_weights()
    if world.first:
        facts = {
            "processes": world.size,
            "device": str(world.device.type),
            "precision": "bfloat16" if dtype else "float32",
            "parallel": parallel,
            "rows": plan.total,
            "held_back": scan.held_back,
            "parameters": parameters,
            "resumed_at": resumed_at,
            "speed": run.meter.speed(cost, dtype),
        }
        deliver(job, contract, scan, weights, run.state, facts, started)
    return False


def distribute(model: nn.Module, spec: DistributedSpec, world: World, parameters: int) -> tuple[nn.Module, str]:
    """The model over the job's processes, and how: `single`, `ddp` or `fsdp`."""
    if spec.parallel == "fsdp" or (spec.parallel == "auto" and world.size > 1 and _is_too_large(parameters, world)):
        from torch.distributed.fsdp import fully_shard

        for child in model.network.children():
            if any(True for _ in child.parameters()):
                fully_shard(child)
        fully_shard(model)
        return model, "fsdp"
    if world.size == 1:
        return model, "single"
    wrapped = DistributedDataParallel(
        model,
        device_ids=[world.local_rank] if world.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        # Our own buffers never change; only a network that has some needs rank 0's at every step.
        **{_SYNC_BUFFERS: any(True for _ in model.network.buffers())},
    )
    return wrapped, "ddp"


def share_gradients(model: nn.Module, spec: DistributedSpec, world: World) -> SharedGradients | None:
    """Let the ranks of one CPU machine exchange gradients through shared memory; None where DDP does it itself."""
    if not isinstance(model, DistributedDataParallel):
        return None
    size = sum(one.numel() * one.element_size() for one in model.parameters() if one.requires_grad)
    shared = SharedGradients.between(world, size, spec.patience + MARGIN)
    if shared is not None:
        model.register_comm_hook(None, shared.hook)
    return shared


def _is_too_large(parameters: int, world: World) -> bool:
    """Whether a copy with gradients and averages takes more than half of what a process has."""
    if world.device.type == "cuda":
        memory = int(torch.cuda.get_device_properties(world.device).total_memory)
    else:
        memory = (
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        )
    return parameters * BYTES_PER_PARAMETER > memory / 2


def learning_rate(spec: DistributedSpec, step: int, steps: int) -> float:
    """The learning rate of a step.

    Args:
        spec: The training section.
        step: Counts from 0.
        steps: Of all epochs.

    Example:
        >>> spec = DistributedSpec(trainer="distributed", learning_rate=1.0, warmup=0.1)
        >>> [round(learning_rate(spec, step, 100), 3) for step in (0, 4, 9, 55, 99)]
        [0.1, 0.5, 1.0, 0.5, 0.0]
    """
    warm = round(spec.warmup * steps)
    if step < warm:
        return spec.learning_rate * (step + 1) / warm
    if spec.schedule == "constant":
        return spec.learning_rate
    return spec.learning_rate * 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


class _Run:
    """One run from its first step, or from a checkpoint, to its last."""

    def __init__(
        self,
        spec: DistributedSpec,
        world: World,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        plan: Plan,
        learnt: Preprocess,
        dtype: torch.dtype | None,
        checkpoints: Checkpoints,
        pulse: Pulse,
        stop: StopSignal,
    ) -> None:
        self.spec, self.world, self.model, self.optimizer, self.plan = spec, world, model, optimizer, plan
        self.task, self.dtype, self.checkpoints, self.pulse, self.stop = learnt.task, dtype, checkpoints, pulse, stop
        self.shared = share_gradients(model, spec, world)
        self.state = State()
        self.meter = Meter(world)
        self.steps = spec.epochs * plan.steps
        self._best = copy_of(tensors_of(model, optimizer, None)["model"]) if spec.early_stopping else None
        self._loss = 0.0
        self._said = time.perf_counter()
        self._asked: tuple[Any, torch.Tensor] | None = None
        micro = spec.micro_batch or (CPU_MICRO_BATCH if world.device.type == "cpu" else spec.batch_size)
        self._micro = max(1, micro)

    def resume(self) -> int:
        """Take over from the newest complete checkpoint; the step at which it was, 0 where there is none."""
        found = self.world.gather([path.name for path in self.checkpoints.complete()])[0]
        if not found:
            return 0
        tensors = tensors_of(self.model, self.optimizer, self._best)
        self.state = self.checkpoints.load(tensors, self.checkpoints.folder / found[-1])
        restore(self.model, self.optimizer, tensors)
        # The sum is over all ranks, and one of them carries it on.
        self._loss = self.state.loss_sum if self.world.first else 0.0
        return self.state.step

    def epoch(self, reader: Reader, held: Batch | None) -> bool:
        """Train to the end of the current epoch and judge it; False where SIGTERM stopped it, with the state saved."""
        number, first = divmod(self.state.step, self.plan.steps)
        rows = batches(self.plan, reader, epoch=number, rank=self.world.rank, ranks=self.world.size, first=first)
        pin = self.world.device.type == "cuda"
        share = ceil(self.spec.batch_size / self.world.size)
        ahead = Ahead(rows, lambda item: (item[0], to_batch(item[1], pin=pin)), rows=share)
        self.model.train()
        self.meter.skip()
        waited = saved = 0.0
        stopping = False
        try:
            for size, batch in ahead:
                self._step(size, batch.to(self.world.device))
                stopping = self._agreed_to_stop()
                inside = self.state.step % self.plan.steps > 0
                if inside and (stopping or self.state.step % self.spec.checkpoint.every == 0):
                    self._save(wait=stopping)
                if stopping:
                    break
                self.meter.step(size, ahead.waited - waited, self.checkpoints.waited - saved)
                waited, saved = ahead.waited, self.checkpoints.waited
                self._say(number)
                self.pulse.at("data", self.state.step)
        finally:
            ahead.close()
        if self.state.step % self.plan.steps == 0:
            self._end_epoch(number, held, save=stopping)
        if stopping and self.world.first:
            sys.stdout.write(f"stopped at step {self.state.step}: state saved\n")
        return not stopping

    def final_weights(self) -> dict[str, torch.Tensor]:
        """The whole weights of the best epoch on rank 0, on the CPU; every rank calls this."""
        weights = self._best if self._best is not None else tensors_of(self.model, self.optimizer, None)["model"]
        return {name: _whole(value) for name, value in weights.items()}

    def _step(self, size: int, batch: Batch) -> None:
        step = self.state.step
        seed_step(self.spec, self.world, step)
        if self.shared is not None:
            self.shared.wants_to_stop = self.stop.came
        rate = learning_rate(self.spec, step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Computed from the step's size, not from this rank's rows: FSDP's ranks must cut alike.
        pieces = batch.split(ceil(ceil(size / self.world.size) / self._micro))
        total = torch.zeros((), dtype=torch.float64, device=self.world.device)
        for number, piece in enumerate(pieces):
            with self._synchronised(number == len(pieces) - 1):
                self.pulse.at("forward", step)
                loss = self._loss_of(self.model, piece)
                self.pulse.at("backward", step)
                # DDP and FSDP take the mean over ranks; the loss is the mean over the rows of the step.
                (loss * (self.world.size / size)).backward()
            total += loss.detach()
        self.pulse.at("update", step)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.clip or math.inf)
        self._check(total, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._loss = self._loss + (total if self.world.device.type == "cuda" else float(total))
        self.state = self.state.model_copy(update={"step": step + 1})

    def _loss_of(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        with torch.autocast(self.world.device.type, self.dtype, enabled=self.dtype is not None):
            outputs = model(batch.numbers, batch.codes)
        return loss_sum(outputs, batch.target, batch.weights, self.task)

    @contextlib.contextmanager
    def _synchronised(self, last: bool) -> Iterator[None]:
        """Add gradients up on this rank alone until the last piece of a step."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            with self.model.no_sync():
                yield
            return
        if hasattr(self.model, "set_requires_gradient_sync"):
            self.model.set_requires_gradient_sync(last)
        yield

    def _check(self, total: torch.Tensor, norm: torch.Tensor, *, now: bool = False) -> None:
        """Refuse to go on from a loss or a gradient that is no number."""
        if self.world.device.type == "cuda" and not now and self.state.step % GPU_CHECK:
            return
        loss, length = float(total), float(_whole(norm))
        if math.isfinite(loss) and math.isfinite(length):
            return
        epoch = self.state.step // self.plan.steps + 1
        what = "loss" if not math.isfinite(loss) else "gradient"
        if what == "gradient" and self.world.size > 1:
            # Gradients are shared: most likely another rank has the loss that is no number, and shall say so first.
            time.sleep(2.0)
        raise TrainingError(
            f"The {what} is no finite number at step {self.state.step + 1} (epoch {epoch}) on rank {self.world.rank}",
            expected="finite numbers",
            fix="lower `learning_rate`, set `clip`, or look for extreme values in the target; nothing was saved of it",
        )

    def _agreed_to_stop(self) -> bool:
        """Whether SIGTERM had come to any rank; asked at one step and answered at the next, so that no step waits."""
        if self.world.size == 1:
            return self.stop.came
        if self.shared is not None:  # it went with the gradients
            return self.shared.stops
        answer = False
        if self._asked is not None:
            work, flag = self._asked
            work.wait()
            answer = bool(flag.item())
        flag = torch.tensor(int(self.stop.came))
        self._asked = dist.all_reduce(flag, group=self.world.control, async_op=True), flag
        return answer

    def _save(self, *, wait: bool = False) -> None:
        self.pulse.at("save", self.state.step)
        (loss,) = self.world.sum([float(self._loss)])
        self.state = self.state.model_copy(update={"loss_sum": loss})
        self.checkpoints.save(tensors_of(self.model, self.optimizer, self._best), self.state, wait=wait)

    def _end_epoch(self, number: int, held: Batch | None, *, save: bool) -> None:
        self.pulse.at("validate", self.state.step)
        (loss,) = self.world.sum([float(self._loss)])
        epoch = Epoch(
            epoch=number + 1,
            step=self.state.step,
            loss=loss / self.plan.total,
            validation_loss=None if held is None else self._judge(held),
            learning_rate=learning_rate(self.spec, self.state.step - 1, self.steps),
            rows_per_second=self.meter.rows_per_second,
        )
        better = epoch.validation_loss is None or epoch.validation_loss < self.state.best or not self.state.best_epoch
        best_epoch = epoch.epoch if better else self.state.best_epoch
        if better and self._best is not None:
            self._best = copy_of(tensors_of(self.model, self.optimizer, None)["model"])
        stopping = self.spec.early_stopping
        gave_up = stopping is not None and epoch.epoch - best_epoch >= stopping.patience
        self._loss = 0.0
        self.state = self.state.model_copy(
            update={
                "loss_sum": 0.0,
                "epochs": [*self.state.epochs, epoch],
                "best_epoch": best_epoch,
                "finished": gave_up or epoch.epoch == self.spec.epochs,
            }
        )
        self._say(number, epoch.validation_loss, always=True)
        if save or self.state.finished or self.state.step % self.spec.checkpoint.every == 0:
            self._save(wait=save or self.state.finished)

    @torch.no_grad()
    def _judge(self, held: Batch) -> float:
        """The mean loss on the held-back rows of all ranks."""
        self.model.eval()
        inner = self.model.module if isinstance(self.model, DistributedDataParallel) else self.model
        pieces = max(self.world.gather(-(-len(held) // self._micro)))
        total = weight = 0.0
        for piece in held.split(pieces):
            self.pulse.at("validate", self.state.step)
            total += float(self._loss_of(inner, piece.to(self.world.device)))
            weight += float(len(piece) if piece.weights is None else piece.weights.sum())
        total, weight = self.world.sum([total, weight])
        loss = total / weight if weight else math.nan
        if not math.isfinite(loss):
            raise TrainingError(f"The loss on the held-back rows is no finite number after step {self.state.step}")
        return loss

    def _say(self, epoch: int, validation_loss: float | None = None, *, always: bool = False) -> None:
        """A line of progress from rank 0, about once a second and at the end of an epoch."""
        now = time.perf_counter()
        if not self.world.first or (now - self._said < _SAID_EVERY and not always):
            return
        done = self.state.step - epoch * self.plan.steps
        mean = (
            self.state.epochs[-1].loss
            if always
            else float(self._loss) * self.world.size / max(1, done * self.plan.total // self.plan.steps)
        )
        line = Progress(
            epoch=epoch + 1,
            epochs=self.spec.epochs,
            step=self.state.step,
            steps=self.steps,
            loss=mean,
            rows_per_second=self.meter.rows_per_second,
            data_share=self.meter.data_share,
            learning_rate=learning_rate(self.spec, self.state.step - 1, self.steps),
            validation_loss=validation_loss,
        )
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        self._said = now


def _whole(value: torch.Tensor) -> torch.Tensor:
    """A tensor that may be divided over ranks, whole and on the CPU."""
    found: torch.Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return found.detach().cpu()


def _example(learnt: Preprocess, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """A few rows of the right shapes, for counting operations."""
    rows = 16
    return (
        torch.zeros(rows, len(learnt.means), device=device),
        torch.zeros(rows, len(learnt.sizes), dtype=torch.int64, device=device),
    )


if __name__ == "__main__":
    main()
