"""The MLflow run of a training job: rank 0 writes the curves and the bundle, the step that started it the live line."""

import time
from pathlib import Path
from typing import Any

from headway.components.settings import Settings
from headway.components.train.tracking import Run, existing_run
from headway.components.train_distributed.job import Job, Progress, Result


def log_result(job: Job, result: Result, bundle: Path, settings: Settings) -> None:
    """Write what a job made into its run: curves by step, figures, the bundle.

    Raises:
        PlatformError: MLflow did not take it.
    """
    run = existing_run(job.run_id, settings)
    points = []
    for epoch in result.epochs:
        values: dict[str, float | None] = {
            "training_loss": epoch.loss,
            "validation_loss": epoch.validation_loss,
            "epoch_rows_per_second": epoch.rows_per_second,
            "learning_rate": epoch.learning_rate,
        }
        points += [(name, value, epoch.step) for name, value in values.items() if value is not None]
    run.log_points(points)
    drawn = {name for name, _, _ in points}
    run.log(
        metrics={name: value for name, value in scalars(result).items() if name not in drawn},
        tags={
            "headway.digest": result.digest,
            "headway.formats": ",".join(result.formats),
            "headway.onnx_note": result.onnx_note,
            "headway.device": result.device,
            "headway.parallel": result.parallel,
            "headway.precision": result.precision,
            "headway.weights": result.weights,
        },
    )
    run.log_bundle(bundle)


def scalars(result: Result) -> dict[str, float]:
    """The figures of a result by name, as MLflow and the run page show them; those that people look for come first."""
    errors = {name: value for name, value in result.metrics.items() if name.startswith(("validation_", "training_"))}
    found: dict[str, Any] = dict(sorted(errors.items(), reverse=True))
    if result.speed is not None:
        found["rows_per_second"] = result.speed.rows_per_second
    found |= result.metrics
    found |= {
        "parameters": result.parameters,
        "processes": result.processes,
        "steps": result.steps,
        "epochs": len(result.epochs),
        "best_epoch": result.best_epoch,
        "onnx_difference": result.parity,
    }
    if result.speed is not None:
        speed = result.speed
        found |= {
            "step_seconds": speed.step_seconds,
            "step_seconds_p95": speed.step_seconds_p95,
            "data_share": speed.data_share,
            "checkpoint_share": speed.checkpoint_share,
            "mfu": speed.mfu,
            "gpu_memory": speed.gpu_memory,
            "gpu_utilisation": speed.gpu_utilisation,
        }
    return {name: float(value) for name, value in found.items() if value is not None}


class LiveCurve:
    """Sends progress to the run while training goes on, at most every ten seconds.

    Args:
        run: The step's run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._sent = 0.0

    def __call__(self, progress: Progress) -> None:
        """Note one line of progress."""
        if time.monotonic() - self._sent < 10.0:
            return
        self._sent = time.monotonic()
        values = {"live_loss": progress.loss, "live_rows_per_second": progress.rows_per_second}
        self._run.log_points([(name, value, progress.step) for name, value in values.items()])
